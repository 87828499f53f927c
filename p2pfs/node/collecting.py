"""Collection: dropping blocks that no pin wants, and every reason not to.

A block goes when it was not put or renewed for `gc_grace`, a walk of all pins did not come by it, and neither did a
second look, after the catalog was compared with every member. Why that is safe: docs/decisions/019.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

from p2pfs import errors, metrics
from p2pfs.core import wire
from p2pfs.core.multihash import Multihash
from p2pfs.node.backlog import NOTHING, Amount, part_of
from p2pfs.node.cluster import Cluster
from p2pfs.node.levelling import Levelling
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer
from p2pfs.store import ages
from p2pfs.store.base import Seen
from p2pfs.store.catalog import ANEW
from p2pfs.store.inventory import Inventory

log = logging.getLogger(__name__)

MOST = 50_000
"""Blocks that one pass collects: they are kept in memory, some 10 MB, until all reasons against it were looked for."""
LACKING = (
    "the catalog was begun anew while there were blocks already: put catalog.jsonl back and restart the node, or let "
    "it meet a member that knows the pins"
)
CLOCK_S = 60.0
"""A member whose clock is further off holds up collection: ages cannot be trusted."""

Unwanted = list[tuple[Multihash, Seen]]


class Haul:
    """What a pass found that no pin wants."""

    def __init__(self, oldest_ns: int) -> None:
        """`oldest_ns`: what is younger has to wait."""
        self._oldest_ns = oldest_ns
        self.rows: Unwanted = []
        """Old enough; MOST at most, the rest is for the next pass."""
        self.left = NOTHING
        """Old enough as well, and not among the rows."""
        self.young = NOTHING

    def add(self, unwanted: Unwanted) -> None:
        """These were found, too."""
        for block, seen in unwanted:
            if seen.token > self._oldest_ns:
                self.young = self.young.plus(1, seen.size)
            elif len(self.rows) < MOST:
                self.rows.append((block, seen))
            else:
                self.left = self.left.plus(1, seen.size)


class Collection:
    """What looks for reasons against collecting, and drops what a pass found unwanted."""

    def __init__(self, local: LocalStore, cluster: Cluster, levelling: Levelling) -> None:
        self._local = local
        self._cluster = cluster
        self._levelling = levelling
        self._pinning = levelling.pinning
        self._past_ms = 0
        """No block is kept any more for what was removed before."""

    def haul(self, grace_s: float) -> Haul:
        """For what a pass finds."""
        oldest_ns = ages.now_ns() - int(grace_s * 1e9)
        self._past_ms = max(0, oldest_ns // 1_000_000)
        return Haul(oldest_ns)

    def obstacle(self) -> str:
        """Why nothing may be collected now; empty when it may."""
        cluster = self._cluster
        if cluster.knows_nobody:
            return "none of the seeds was met yet: they may know pins that are not known here"
        if away := cluster.absent():
            names = ", ".join(member.name for member in away)
            return f"{names}: away, and may know pins that are not known here; bring it back, or strike it (forget)"
        if unmet := cluster.membership.unmet():
            row, teller = unmet[0]
            more = f", and {len(unmet) - 1} more" if len(unmet) > 1 else ""
            place = ", ".join(row.addresses)
            says = f"{cluster.name_of(teller)} says that it is a member"
            return f"{row.name} at {place}{more}: {says}, and it cannot be reached"
        if cluster.membership.left_out:
            return "there are more members than the list has room for; strike those that are gone (forget), and restart"
        if self._lacks_records() and not cluster.live_peers():
            return LACKING
        return ""

    def meet_all(self) -> str:
        """Compare catalogs and clocks with every member; what speaks against collecting, empty when nothing does."""
        if missed := self._levelling.compare_all(self._past_ms):
            reasons = ", ".join(f"{name} ({why})" for name, why in missed.items())
            return f"the catalog could not be compared with {reasons}"
        for peer in self._cluster.live_peers():
            if abs(peer.clock_ahead_s) > CLOCK_S:
                return f"the clock of {peer.member.name} is {peer.clock_ahead_s:+.0f} s off ours; set up NTP"
        if self._lacks_records():
            if not any(_has_records(peer) for peer in self._cluster.live_peers()):
                return LACKING
            self._pinning.run(self._pinning.catalog.remember, ANEW, "no")
        return ""

    def _lacks_records(self) -> bool:
        return self._pinning.run(self._pinning.catalog.lacks_records)

    def drop(self, old: Unwanted, inventory: Inventory, is_dry: bool) -> Amount:
        """Look again, and drop what is still not in the inventory and was not renewed. How much that is."""
        parts: dict[int, Unwanted] = collections.defaultdict(list)
        for block, seen in old:
            parts[part_of(block)].append((block, seen))
        total = Amount()
        for part, rows in parts.items():
            gone = self._local.run(_drop, self._local.store.discard, inventory, part, rows, is_dry)
            total = total.plus(gone.blocks, gone.bytes)
        if not is_dry:
            metrics.BLOCKS_COLLECTED.inc(total.blocks)
        return total


def _has_records(peer: Peer) -> bool:
    """A member whose catalog was not begun anew itself; what it knows is known here, after a comparison."""
    try:
        answer = wire.parse_json(peer.call("probe", lambda it: it.request("HEALTH")), dict)
    except errors.P2pfsError as error:
        log.info("%s does not say whether its catalog is whole: %s", peer.member.name, error)
        return False
    return answer.get("lacks_records") is False


def _drop(
    discard: Callable[[Multihash, int], bool], inventory: Inventory, part: int, rows: Unwanted, is_dry: bool
) -> Amount:
    live = inventory.bucket(part)
    gone = [
        seen.size for block, seen in rows
        if block not in live and (is_dry or discard(block, seen.token))
    ]
    return Amount(len(gone), sum(gone))
