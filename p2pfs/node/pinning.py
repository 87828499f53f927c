"""The catalog on every node: pins are made here, pushed to everybody at once, and compared for what was missed."""

from __future__ import annotations

import logging
import math
import random
import re
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from p2pfs import errors, green, metrics
from p2pfs.core import hlc, pins, wire
from p2pfs.core.pins import Pin
from p2pfs.net.connection import Connection
from p2pfs.node.cluster import Cluster
from p2pfs.node.peers import Peer
from p2pfs.store.catalog import COMPARED, Catalog, Digests
from p2pfs.store.snapshot import write_snapshot

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PUSH_S = 10.0
STRAGGLER_S = 1.0
COMPARE_S = 60.0
"""One comparison, of a bucket after the other; what a new member lacks goes in several."""
KEEP_MS = 60_000
"""How often the time of the last comparison with a member is written down."""
BATCH = 250
"""Records of one PIN message: of 3.7 KiB at most each (a name of 1024 bytes, escaped in JSON), it stays under 1 MiB."""
_DIGEST = re.compile(rb"[0-9a-f]{32}")
BUCKET_BYTES = 32 * 1024 * 1024
"""Of one answer to BUCKET: some hundred thousand records, where a catalog of two million has eight thousand."""
LEFT_OUT_MOST = 10_000
"""A comparison ends after so many records that found no room: they would only come again with the next one."""
FULL_LOG_S = 60.0
SLICE = 100
"""Records of others that are read, or merged, before somebody else has a turn: some milliseconds."""
JOURNAL_S = 5.0
"""How often to look whether the journal wants to be written anew."""
JOURNAL_RETRY_S = 60.0


def wall_ms() -> int:
    """Wall clock in milliseconds."""
    return int(time.time() * 1000)


class Pinning:
    """The catalog for greenlets (one native thread does all SQLite), its clock, and its exchange with the others."""

    def __init__(
        self, catalog: Catalog, cluster: Cluster, snapshot: Path, sync_interval_s: float,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.catalog = catalog
        self._cluster = cluster
        self._snapshot = snapshot
        self._sync_interval_s = sync_interval_s
        self._thread = green.NativePool("catalog", 1)
        catalog.keep_journal(snapshot)
        self._now_ms = now_ms
        self._clock = hlc.Clock(now_ms(), catalog.newest_stamp())
        self._group = green.Group("catalog")
        self._compared: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._soon: set[str] = set()
        self._wake = green.Event()
        self._full_logged = -math.inf
        self._turns: weakref.WeakValueDictionary[str, green.Semaphore] = weakref.WeakValueDictionary()
        self.on_change: Callable[[list[Pin]], None] | None = None
        """Called on the hub with the records that a merge changed; must not block."""

    def start(self) -> None:
        """Begin to compare with others, and to keep the journal short."""
        self._group.loop("sync", self._sync)
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
            if self.catalog.quarantined != before:
                self._compared.clear()
                self._kept.clear()
                for peer in self._cluster.live_peers():
                    self.sync_soon(peer.member.id)

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
        return self._clock.tick(self._now_ms())

    def merge(self, records: Iterable[Pin]) -> list[Pin]:
        """Merge records, durably; those that changed something. One from too far in the future is left out."""
        good = []
        for pin in records:
            try:
                self._clock.observe(pin.stamp, self._now_ms())
                good.append(pin)
            except errors.Refused as error:
                log.warning("catalog record %r of node %s refused: %s", pin.name, pin.origin, error)
        left_out = self.catalog.left_out
        changed = self.run(self.catalog.merge, good)
        if self.catalog.left_out != left_out and time.monotonic() - self._full_logged > FULL_LOG_S:
            self._full_logged = time.monotonic()
            log.warning("%s; %d records were left out so far", self._full_text(), self.catalog.left_out)
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

    def _full_text(self) -> str:
        return f"the catalog is full with {self.catalog.max_records} records; see [storage] max_pins"

    def check_room(self) -> None:
        """Before anything is stored for a new pin. Raises NoSpace when the catalog is full."""
        if self.catalog.is_full:
            raise errors.NoSpace(self._full_text())

    def over(self, records: Iterable[Pin]) -> list[Pin]:
        """The records, with stamps that outrank what is known under their keys: some may be ahead of our clock."""
        records = list(records)
        return [
            pin if known is None else pin._replace(stamp=max(pin.stamp, known.stamp + 1))
            for pin, known in zip(records, self._known(records), strict=True)
        ]

    def _known(self, records: list[Pin]) -> list[Pin | None]:
        """What is here under the keys of these."""
        return self.run(lambda: [self.catalog.record(pin.key) for pin in records])

    def without_room(self, records: list[Pin]) -> int:
        """How many of these, which were to be merged, are not here: a full catalog took no new ones."""
        taken = [pin for pin in records if not self.is_refused(pin)]
        return self._known(taken).count(None)

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
        return hlc.ms_of(pin.stamp) - self._now_ms() > hlc.MAX_AHEAD_MS

    def publish(self, records: list[Pin], quorum: int | None = None) -> list[str]:
        """Merge here and push to every member that answers; ids of the nodes that have it durably, ours among them.

        With a `quorum`, once so many have it the others get STRAGGLER_S more; they get it by comparison.
        Raises Refused when this node's stamps are too far ahead of its clock for anybody to take them, NoSpace when
        the catalog is full.
        """
        for pin in records:
            self._clock.observe(pin.stamp, self._now_ms())
        self.merge(records)
        if self.without_room(records):
            raise errors.NoSpace(self._full_text())
        holders = [self._cluster.id]
        body = wire.dump_json([pin.to_wire() for pin in records])

        def push(peer: Peer) -> None:
            try:
                answer = peer.call("catalog", lambda connection: connection.request("PIN", body=body), PUSH_S)
                told = wire.parse_json(answer, dict)
                if told.get("refused"):
                    raise errors.Refused("it takes no stamp so far in the future; check the clocks of both nodes")
                if told.get("full"):
                    raise errors.NoSpace("its catalog is full; see [storage] max_pins there")
                holders.append(peer.member.id)
            except errors.P2pfsError as error:
                log.warning("%s did not take a catalog record, it will by comparison: %s", peer.member.name, error)

        pushes = [self._group.spawn(f"push-{peer.member.name}", push, peer) for peer in self._cluster.live_peers()]
        end = time.monotonic() + PUSH_S
        while (left_s := end - time.monotonic()) > 0 and not all(it.dead for it in pushes):
            green.wait([it for it in pushes if not it.dead], left_s, 1)
            if quorum is not None and len(holders) >= quorum:
                end, quorum = min(end, time.monotonic() + STRAGGLER_S), None
        return list(holders)

    # --- comparison ----------------------------------------------------------------------------------

    def sync_soon(self, id: str) -> None:
        """A member came (back): compare with it at once."""
        self._soon.add(id)
        self._wake.set()

    def _sync(self) -> float:
        self._wake.wait(self._sync_interval_s * random.uniform(0.8, 1.2))
        self._wake.clear()
        ids = list(self._soon)
        self._soon.clear()
        peers = self._cluster.live_peers()
        if not ids and peers:
            ids = [random.choice(peers).member.id]
        for peer in peers:
            if peer.member.id in ids:
                try:
                    self.compare(peer)
                except errors.P2pfsError as error:
                    log.warning("cannot compare catalogs with %s: %s", peer.member.name, error)
        return 0.0

    def compare_all(self) -> list[str]:
        """Compare with every member now; names of those with whom that failed, those that are away among them.

        Takes a little more than COMPARE_S at most.
        """
        peers = self._cluster.live_peers()
        levelled: set[str] = set()

        def level(peer: Peer) -> None:
            try:
                self.compare(peer)
                levelled.add(peer.member.id)
            except errors.P2pfsError as error:
                log.warning("cannot compare catalogs with %s: %s", peer.member.name, error)

        green.wait([self._group.spawn(f"compare-{peer.member.name}", level, peer) for peer in peers], 2 * COMPARE_S)
        others = [member for member in self._cluster.members() if member.id != self._cluster.id]
        return [member.name for member in others if member.id not in levelled]

    def compare(self, peer: Peer) -> None:
        """Take over what a peer has and we lack, give it what it lacks; look at its clock. Raises P2pfsError.

        Two that were apart for longer than tombstones live do not bring back what the other one removed.
        """
        end, begin_ms, id = time.monotonic() + COMPARE_S, self._now_ms(), peer.member.id
        peer.read_clock()
        theirs = parse_digests(peer.call("catalog", lambda connection: connection.request("DIGESTS")))
        ours = self.run(self.catalog.digests)
        compared_ms = self._compared_ms(id)
        given_up: list[Pin] = []
        is_level = True
        left_out = self.catalog.left_out
        for number in range(pins.BUCKETS):
            if time.monotonic() > end:
                raise errors.DeadlinePassed(f"levelling bucket {number} of {pins.BUCKETS} after {COMPARE_S:g} s")
            if self.catalog.left_out - left_out > LEFT_OUT_MOST:
                raise errors.NoSpace(self._full_text())
            if theirs.buckets[number] == ours.buckets[number]:
                continue
            here, there = self._differences(peer, number)
            left_there = pins.outlived(there, here, compared_ms, ours.purged_ms)
            left_here = pins.outlived(here, there, compared_ms, theirs.purged_ms)
            self.take_in(list(set(there).difference(left_there)), id)
            settled, live_there = {*there, *left_here}, {pin.key for pin in there if not pin.removed}
            self._send(peer, [
                pin for pin in here if pin not in settled
                and (pin.key in live_there or not pins.is_past(pin, theirs.purged_ms))
            ])
            given_up += left_here
            is_level = is_level and not left_there  # they will give them up when they compare with us
        if given_up:
            self._give_up(peer.member.name, given_up)
        if is_level:
            self._note_comparison(id, begin_ms)

    def _differences(self, peer: Peer, number: int) -> tuple[list[Pin], list[Pin]]:
        """The records of a bucket that only this node has, and those that only the peer has."""
        ours = b"".join(self.run(self.catalog.bucket_digests, number))
        there: list[Pin] = []

        def use(connection: Connection) -> bytes:
            answer = connection.stream("BUCKET", number, body=ours)
            left = BUCKET_BYTES
            for part in answer:
                left -= len(part)
                if left < 0:
                    raise errors.TooBig(f"over {BUCKET_BYTES} bytes of records in bucket {number}")
                there.extend(self.read(part))
            return answer.result

        alone = pins.split_digests(peer.call("catalog", use))
        return self.run(self.catalog.pick, number, alone), there

    @staticmethod
    def _send(peer: Peer, records: list[Pin]) -> None:
        for start in range(0, len(records), BATCH):
            body = wire.dump_json([pin.to_wire() for pin in records[start : start + BATCH]])
            peer.call("catalog", lambda connection, body=body: connection.request("PIN", body=body))  # type: ignore[misc]

    # --- tombstones that are gone ---------------------------------------------------------------------

    def _compared_ms(self, id: str) -> int:
        """When the last comparison with a member began that left no difference; 0: none did."""
        if id not in self._compared:
            kept = int(self.run(self.catalog.recall, COMPARED + id) or 0)
            self._compared[id] = self._kept[id] = kept
        return self._compared[id]

    def _note_comparison(self, id: str, begin_ms: int) -> None:
        self._compared[id] = begin_ms
        if not 0 <= begin_ms - self._kept[id] < KEEP_MS:
            self.run(self.catalog.remember, COMPARED + id, str(begin_ms))
            self._kept[id] = begin_ms

    def _give_up(self, name: str, records: list[Pin]) -> None:
        """Remove what was removed elsewhere while we were away; into a file first, for the operator."""
        path = self._snapshot.with_name(f"catalog-dropped-{self._now_ms()}.jsonl")
        self.run(write_snapshot, path, records, len(records))
        log.warning(
            "%d pins were removed while this node was away, longer ago than tombstones live: %s lacks them, so they "
            "are removed here too; they are written to %s", len(records), name, path,
        )
        # The smallest later stamp: whoever wrote the pin again meanwhile holds the newer record.
        self.merge([pin._replace(removed=True, stamp=pin.stamp + 1, origin=self._cluster.id) for pin in records])

    def purge(self, life_s: float) -> int:
        """Let go of tombstones older than `life_s` seconds; how many went.

        None go while a member is away or catalogs cannot be compared with all: somebody may not know yet what they say.
        """
        until_ms = pins.horizon_ms(self._now_ms(), life_s)
        oldest = self.run(self.catalog.oldest_removed)
        if oldest is None or not pins.is_past(oldest, until_ms) or self._cluster.absent():
            return 0
        if missed := self.compare_all():
            log.info("old tombstones stay: the catalog could not be compared with %s", ", ".join(missed))
            return 0
        gone = self.run(self.catalog.purge, until_ms)
        log.info("let go of %d old tombstones", gone)
        return gone

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


def parse_digests(body: bytes) -> Digests:
    """256 lines of 32 hex digits, and one of milliseconds in decimal. Raises ProtocolError."""
    *lines, purged = body.split(b"\n")
    if len(lines) != pins.BUCKETS or not all(map(_DIGEST.fullmatch, lines)):
        raise errors.ProtocolError("an answer to DIGESTS has 256 lines of 32 hex digits and one of milliseconds")
    if not purged.isdigit() or len(purged) > 15:
        raise errors.ProtocolError("the last line of an answer to DIGESTS is no number of milliseconds")
    return Digests([int(line, 16) for line in lines], int(purged))


def format_digests(digests: Digests) -> bytes:
    """The answer to DIGESTS."""
    return b"\n".join([*(b"%032x" % digest for digest in digests.buckets), b"%d" % digests.purged_ms])
