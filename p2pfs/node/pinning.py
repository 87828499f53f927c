"""The catalog on every node: pins are made here, pushed to everybody at once, and compared for what was missed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from p2pfs import errors, green, metrics
from p2pfs.core import hlc, pins, wire
from p2pfs.core.pins import Pin
from p2pfs.node.cluster import Cluster
from p2pfs.node.peers import Peer
from p2pfs.store.catalog import Catalog

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PUSH_S = 10.0
COMPARE_S = 60.0
"""One comparison, of a bucket after the other; what a new member lacks goes in several."""
BATCH = 250
"""Records of one PIN message: of 3.7 KiB at most each (a name of 1024 bytes, escaped in JSON), it stays under 1 MiB."""
SNAPSHOT_S = 30.0
SNAPSHOT_SHARE = 100
"""Writing the snapshot may take one part in so many of the catalog's time."""


def wall_ms() -> int:
    """Wall clock in milliseconds."""
    return int(time.time() * 1000)


class Pinning:
    """The catalog for greenlets (one native thread does all SQLite), its clock, and its exchange with the others."""

    def __init__(self, catalog: Catalog, cluster: Cluster, snapshot: Path, sync_interval_s: float) -> None:
        self.catalog = catalog
        self._cluster = cluster
        self._snapshot = snapshot
        self._sync_interval_s = sync_interval_s
        self._thread = green.NativePool("catalog", 1)
        self._clock = hlc.Clock(wall_ms(), catalog.newest_stamp())
        self._group = green.Group("catalog")
        self._is_changed = True
        self._soon: set[str] = set()
        self._wake = green.Event()
        self.on_change: Callable[[list[Pin]], None] | None = None
        """Called on the hub with the records that a merge changed; must not block."""

    def start(self) -> None:
        """Begin to compare with others, and to write the text snapshot."""
        self._group.loop("sync", self._sync)
        self._group.loop("snapshot", self._write_snapshot, first_s=SNAPSHOT_S)

    def stop(self) -> None:
        """Write the snapshot if it is not current, and end. Raises NoSpace when it cannot be written."""
        self._group.close()
        try:
            self._write_snapshot()
        finally:
            self.run(self.catalog.close)
            self._thread.close()

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Any call of the catalog, in its thread."""
        return self._thread.run(job, *args, **kwargs)

    # --- records -------------------------------------------------------------------------------------

    def stamp(self) -> int:
        """A stamp that is newer than every record seen so far."""
        return self._clock.tick(wall_ms())

    def merge(self, records: Iterable[Pin]) -> list[Pin]:
        """Merge records, durably; those that changed something. One from too far in the future is left out."""
        good = []
        for pin in records:
            try:
                self._clock.observe(pin.stamp, wall_ms())
                good.append(pin)
            except errors.Refused as error:
                log.warning("catalog record %r of node %s refused: %s", pin.name, pin.origin, error)
        changed = self.run(self.catalog.merge, good)
        if changed:
            self._is_changed = True
            metrics.PINS.set(self.run(self.catalog.counts).live)
            if self.on_change:
                self.on_change(changed)
        return changed

    def publish(self, records: list[Pin]) -> list[str]:
        """Merge here and push to every member that answers; ids of the nodes that have it durably, ours among them."""
        self.merge(records)
        holders = [self._cluster.id]
        body = wire.dump_json([pin.to_wire() for pin in records])

        def push(peer: Peer) -> None:
            try:
                peer.call("catalog", lambda connection: connection.request("PIN", body=body), PUSH_S)
                holders.append(peer.member.id)
            except errors.P2pfsError as error:
                log.warning("%s did not take a catalog record, it will by comparison: %s", peer.member.name, error)

        green.wait([self._group.spawn(f"push-{p.member.name}", push, p) for p in self._cluster.live_peers()], PUSH_S)
        return holders

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
        """Take over what a peer has and we lack, give it what it lacks. Raises P2pfsError."""
        end = time.monotonic() + COMPARE_S
        answer = peer.call("catalog", lambda connection: connection.request("DIGESTS"))
        theirs = parse_digests(answer)
        ours = self.run(self.catalog.bucket_digests)
        for number in range(pins.BUCKETS):
            if time.monotonic() > end:
                raise errors.DeadlinePassed(f"levelling bucket {number} of {pins.BUCKETS} after {COMPARE_S:g} s")
            if theirs[number] != ours[number]:
                self._level(peer, number)

    def _level(self, peer: Peer, number: int) -> None:
        def use(stream: Iterator[bytes]) -> list[Pin]:
            return [Pin.from_wire(row) for part in stream for row in wire.parse_json(part, list)]

        theirs = peer.call("catalog", lambda connection: use(connection.stream("BUCKET", number)))
        self.merge(theirs)
        known = set(theirs)
        lacking = [pin for pin in self.run(self.catalog.bucket, number) if pin not in known]
        for start in range(0, len(lacking), BATCH):
            body = wire.dump_json([pin.to_wire() for pin in lacking[start : start + BATCH]])
            peer.call("catalog", lambda connection, body=body: connection.request("PIN", body=body))  # type: ignore[misc]

    def _write_snapshot(self) -> float:
        begin = time.monotonic()
        if self._is_changed:
            self._is_changed = False
            try:
                self.run(self.catalog.write_snapshot, self._snapshot)
            except errors.P2pfsError:
                self._is_changed = True
                raise
        # A large catalog takes seconds, in which no pin is made: so the less often.
        return max(SNAPSHOT_S, SNAPSHOT_SHARE * (time.monotonic() - begin))


def parse_digests(body: bytes) -> list[int]:
    """256 lines of 32 hex digits. Raises ProtocolError."""
    lines = body.split(b"\n")
    if len(lines) != pins.BUCKETS or any(len(line) != 32 for line in lines):
        raise errors.ProtocolError("an answer to DIGESTS has 256 lines of 32 hex digits")
    try:
        return [int(line, 16) for line in lines]
    except ValueError:
        raise errors.ProtocolError("an answer to DIGESTS has a line that is not hexadecimal") from None


def format_digests(digests: list[int]) -> bytes:
    """The answer to DIGESTS."""
    return b"\n".join(b"%032x" % digest for digest in digests)
