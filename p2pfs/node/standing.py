"""How this node stands to what the pins want: part by part of the digest space, what is missing, surplus or short."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from p2pfs.core.audit import Live, Stand
from p2pfs.core.health import Figures, total
from p2pfs.core.multihash import Multihash
from p2pfs.core.placement import SHARDS
from p2pfs.node.backlog import NOTHING, PARTS, Amount, Backlog, part_of
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Haul
from p2pfs.node.counting import count, give_up
from p2pfs.node.local import LocalStore
from p2pfs.node.pass_report import Report
from p2pfs.store.comparing import Comparison, compare, compare_some
from p2pfs.store.inventory import Inventory

AT_ONCE = 1024
"""Blocks about which the other members are asked together."""
MOST_LOST = 200
"""Lost blocks of one part that are remembered, to tell which pins are hurt; all are counted."""
SHARDS_A_PART = SHARDS // PARTS


class Standing:
    """What the last comparison of each part came to; what is missing goes to the backlog."""

    def __init__(self, local: LocalStore, cluster: Cluster, backlog: Backlog) -> None:
        self._local = local
        self._cluster = cluster
        self._backlog = backlog
        self._figures = [Figures()] * PARTS
        self._surplus = [NOTHING] * PARTS
        self._lost: list[list[Live]] = [[]] * PARTS

    @property
    def figures(self) -> Figures:
        """What this node is in charge of, and what it has still to fetch."""
        missing, displaced = self._backlog.missing, self._backlog.displaced
        return total(self._figures)._replace(
            missing_blocks=missing.blocks - displaced.blocks, missing_bytes=missing.bytes - displaced.bytes,
            displaced_blocks=displaced.blocks, displaced_bytes=displaced.bytes,
        )

    @property
    def surplus(self) -> Amount:
        """Blocks here that others own, and did not confirm to hold when they were asked last."""
        return Amount(sum(it.blocks for it in self._surplus), sum(it.bytes for it in self._surplus))

    @property
    def lost(self) -> dict[Multihash, Live]:
        """Blocks in our charge that no member has."""
        return {live.block: live for lives in self._lost for live in lives}

    @property
    def unsettled(self) -> list[int]:
        """The parts in which something is not as it should be."""
        return [
            part for part in range(PARTS)
            if self._figures[part].below_blocks or self._surplus[part].blocks or self._backlog.is_missing_in(part)
        ]

    def stand(self) -> Callable[[int], Stand]:
        """Where this node stands in each shard, as of now; callable from native threads."""
        cluster = self._cluster
        reachable = frozenset(member.id for member in cluster.members() if member.is_reachable)
        possible = cluster.limited(1 << 16)
        return functools.cache(lambda shard: Stand(cluster.id, cluster.order(shard), reachable, possible))

    def compare(
        self, inventory: Inventory, parts: Sequence[int], report: Report, haul: Haul, progress: Callable[[int], None]
    ) -> None:
        """Each of these parts in turn; what no pin wants goes to the haul. `progress` gets the number of parts done."""
        gathered: dict[int, Comparison] = {}
        size = 0
        for done, part in enumerate(self._backlog.in_turn(parts), 1):
            live, found = self._local.run(_look_at, self._local, inventory, part, self.stand())
            report.blocks += live.blocks
            report.bytes += live.bytes
            kept = _amount(it.size for it in found.kept)
            report.waiting = report.waiting.plus(kept.blocks, kept.bytes)
            self._backlog.replace(part, found.missing)
            haul.add(found.unwanted)
            # Without the rest: after a large `rm` nothing is asked for a long time, and all of it would be in memory.
            gathered[part] = found._replace(missing=[], unwanted=[], kept=[])
            size += sum(len(alike.lives) for alike in found.counted) + len(found.surplus)
            if size >= AT_ONCE or done == len(parts):
                self._ask_about(gathered, report)
                gathered, size = {}, 0
            progress(done)

    def _ask_about(self, gathered: dict[int, Comparison], report: Report) -> None:
        """Count copies, and give up what others hold."""
        stand_in = self.stand()
        counted = count(self._cluster, stand_in, (row for found in gathered.values() for row in found.counted))
        done = give_up(self._local, self._cluster, stand_in, [row for it in gathered.values() for row in it.surplus])
        for part, found in gathered.items():
            self._figures[part] = counted.figures.get(part, Figures())
            self._lost[part] = [live for live in counted.lost if part_of(live.block) == part][:MOST_LOST]
            self._surplus[part] = _amount(seen.size for live, seen in found.surplus if live.block not in done)
            went = _amount(seen.size for live, seen in found.surplus if live.block in done and not live.is_branch)
            report.given_up = report.given_up.plus(went.blocks, went.bytes)

    def add(self, lives: dict[Multihash, Live]) -> None:
        """These are wanted since the last comparison, too."""
        found = self._local.run(compare_some, self._local.store, lives, self.stand())
        self._backlog.add(found.missing)
        # At once: a node that drains would not count as drained until the next look, for each branch that came.
        done = give_up(self._local, self._cluster, self.stand(), found.surplus)
        for live, seen in found.surplus:
            if live.block not in done:
                part = part_of(live.block)
                self._surplus[part] = self._surplus[part].plus(1, seen.size)
        for part, figures in count(self._cluster, self.stand(), found.counted).figures.items():
            self._figures[part] = total([self._figures[part], figures])


def _look_at(
    local: LocalStore, inventory: Inventory, part: int, stand_in: Callable[[int], Stand]
) -> tuple[Amount, Comparison]:
    """One part: how much is wanted of it, and what was found. Runs in a native thread."""
    live = inventory.bucket(part)
    shards = range(part * SHARDS_A_PART, (part + 1) * SHARDS_A_PART)
    return _amount(it.size for it in live.values() if it.copies), compare(local.store, live, shards, stand_in)


def _amount(sizes: Iterable[int]) -> Amount:
    known = list(sizes)
    return Amount(len(known), sum(known))
