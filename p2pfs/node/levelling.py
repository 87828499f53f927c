"""Catalogs are compared with those of other members, a random one from time to time: what was missed comes, and goes.

Digests of 256 buckets are compared first, then those of the records in the buckets that differ (decision 028).
"""

from __future__ import annotations

import logging
import random
import re
import time
from pathlib import Path

from p2pfs import errors, green
from p2pfs.core import pins, wire
from p2pfs.core.pins import Pin
from p2pfs.net.connection import Connection
from p2pfs.node.cluster import Cluster
from p2pfs.node.levels import Levels, parse_seen
from p2pfs.node.peer import Peer
from p2pfs.node.pinning import BATCH, Pinning, not_taken
from p2pfs.store.catalog import Digests
from p2pfs.store.snapshot import write_snapshot

log = logging.getLogger(__name__)

COMPARE_S = 60.0
"""One comparison, of a bucket after the other; what a new member lacks goes in several."""
HAND_OVER_S = 5.0
"""What a node that is stopped while it drains may spend on asking who knows its pins."""
BUCKET_BYTES = 32 * 1024 * 1024
"""Of one answer to BUCKET: some hundred thousand records, where a catalog of two million has eight thousand."""
LEFT_OUT_MOST = 10_000
"""A comparison ends after so many records that found no room: they would only come again with the next one."""
ALL_PAST = 2**63
"""No tombstone is newer: whoever has no room for one has no pin either that it would remove."""
SILENT = "it did not answer in time"
AHEAD = "it has records from over a day in the future; check the clocks of both nodes"
_DIGEST = re.compile(rb"[0-9a-f]{32}")


class Levelling:
    """Makes this node's catalog and those of the others equal, and knows since when each of them is."""

    def __init__(self, pinning: Pinning, cluster: Cluster, folder: Path, sync_interval_s: float) -> None:
        """`folder`: for the pins that are given up."""
        self.pinning = pinning
        self._catalog = pinning.catalog
        self._cluster = cluster
        self._folder = folder
        self._sync_interval_s = sync_interval_s
        self.levels = Levels(pinning, cluster.id)
        self._soon: set[str] = set()
        self._wake = green.Event()
        self._group = green.Group("levelling")
        pinning.on_begin_anew = self._begin_anew

    def start(self) -> None:
        """Begin to compare with others."""
        self._group.loop("sync", self._sync)

    def stop(self) -> None:
        """End."""
        self._group.close()

    def _begin_anew(self) -> None:
        self.levels.forget()
        for peer in self._cluster.live_peers():
            self.sync_soon(peer.member.id)

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
                self._try_compare(peer)
        return 0.0

    def compare_all(self, past_ms: int = 0) -> dict[str, str]:
        """Compare with every member now; names of those with whom that failed, and why: who is away is among them.

        Takes a little more than COMPARE_S at most. `past_ms`: as for `compare`.
        """
        asked = {
            peer.member.id: self._group.spawn(f"compare-{peer.member.name}", self._try_compare, peer, past_ms)
            for peer in self._cluster.live_peers()
        }
        green.wait(list(asked.values()), 2 * COMPARE_S)
        missed = {}
        for member in self._cluster.members():
            if member.id not in asked:
                why = "" if member.id == self._cluster.id else "it is away"
            else:
                said: str | None = asked[member.id].value
                why = SILENT if said is None else said
            if why:
                missed[member.name] = why
        return missed

    def is_known_elsewhere(self, copies: int) -> bool:
        """Do so many of the members that stay know every pin that is live here? They are given what they lack first.

        Takes HAND_OVER_S at most; what is not sent by then goes on.
        """
        asked = [
            self._group.spawn(f"hand-over-{peer.member.name}", self._is_known_to, peer)
            for peer in self._cluster.live_peers() if not peer.member.drains
        ]
        green.wait(asked, HAND_OVER_S)
        return sum(it.value is True for it in asked) >= copies

    def _is_known_to(self, peer: Peer) -> bool:
        self._try_compare(peer)
        end = time.monotonic() + COMPARE_S
        try:
            theirs = parse_digests(peer.call("catalog", lambda connection: connection.request("DIGESTS"))).buckets
            ours = self.pinning.run(self._catalog.digests).buckets
            for number in range(pins.BUCKETS):
                if theirs[number] != ours[number]:
                    here, there = self._differences(peer, number, end)
                    known = {pin.key for pin in there}
                    if not all(pin.removed or pin.key in known for pin in here):
                        return False
        except errors.P2pfsError as error:
            log.warning("cannot tell which pins %s knows: %s", peer.member.name, error)
            return False
        return True

    def _try_compare(self, peer: Peer, past_ms: int = 0) -> str:
        """What went wrong; empty when nothing did."""
        try:
            self.compare(peer, past_ms)
        except errors.P2pfsError as error:
            log.warning("cannot compare catalogs with %s: %s", peer.member.name, error)
            return str(error) or type(error).__name__
        return ""

    def compare(self, peer: Peer, past_ms: int = 0) -> None:
        """Take over what a peer has and we lack, give it what it lacks; look at its clock. Raises P2pfsError.

        Two that were apart for longer than tombstones live do not bring back what the other one removed. Where one
        did not take a record of the other they are not equal: NoSpace or Refused, when all else is done. But where a
        full catalog has no room for tombstones from before `past_ms`, of pins that it never had, that is all right.
        """
        end, begin_ms, id = time.monotonic() + COMPARE_S, self.pinning.now_ms(), peer.member.id
        quarantined = self._catalog.quarantined
        peer.read_clock()
        told = self._ask_seen(peer)  # before all else: what it has seen by now, its catalog says below
        theirs = parse_digests(peer.call("catalog", lambda connection: connection.request("DIGESTS")))
        ours = self.pinning.run(self._catalog.digests)
        our_sight, their_sight = self.levels.sights(id, told)
        given_up: list[Pin] = []
        is_level = True
        wrong: errors.P2pfsError | None = None
        left_out = self._catalog.left_out
        for number in range(pins.BUCKETS):
            if time.monotonic() > end:
                raise errors.DeadlinePassed(f"levelling bucket {number} of {pins.BUCKETS} after {COMPARE_S:g} s")
            if self._catalog.left_out - left_out > LEFT_OUT_MOST:
                raise errors.NoSpace(f"{self.pinning.full_text()} on this node")
            if theirs.buckets[number] == ours.buckets[number]:
                continue
            here, there = self._differences(peer, number, end)
            left_there = pins.outlived(there, here, our_sight, ours.purged_ms)
            left_here = pins.outlived(here, there, their_sight, theirs.purged_ms)
            wrong = self._take_in(list(set(there).difference(left_there)), id, past_ms) or wrong
            settled, live_there = {*there, *left_here}, {pin.key for pin in there if not pin.removed}
            wanted = [
                pin for pin in here if pin not in settled
                and (pin.key in live_there or not pins.is_past(pin, theirs.purged_ms))
            ]
            wrong = self._send(peer, wanted, past_ms) or wrong
            given_up += left_here
            is_level = is_level and not left_there  # they will give them up when they compare with us
        if given_up:
            self._give_up(peer.member.name, given_up)
        if wrong:
            raise wrong
        if is_level:
            # By the clock that is behind: what either of them writes from now on is younger.
            self.levels.note(id, begin_ms + min(0, round(peer.clock_ahead_s * 1000)), told, quarantined)

    @staticmethod
    def _ask_seen(peer: Peer) -> dict[str, int] | None:
        return parse_seen(peer.call("catalog", lambda connection: connection.request("PIN", body=wire.dump_json([]))))

    def _differences(self, peer: Peer, number: int, end: float) -> tuple[list[Pin], list[Pin]]:
        """The records of a bucket that only this node has, and those that only the peer has. Until `end` at most."""
        ours = b"".join(self.pinning.run(self._catalog.bucket_digests, number))
        there: list[Pin] = []

        def use(connection: Connection) -> bytes:
            answer = connection.stream("BUCKET", number, body=ours)
            left = BUCKET_BYTES
            for part in answer:
                left -= len(part)
                if left < 0:
                    raise errors.TooBig(f"over {BUCKET_BYTES} bytes of records in bucket {number}")
                there.extend(self.pinning.read(part))
            return answer.result

        # Each part may come in its time, and there be no last one.
        with green.deadline(max(0.0, end - time.monotonic()), f"levelling bucket {number} of {pins.BUCKETS}"):
            alone = pins.split_digests(peer.call("catalog", use))
        return self.pinning.run(self._catalog.pick, number, alone), there

    def _take_in(self, records: list[Pin], id: str, past_ms: int) -> errors.P2pfsError | None:
        """Merge a member's records; what is wrong when not all were taken."""
        is_ahead = any(map(self.pinning.is_refused, records))
        self.pinning.take_in(records, id)
        if self.pinning.without_room(records, past_ms):
            return errors.NoSpace(f"{self.pinning.full_text()} on this node")
        return errors.Refused(AHEAD) if is_ahead else None

    @staticmethod
    def _send(peer: Peer, records: list[Pin], past_ms: int) -> errors.P2pfsError | None:
        """Have a member merge records; what is wrong when it did not take all."""
        wrong = None
        past = [pin for pin in records if pins.is_past(pin, past_ms)]
        needed = [pin for pin in records if not pins.is_past(pin, past_ms)]
        for some in (needed, past):
            for start in range(0, len(some), BATCH):
                body = wire.dump_json([pin.to_wire() for pin in some[start : start + BATCH]])
                answer = peer.call("catalog", lambda connection, body=body: connection.request("PIN", body=body))  # type: ignore[misc]
                lack = not_taken(answer)
                wrong = wrong if some is past and isinstance(lack, errors.NoSpace) else lack or wrong
        return wrong

    # --- tombstones that are gone --------------------------------------------------------------------

    def _give_up(self, name: str, records: list[Pin]) -> None:
        """Remove what was removed elsewhere while we were away; into a file first, for the operator."""
        path = self._folder / f"catalog-dropped-{self.pinning.now_ms()}.jsonl"
        self.pinning.run(write_snapshot, path, records, len(records))
        log.warning(
            "%d pins were removed while this node was away, longer ago than tombstones live: %s lacks them, so they "
            "are removed here too; they are written to %s", len(records), name, path,
        )
        # The smallest later stamp: whoever wrote the pin again meanwhile holds the newer record.
        ours = self._cluster.id
        self.pinning.merge([pin._replace(removed=True, stamp=pin.stamp + 1, origin=ours) for pin in records])

    def purge(self, life_s: float) -> int:
        """Let go of tombstones older than `life_s` seconds; how many went.

        None go while a member is away or catalogs cannot be compared with all: somebody may not know yet what they say.
        """
        until_ms = pins.horizon_ms(self.pinning.now_ms(), life_s)
        oldest = self.pinning.run(self._catalog.oldest_removed)
        if oldest is None or not pins.is_past(oldest, until_ms) or self._cluster.absent():
            return 0
        if missed := self.compare_all(ALL_PAST):
            log.info("old tombstones stay: the catalog could not be compared with %s", ", ".join(missed))
            return 0
        gone = self.pinning.run(self._catalog.purge, until_ms)
        log.info("let go of %d old tombstones", gone)
        return gone


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
