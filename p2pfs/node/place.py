"""Put a block on the nodes that should hold it, and on the next ranks where those cannot."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from p2pfs import errors, green
from p2pfs.core import batches, multihash
from p2pfs.core.cid import CID
from p2pfs.core.multihash import Multihash
from p2pfs.node.buffers import SMALL
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer
from p2pfs.node.renewing import Renewal
from p2pfs.store.jobs import Taken

log = logging.getLogger(__name__)

GRACE_S = 1.0
"""Once the quorum is durable a further copy has this long, or GRACE_TIMES what its node usually needs."""
GRACE_TIMES = 8
SLOW_S = 3.0
"""Below the quorum, the next rank is tried beside a node that needs longer than this."""
LOOK_S = 60.0
ASK_FIRST = 8
"""After so many blocks of one store running that a member lacked, it is sent the next ones unasked."""


class Copies(NamedTuple):
    """Where a block is durable now."""

    holders: tuple[str, ...]
    """Node ids, at least the wanted quorum."""
    is_new: bool
    """Some of them did not have it before."""


Remember = Callable[[CID, str, int], None]
"""Called with a block, a node id and an age token as soon as a copy was written: also when the rest then fails."""


class Expectation:
    """Which members a store still asks before it sends: those that had some of its last blocks (decision 025).

    Who stores something new pays neither for the question nor for the wait; who stores something again sends nothing.
    """

    def __init__(self) -> None:
        self._lacked: collections.Counter[str] = collections.Counter()

    def asks(self, id: str) -> bool:
        """May it have the next block?"""
        return self._lacked[id] < ASK_FIRST

    def note(self, id: str, had: bool) -> None:
        """That member had, or lacked, a block of the store."""
        self._lacked[id] = 0 if had else self._lacked[id] + 1


class _Outcome:
    """What came of a put so far."""

    def __init__(self, cid: CID, remember: Remember) -> None:
        self.cid = cid
        self.holders: list[str] = []
        self.failures: dict[str, errors.P2pfsError] = {}
        self.is_new = False
        self._remember = remember

    def note(self, id: str, token: int | None) -> None:
        """A copy is durable at this node; with a token it was not there before."""
        self.holders.append(id)
        if token is not None:
            self.is_new = True
            self._remember(self.cid, id, token)


@dataclass
class _Put:
    """A copy on its way to one node."""

    begun: float
    greenlet: green.Greenlet
    is_slow: bool = False
    """It is not counted on any more, but still welcome."""


class _Filling:
    """One block on its way to as many nodes at once as copies lack, past those that fail or hang.

    Who hangs costs the block `SLOW_S`, or `GRACE_S` when it is not needed for the quorum, and is avoided from then on:
    an avoided node is asked only for want of others, so it costs a store that much in all, not for each block.
    """

    def __init__(
        self, cluster: Cluster, group: green.Group, outcome: _Outcome, put_at: Callable[[str], int | None],
        wanted: int, quorum: int,
    ) -> None:
        self._cluster = cluster
        self._group = group
        self._outcome = outcome
        self._put_at = put_at
        self._wanted = wanted
        self._quorum = quorum
        done = {*outcome.holders, *outcome.failures}
        self._ranks = [id for id in cluster.willing(outcome.cid.shard) if id not in done]
        self._running: dict[str, _Put] = {}
        self._changed = green.Event()
        self._quorum_at = 0.0
        """When there were copies enough; 0: there are not yet."""

    def run(self) -> None:
        """Until there are `wanted` copies, or nobody is left to ask and to wait for."""
        holders = self._outcome.holders
        try:
            while len(holders) < self._wanted:
                if not self._quorum_at and len(holders) >= self._quorum:
                    self._quorum_at = time.monotonic()
                while (id := self._next()) is not None:
                    self._start(id)
                if not self._running:
                    return
                nearest = min(self._due(id, put) for id, put in self._running.items())
                self._changed.wait(min(LOOK_S, max(0.0, nearest - time.monotonic())))
                self._changed.clear()
                self._judge()
        finally:
            # Nobody may read the buffer any more when this returns, however it does.
            if self._running:
                green.end_all([put.greenlet for put in self._running.values()])

    def _next(self) -> str | None:
        """The next rank to ask now, if any. Beyond the quorum none that is avoided: the audit makes that copy."""
        hoped = len(self._outcome.holders) + sum(not put.is_slow for put in self._running.values())
        if hoped >= self._wanted:
            return None
        for id in self._ranks:
            peer = self._cluster.peers.known(id)
            if peer is None or not peer.is_avoided:
                return id
        return self._ranks[0] if self._ranks and hoped < self._quorum else None

    def _start(self, id: str) -> None:
        self._ranks.remove(id)
        self._running[id] = _Put(time.monotonic(), self._group.spawn("put", self._put, id))

    def _put(self, id: str) -> None:
        try:
            self._outcome.note(id, self._put_at(id))
        except errors.P2pfsError as error:
            self._outcome.failures[id] = error
        finally:
            self._running.pop(id, None)
            self._changed.set()

    def _due(self, id: str, put: _Put) -> float:
        """When to lose patience, on the monotonic clock."""
        if id == self._cluster.id:
            return float("inf")  # a native job cannot be ended, and holds the buffer until it is done
        if self._quorum_at:
            usual_s = self._cluster.peer(id).answer_s
            return max(put.begun, self._quorum_at) + max(GRACE_S, GRACE_TIMES * usual_s)
        return float("inf") if put.is_slow else put.begun + SLOW_S

    def _judge(self) -> None:
        """Give up those that are not needed, and ask for another beside those that are."""
        now = time.monotonic()
        for id, put in list(self._running.items()):
            if id not in self._running or now < self._due(id, put):
                continue  # done meanwhile, or in time
            error = errors.DeadlinePassed(f"did not take a block within {now - put.begun:.1f} s")
            if self._quorum_at:
                put.greenlet.kill()
                self._running.pop(id, None)
                self._outcome.failures[id] = error
            put.is_slow = True
            self._cluster.peer(id).avoid(str(error))


class Placer:
    """Puts blocks. `wanted` copies are tried for, fewer than `quorum` are an error."""

    def __init__(self, local: LocalStore, cluster: Cluster, temp: Path | None = None) -> None:
        """`temp`: a folder for what does not fit in memory."""
        self._local = local
        self._cluster = cluster
        self._group = green.Group("place")
        self._temp = temp

    def is_mine(self, wanted: int) -> Callable[[Multihash], bool]:
        """Should this node hold a block, by its name? A plain lookup, callable from native threads."""
        cluster = self._cluster
        return lambda block: cluster.id in cluster.ranks(multihash.shard_of(block))[:wanted]

    def put(
        self, cid: CID, data: memoryview, wanted: int, quorum: int, remember: Remember,
        taken: Taken | None = None, expected: Expectation | None = None,
    ) -> Copies:
        """Make a block durable on `wanted` nodes, in rank order, those that fail or hang replaced by the next.

        With `quorum` copies the rest gets a short grace only (decision 018). `taken` tells what this node's own disk
        did with it already; `expected` is what the same store has found so far. Raises TooFewNodes, or NoSpace when
        it was room that lacked.
        """
        me = self._cluster.id
        outcome = _Outcome(cid, remember)
        if taken is not None and taken.is_local:
            outcome.note(me, taken.token)
        elif taken is not None and taken.refusal is not None:
            outcome.failures[me] = taken.refusal
        if len(outcome.holders) < wanted:
            expected = expected or Expectation()
            _Filling(
                self._cluster, self._group, outcome, lambda id: self._put_at(id, cid, data, expected), wanted, quorum
            ).run()
        if len(outcome.holders) < quorum:
            raise self._too_few(quorum, outcome)
        return Copies(tuple(outcome.holders), outcome.is_new)

    def put_everywhere(
        self, cid: CID, data: memoryview, quorum: int, remember: Remember, expected: Expectation | None = None
    ) -> Copies:
        """Put a branch on every member that lives: each can then walk every root by itself."""
        return self.put(cid, data, self._cluster.size, quorum, remember, expected=expected)

    def _put_at(self, id: str, cid: CID, data: memoryview, expected: Expectation) -> int | None:
        if id == self._cluster.id:
            return self._local.put(cid.multihash, data, is_verified=True)
        peer = self._cluster.peer(id)
        if len(data) <= SMALL:
            return peer.put_small(cid, bytes(data))
        token = None if expected.asks(id) and peer.has_renewed(cid) else peer.put_block(cid, data)
        expected.note(id, had=token is None)
        return token

    def renewal(
        self, wanted: int, every_s: Callable[[], float], fail: Callable[[str, BaseException], None]
    ) -> Renewal:
        """What keeps the blocks of a store young until its pin is made."""
        return Renewal(self._local, self._cluster, wanted, every_s, fail, self._temp)

    def holds_already(self, cid: CID, wanted: int) -> bool:
        """Is the block on any of the nodes that should hold it? For dry runs: nothing is renewed."""
        for id in self._cluster.ranks(cid.shard)[:wanted]:
            try:
                if id == self._cluster.id:
                    found = self._local.have([cid.multihash])[0]
                else:
                    found = self._cluster.peer(id).have("check", [cid])[0]
            except errors.P2pfsError as error:
                log.info("dry run: %s", error)
                continue
            if found:
                return True
        return False

    def take_back(self, written: dict[str, list[tuple[CID, int]]]) -> None:
        """Remove blocks that a failed store wrote, unless somebody asked for them since. Best effort."""
        for id, blocks in written.items():
            try:
                if id == self._cluster.id:
                    self._local.discard([(cid.multihash, token) for cid, token in blocks])
                else:
                    self._take_back_at(self._cluster.peer(id), blocks)
            except errors.P2pfsError as error:
                log.warning("cannot take back %d blocks at %s: %s", len(blocks), self._cluster.name_of(id), error)

    @staticmethod
    def _take_back_at(peer: Peer, blocks: list[tuple[CID, int]]) -> None:
        for start in range(0, len(blocks), batches.MOST_TOKENS):
            body = batches.pack_tokens(blocks[start : start + batches.MOST_TOKENS])
            peer.call("bulk", lambda connection, body=body: connection.request("DISCARD", body=body))  # type: ignore[misc]

    def _too_few(self, quorum: int, outcome: _Outcome) -> errors.P2pfsError:
        cid, holders, failures = outcome.cid, outcome.holders, outcome.failures
        reasons = "; ".join(f"{self._cluster.name_of(id)}: {error}" for id, error in failures.items())
        absent = [member.name for member in self._cluster.absent()]
        if absent:
            reasons += f"{'; ' if reasons else ''}away: {', '.join(absent)}"
        if any(isinstance(error, errors.NoSpace) for error in failures.values()):
            return errors.NoSpace(f"{len(holders)} of the {quorum} nodes needed have room for {cid} ({reasons})")
        return errors.TooFewNodes(
            f"{len(holders)} of the {quorum} nodes needed took {cid} ({reasons}); bring nodes back, "
            "or ask for less with --replicas or [cluster] write_quorum"
        )
