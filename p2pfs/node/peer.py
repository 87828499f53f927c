"""One of the other members: a few connections a lane, kept open, discarded after any trouble; and what it did.

Three lanes keep urgent and bulky traffic apart: `probe` (SWIM), `catalog` (pins), `bulk` (blocks).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import Counter

from p2pfs import errors, green, metrics
from p2pfs.core import batches, window
from p2pfs.core.cid import CID
from p2pfs.core.membership import Member
from p2pfs.core.window import Window
from p2pfs.net.connection import Connection
from p2pfs.node.batcher import Batcher
from p2pfs.node.hello import Caller, hello
from p2pfs.node.lanes import Lane
from p2pfs.store.base import Outcome

T = TypeVar("T")
SmallBlock = tuple[CID, bytes]
Connect = Callable[[str, str | None], Connection]
"""To an address; who is there must have that id."""

LANES = {"probe": 2, "catalog": 1}
"""Connections to one member, by lane; those of `bulk` follow its delay (`core/window.py`)."""
BULK_ANSWER_S = 15.0
"""Until the first byte of an answer to HAVE, PUT, GET: the other end waits for a buffer and a disk at most."""
AVOID_S = 5.0
"""How long bulk work prefers other members after a connection failed or a deadline passed: at first, then twice as
long each time, until a block comes through."""
AVOID_MOST_S = 60.0
TROUBLE_S = 60.0
"""How long people are told what a member did wrong."""
LOST_MOST = 3
"""A member that in so many races running did not send its block before another one did, hangs."""
HAVE_BATCH = 1024
PUTS_AT_ONCE = 3
"""Batches of small blocks on their way to one member: it says what it lacks of one, is sent another, syncs a third."""
ASK_S = 60.0
"""Until a question that waits for its turn is given up."""


class Peer:
    """A member that we talk to: its lanes, how fast it answers, and whether to avoid it for a while."""

    def __init__(self, member: Member, caller: Caller, connect: Connect, group: green.Group) -> None:
        self.member = member
        self._caller = caller
        self._connect = connect
        self.window = Window()
        """How many blocks travel at once, as the probes measure the way."""
        self._lanes = {name: Lane(self._open, size) for name, size in LANES.items()}
        self._lanes["bulk"] = Lane(self._open, window.MOST, lambda: self.window.size)
        self._renewals: Batcher[CID, bool] = Batcher(
            group, f"have-{member.name}", lambda cids: self.have("renew", cids), HAVE_BATCH
        )
        self._small_puts: Batcher[SmallBlock, int | None] = Batcher(
            group, f"puts-{member.name}", self._put_lacking, batches.BYTES, PUTS_AT_ONCE,
            weigh=lambda block: batches.weight(len(block[1])),
        )
        self.answer_s = 0.01
        """Moving average of the time that a block, or a message of small ones, takes."""
        self.in_flight = 0
        self.avoid_until = 0.0
        self._avoid_s = AVOID_S
        self._lost = 0
        self.last_error = ""
        self._trouble_at = -math.inf
        self.clock_ahead_s = 0.0
        """Its wall clock minus ours, as of the last HELLO."""

    def _open(self) -> Connection:
        failure: errors.P2pfsError = errors.Unreachable(f"{self.member.name} has no address")
        for address in self.member.addresses:
            try:
                connection = self._connect(address, self.member.id)
            except errors.P2pfsError as error:
                failure = error
                continue
            self._introduce(connection)
            return connection
        raise failure

    def _introduce(self, connection: Connection) -> None:
        answer = hello(connection, self._caller)
        self.clock_ahead_s = answer.time_ms / 1000 - time.time()

    def read_clock(self) -> None:
        """Bring `clock_ahead_s` up to date: connections are open for days. Raises as `call`."""
        self.call("catalog", self._introduce)

    def call(self, lane: str, use: Callable[[Connection], T], wait_s: float = 10.0) -> T:
        """Run `use` with a connection of a lane.

        All verbs between members are idempotent, so when a connection that had been idle turns out to be dead, the
        call is made once more over a fresh one.
        """
        try:
            try:
                return self._call(lane, use, wait_s)
            except _Stale:
                return self._call(lane, use, wait_s, is_fresh=True)
        except errors.UnknownVerb:
            raise  # an older version: nothing is wrong with it
        except (errors.Unreachable, errors.DeadlinePassed, errors.IdentityRefused, errors.ProtocolError) as error:
            self.avoid(str(error))
            raise

    def _call(self, lane: str, use: Callable[[Connection], T], wait_s: float, is_fresh: bool = False) -> T:
        def use_it(connection: Connection, is_reused: bool) -> T:
            try:
                return use(connection)
            except errors.Unreachable as error:
                if is_reused:
                    raise _Stale(str(error)) from None
                raise

        return self._lanes[lane].use(use_it, wait_s, is_fresh)

    @property
    def is_avoided(self) -> bool:
        """True for a short while after trouble; others are preferred meanwhile."""
        return time.monotonic() < self.avoid_until

    @property
    def cost(self) -> float:
        """What the next block from here will about cost, in seconds: its usual time, times what is waiting."""
        return self.answer_s * (self.in_flight + 1) + (60.0 if self.is_avoided else 0.0)

    def get_block(self, cid: CID, into: memoryview) -> int:
        """The block's bytes into the buffer, unverified; returns their number. Raises NotFound and the like."""
        return self._move(
            metrics.BLOCKS_FETCHED, 1, lambda it: it.request_into(into, "GET", cid, first_byte_s=BULK_ANSWER_S)
        )

    def put_block(self, cid: CID, data: memoryview) -> int | None:
        """Make the block durable there; its age token when it is new, None when it was there. Raises NoSpace."""
        def put(connection: Connection) -> int | None:
            answer = connection.request("PUT", cid, body=data, first_byte_s=BULK_ANSWER_S)
            outcome = batches.parse_outcome(answer)
            if isinstance(outcome, errors.P2pfsError):
                raise outcome
            return outcome

        return self._move(metrics.BLOCKS_SENT, 1, put)

    def put_blocks(self, blocks: list[SmallBlock]) -> list[Outcome]:
        """Make small blocks durable there, in one message; what became of each, as `BlockStore.put_many` has it."""
        body = batches.pack(blocks)
        answer = self._move(
            metrics.BLOCKS_SENT, len(blocks), lambda it: it.request("PUTS", body=body, first_byte_s=BULK_ANSWER_S)
        )
        return batches.parse_outcomes(answer, len(blocks))

    def put_small(self, cid: CID, data: bytes) -> int | None:
        """As `has_renewed`, and as `put_block` if it is not; what waits meanwhile travels together."""
        return self._small_puts.ask((cid, data), ASK_S)

    def _put_lacking(self, blocks: list[SmallBlock]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(blocks)
        lacking = [number for number, has in enumerate(self.have("renew", [cid for cid, _ in blocks])) if not has]
        if lacking:
            put = self.put_blocks([blocks[number] for number in lacking])
            for number, outcome in zip(lacking, put, strict=True):
                outcomes[number] = outcome
        return outcomes

    def get_blocks(self, cids: list[CID]) -> dict[CID, memoryview]:
        """Those of up to `batches.MOST` small blocks that are there, unverified."""
        body = batches.pack_cids(cids)
        answer = self._move(
            metrics.BLOCKS_FETCHED, len(cids), lambda it: it.request("GETS", body=body, first_byte_s=BULK_ANSWER_S)
        )
        return dict(batches.unpack(memoryview(answer)))

    def avoid(self, why: str) -> None:
        """Prefer others for a while (`p2pfs-cli peers` says why), longer each time until a block comes through."""
        if not self.is_avoided:
            self.avoid_until = time.monotonic() + self._avoid_s
            self._avoid_s = min(AVOID_MOST_S, 2 * self._avoid_s)
        self._note(why)

    def lost_to_a_hedge(self) -> None:
        """It was asked for a block first, was late, and another one sent it. Once is chance."""
        self._lost += 1
        if self._lost >= LOST_MOST:
            self.avoid(f"sent none of the last {self._lost} blocks in time")

    def accuse(self, what: str) -> None:
        """It did something wrong, and not just late: avoid it for long."""
        self.avoid_until = time.monotonic() + AVOID_MOST_S
        self._note(what)

    def _note(self, what: str) -> None:
        self.last_error, self._trouble_at = what, time.monotonic()

    @property
    def trouble(self) -> str:
        """What it did wrong in the last minute, for people; empty for nothing."""
        return self.last_error if time.monotonic() - self._trouble_at < TROUBLE_S else ""

    def _move(self, counter: Counter, blocks: int, use: Callable[[Connection], T]) -> T:
        """Move blocks over a connection: they are counted, `answer_s` and the window learn from it."""
        def travel(connection: Connection) -> T:
            sent = time.monotonic()
            try:
                return use(connection)
            finally:
                self.window.note_block(time.monotonic() - sent)

        self.in_flight += 1
        begin = time.monotonic()
        try:
            moved = self.call("bulk", travel)
        except errors.P2pfsError as error:
            counter.labels(error.token).inc(blocks)
            raise
        finally:
            self.in_flight -= 1
        self.answer_s += (time.monotonic() - begin - self.answer_s) / 8
        self._avoid_s = AVOID_S
        self._lost = 0
        counter.labels("OK").inc(blocks)
        return moved

    def have(self, mode: str, cids: list[CID]) -> list[bool]:
        """Which of up to HAVE_BATCH blocks are there."""
        body = batches.pack_cids(cids)
        answer = self.call("bulk", lambda it: it.request("HAVE", mode, body=body, first_byte_s=BULK_ANSWER_S))
        if len(answer) != len(cids):
            raise errors.ProtocolError(f"{self.member.name} answered HAVE of {len(cids)} with {len(answer)}")
        return [flag == ord("1") for flag in answer]

    def has_renewed(self, cid: CID) -> bool:
        """Is that block there? If so, it is made young. Questions that wait for an answer travel together."""
        return self._renewals.ask(cid, ASK_S)

    def retire(self) -> None:
        """Prove anew who is at the other end: no connection that is open now is used for another call."""
        for lane in self._lanes.values():
            lane.retire()

    def sever(self) -> None:
        """Close every connection: who waits for this peer waits no longer."""
        for lane in self._lanes.values():
            lane.sever()


class _Stale(Exception):
    """A connection that had been idle turned out to be closed by the other end."""
