"""The catalog on every node: pins are made here and pushed to everybody; `levelling.py` gets what was missed."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from p2pfs import errors, green, metrics
from p2pfs.core import hlc, pins, wire
from p2pfs.core.pins import Pin
from p2pfs.node.cluster import Cluster
from p2pfs.node.peer import Peer
from p2pfs.store.catalog import Catalog

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PUSH_S = 10.0
STRAGGLER_S = 1.0
BATCH = 250
"""Records of one PIN message: of 3.7 KiB at most each (a name of 1024 bytes, escaped in JSON), it stays under 1 MiB."""
ATTEMPTS = 3
"""How often a pin is sent, each time with a later stamp since it was removed elsewhere; then that has its way."""
FULL_LOG_S = 60.0
SLICE = 100
"""Records of others that are read, or merged, before somebody else has a turn: some milliseconds."""
JOURNAL_S = 5.0
"""How often to look whether the journal wants to be written anew."""
JOURNAL_RETRY_S = 60.0


def wall_ms() -> int:
    """Wall clock in milliseconds."""
    return int(time.time() * 1000)


def not_taken(answer: bytes) -> errors.P2pfsError | None:
    """By a member's answer to PIN: why it did not take all records. Raises ProtocolError."""
    told = wire.parse_json(answer, dict)
    if told.get("refused"):
        return errors.Refused("it takes no stamp so far in the future; check the clocks of both nodes")
    if told.get("full"):
        return errors.NoSpace("its catalog is full; see [storage] max_pins there")
    return None


def outranked_by(answer: bytes) -> int:
    """By a member's answer to PIN: the stamp of a tombstone there that outranks a record; 0: none.

    Raises ProtocolError.
    """
    stamp = wire.parse_json(answer, dict).get("outranked_by", 0)
    if type(stamp) is not int or not 0 <= stamp < hlc.MAX_STAMP:
        raise errors.ProtocolError(f"a record is outranked by {ascii(stamp)[:60]}")
    return stamp


def _wait(pushes: list[green.Greenlet], seconds: float, is_enough: Callable[[], bool] = lambda: False) -> None:
    """Until all have ended, or enough of them, or that long."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0 and not is_enough() and not all(it.dead for it in pushes):
        green.wait([it for it in pushes if not it.dead], left_s, 1)


class Pinning:
    """The catalog for greenlets (one native thread does all SQLite), and its clock."""

    def __init__(self, catalog: Catalog, cluster: Cluster, journal: Path, now_ms: Callable[[], int] = wall_ms) -> None:
        self.catalog = catalog
        self.now_ms = now_ms
        self._cluster = cluster
        self._thread = green.NativePool("catalog", 1)
        catalog.keep_journal(journal)
        self._clock = hlc.Clock(now_ms(), catalog.newest_stamp())
        self._group = green.Group("catalog")
        self._full_logged = -math.inf
        self._turns: weakref.WeakValueDictionary[str, green.Semaphore] = weakref.WeakValueDictionary()
        self.on_change: Callable[[list[Pin]], None] | None = None
        """Called on the hub with the records that a merge changed; must not block."""
        self.on_begin_anew: Callable[[], None] | None = None
        """Called on the hub when the database was damaged: the records are those of the journal now. Must not block."""

    def start(self) -> None:
        """Begin to keep the journal short."""
        self._group.loop("journal", self._tend_journal)

    def stop(self) -> None:
        """End, and close the catalog. Raises NoSpace when its journal cannot be written; all is closed then, too."""
        self._group.close()
        try:
            self._thread.run(self.catalog.close)
        finally:
            self._thread.close()

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Any call of the catalog, in its thread. If the database turns out to be damaged, it is begun anew first."""
        before = self.catalog.quarantined
        try:
            return self._thread.run(self._run, job, args, kwargs)
        finally:
            if self.catalog.quarantined != before and self.on_begin_anew:
                self.on_begin_anew()

    def _run(self, job: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        catalog = self.catalog
        if not catalog.is_damaged:
            try:
                return job(*args, **kwargs)
            except errors.Corrupt as error:
                if not catalog.is_damaged:
                    raise
                log.error("%s", error)
        catalog.begin_anew()
        return job(*args, **kwargs)

    # --- records -------------------------------------------------------------------------------------

    def stamp(self) -> int:
        """A stamp that is newer than every record seen so far."""
        return self._clock.tick(self.now_ms())

    def merge(self, records: Iterable[Pin]) -> list[Pin]:
        """Merge records, durably; those that changed something. One from too far in the future is left out."""
        good = []
        for pin in records:
            try:
                self._clock.observe(pin.stamp, self.now_ms())
                good.append(pin)
            except errors.Refused as error:
                log.warning("catalog record %r of node %s refused: %s", pin.name, pin.origin, error)
        left_out = self.catalog.left_out
        changed = self.run(self.catalog.merge, good)
        if self.catalog.left_out != left_out and time.monotonic() - self._full_logged > FULL_LOG_S:
            self._full_logged = time.monotonic()
            log.warning("%s; %d records were left out so far", self.full_text(), self.catalog.left_out)
        if changed:
            metrics.PINS.set(self.run(self.catalog.counts).live)
            if self.on_change:
                self.on_change(changed)
        return changed

    def take_in(self, records: list[Pin], whose: str) -> int:
        """As `merge`, of a member's records: in slices, and one message of a member at a time. How many changed."""
        turn = self._turns.get(whose)
        if turn is None:
            turn = self._turns[whose] = green.Semaphore(1)
        with turn:
            return sum(len(self.merge(records[at : at + SLICE])) for at in range(0, len(records), SLICE))

    def full_text(self) -> str:
        """What is wrong when there is no room, and what to do."""
        return f"the catalog is full with {self.catalog.max_records} records; see [storage] max_pins"

    def check_room(self) -> None:
        """Before anything is stored for a new pin. Raises NoSpace when the catalog is full."""
        if self.catalog.is_full:
            raise errors.NoSpace(self.full_text())

    def over(self, records: Iterable[Pin], lowers: bool = True) -> list[Pin]:
        """The records, with stamps that outrank what is known under their keys: some may be ahead of our clock.

        Without `lowers` a pin goes on to want as many copies as it does. A SHA-256 that was known is kept.
        """
        records = list(records)
        return [
            pin if known is None else pin._replace(
                stamp=max(pin.stamp, known.stamp + 1), sha256=pin.sha256 or known.sha256,
                replicas=pin.replicas if lowers or known.removed else max(pin.replicas, known.replicas),
            )
            for pin, known in zip(records, self._known(records), strict=True)
        ]

    def _known(self, records: list[Pin]) -> list[Pin | None]:
        """What is here under the keys of these."""
        found: list[Pin | None] = []
        for at in range(0, len(records), SLICE):
            some = records[at : at + SLICE]
            found += self.run(lambda some=some: [self.catalog.record(pin.key) for pin in some])  # type: ignore[misc]
        return found

    def without_room(self, records: list[Pin], past_ms: int = 0) -> int:
        """How many of these, which were to be merged, are not here: a full catalog took no new ones.

        Tombstones that were let go of here, or are from before `past_ms`, are not missed.
        """
        taken = [pin for pin in records if not self.is_refused(pin)]
        missing = [pin for pin, found in zip(taken, self._known(taken), strict=True) if found is None]
        if not missing:  # nearly always: no second job of the catalog's thread for it
            return 0
        past_ms = max(past_ms, self.run(self.catalog.digests).purged_ms)
        return sum(not pins.is_past(pin, past_ms) for pin in missing)

    def outranked(self, records: list[Pin]) -> int:
        """The latest stamp of the tombstones here that outrank any of these which are live; 0: there are none."""
        live = [pin for pin in records if not pin.removed]
        return max((
            known.stamp for pin, known in zip(live, self._known(live), strict=True)
            if known is not None and known.removed and pins.newer(known, pin)
        ), default=0)

    def read(self, body: bytes) -> list[Pin]:
        """The records of a message. Raises ProtocolError."""
        rows = wire.parse_json(body, list)
        records: list[Pin] = []
        for start in range(0, len(rows), SLICE):
            records += map(Pin.from_wire, rows[start : start + SLICE])
            green.sleep(0)
        return records

    def is_refused(self, pin: Pin) -> bool:
        """Its stamp is so far in the future that `merge` leaves it out."""
        return hlc.ms_of(pin.stamp) - self.now_ms() > hlc.MAX_AHEAD_MS

    def publish(self, records: list[Pin], quorum: int | None = None) -> list[str]:
        """Push to every member that answers, and merge here; ids of the nodes that have it durably, ours among them.

        Those that drain are left out: what they hold goes with them. With a `quorum` it is merged here when so many
        have it with this node, and the others get STRAGGLER_S more; they get it by comparison. When too few of the
        others took it, it is not merged here: what fails is visible at most where it was taken. A pin that is outranked
        by a tombstone of which this node had not heard, one of a clock ahead of ours, gets a later stamp.

        Raises Refused when this node's stamps are too far ahead of its clock for anybody to take them, NoSpace when
        the catalog is full, ProtocolError for a record that nobody could read.
        """
        for row in map(Pin.to_wire, records):
            Pin.from_wire(row)  # once merged, a bad one would end every comparison with this node, for good
        if self.catalog.is_full and None in self._known(records):
            raise errors.NoSpace(self.full_text())
        for left in reversed(range(ATTEMPTS)):
            for pin in records:
                self._clock.observe(pin.stamp, self.now_ms())
            holders, tombstone = self._push(records, quorum, is_last=not left)
            if not tombstone:
                break
            records = [it if it.removed else it._replace(stamp=max(it.stamp, tombstone + 1)) for it in records]
        return holders

    def _push(self, records: list[Pin], quorum: int | None, is_last: bool) -> tuple[list[str], int]:
        """One attempt to `publish`; with the latest stamp of a tombstone that outranks one of the records somewhere.

        Such a one ends it, but for the last.
        """
        holders: list[str] = []
        tombstones = [0]
        rows = [pin.to_wire() for pin in records]
        bodies = [wire.dump_json(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]

        def push(peer: Peer) -> None:
            heard, wrong = 0, None
            try:
                for body in bodies:
                    answer = peer.call("catalog", lambda it, body=body: it.request("PIN", body=body), PUSH_S)  # type: ignore[misc]
                    # To the end: who has no room for one record may have removed another one.
                    heard, wrong = max(heard, outranked_by(answer)), not_taken(answer) or wrong
                if wrong is not None:
                    raise wrong
                if not heard and not peer.member.drains:
                    holders.append(peer.member.id)
            except errors.P2pfsError as error:
                log.warning("%s did not take a catalog record, it will by comparison: %s", peer.member.name, error)
            finally:
                if heard:
                    log.info("%s knows of a later removal of what is pinned here", peer.member.name)
                    tombstones.append(heard)

        pushes = [self._group.spawn(f"push-{peer.member.name}", push, peer) for peer in self._cluster.live_peers()]
        ours = [] if self._cluster.is_draining else [self._cluster.id]
        others = 0 if quorum is None else quorum - len(ours)
        _wait(pushes, PUSH_S, lambda: len(holders) >= others or (len(tombstones) > 1 and not is_last))
        if len(holders) < others:
            return list(holders), max(tombstones)
        if len(self.merge(records)) < len(records):
            tombstones.append(self.outranked(records))  # of one that came here meanwhile, by a comparison
        if self.without_room(records):
            raise errors.NoSpace(self.full_text())
        _wait(pushes, PUSH_S if quorum is None else STRAGGLER_S)
        return ours + holders, max(tombstones)

    # --- the journal ----------------------------------------------------------------------------------

    def _tend_journal(self) -> float:
        steps = self.catalog.journal_steps()
        try:
            begin = time.monotonic()
            while self.run(lambda: next(steps, 0)):
                green.sleep(time.monotonic() - begin)  # pins that are made meanwhile, and others, get their turn
                begin = time.monotonic()
        except errors.NoSpace as error:
            log.warning("%s; again in %g s", error, JOURNAL_RETRY_S)
            return JOURNAL_RETRY_S
        return JOURNAL_S
