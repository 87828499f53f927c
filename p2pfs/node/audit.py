"""The audit: compares what the catalog says with what is on this disk, again and again, and sees that they agree.

A *walk* takes an inventory of all that the pins want; a *comparison* goes through the inventory and the disk part by
part, and from it follow repair, moving in, moving out, and, after a walk, collection. What to do about a block is
decided in `core/audit.py`; here are the order of the work and the times at which it is done.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from p2pfs import errors, green, metrics
from p2pfs.config import Config
from p2pfs.core import wire
from p2pfs.core.audit import Live, Stand
from p2pfs.core.health import Figures, total
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import Pin
from p2pfs.node.backlog import NOTHING, PARTS, Amount, part_of
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Collection, Unwanted
from p2pfs.node.counting import count, give_up
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.losses import LostPin, find_losses
from p2pfs.node.marking import Marking
from p2pfs.node.pass_report import Report, Request
from p2pfs.node.pinning import Pinning
from p2pfs.node.place import Placer
from p2pfs.node.repairing import Repair
from p2pfs.store.comparing import Comparison, compare, compare_some
from p2pfs.store.inventory import Inventory
from p2pfs.store.layout import SHARDS

log = logging.getLogger(__name__)

SETTLE_S = 0.5
"""Changes come in bursts; so long they are waited for."""
REMOVED_S = 10.0
"""Soon after pins were removed the walk is made anew, so that what they wanted is not missed any more."""
REST = 3
"""A pass that took a second is followed by so many seconds of rest, whatever happens."""
REST_MOST_S = 600.0
UNSETTLED_S = 2.0
"""As long as something is missing or waits to be given up, this is the least pause between looks at it."""
FAILED_S = 10.0
AT_ONCE = 1024
"""Blocks about which the other members are asked together."""
RECENT_MOST = 10_000
"""Pins that are looked at one by one when they arrive; if there are more at once, all are walked."""
PAGE = 1000
LISTED = 100
"""Unreadable roots that STATUS names."""
SHARDS_A_PART = SHARDS // PARTS


class Audit:
    """The worker. Everything but the handlers' calls runs in one greenlet; long steps are native jobs."""

    def __init__(
        self, local: LocalStore, cluster: Cluster, fetcher: Fetcher, placer: Placer, pinning: Pinning,
        config: Callable[[], Config],
    ) -> None:
        self._local = local
        self._cluster = cluster
        self._fetcher = fetcher
        self._pinning = pinning
        self._config = config
        self._buffers = BufferPool("audit", 5 * wire.MAX_BLOCK)
        self.repair = Repair(
            local, fetcher, placer, self._buffers, lambda: config().repair.rate,
            lambda live: cluster.limited(live.copies),
        )
        self._collection = Collection(local, cluster, pinning)
        self._group = green.Group("audit")
        self._inventory: Inventory | None = None
        self._walks = 0
        self._figures = [Figures()] * PARTS
        self._reachable: frozenset[str] = frozenset()
        self._surplus = [NOTHING] * PARTS
        """Blocks that others own and did not confirm to hold when they were asked last."""
        self._lost: list[list[Live]] = [[]] * PARTS
        self._lost_blocks: set[Multihash] = set()
        self.lost_pins: list[LostPin] = []
        """Pins below which there are blocks in our charge that no member has."""
        self.report = Report()
        """The last walk that was completed, or the one under way."""
        self.phase, self.done, self.total = "", 0, 0
        self._requests: list[Request] = []
        self._recent: list[Pin] = []
        self._wake = green.Event()
        self._walk_at = self._compare_at = self._rested_at = 0.0
        self._recent_at = self._settle_at = math.inf
        self._changes = 0
        self._compared = -1
        self._last_end: float | None = None

    # --- what calls for work -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, with a walk."""
        self._walk_at = time.monotonic() + SETTLE_S
        self._cluster.on_change = self.members_changed
        self._pinning.on_change = self.pins_changed
        self._local.on_corrupt = self.repair.heal
        self.repair.start()
        self._group.loop("worker", self._step)

    def stop(self) -> None:
        """End in the middle of whatever it is; the next start begins anew, and finds what was done."""
        self._group.close()
        self.repair.stop()
        for request in self._requests:
            request.fail(errors.Interrupted("the node is stopping"))
        if self._inventory is not None:
            self._local.run(self._inventory.close)

    def members_changed(self) -> None:
        """Other members own shards, or can be reached."""
        self._changes += 1
        self._compare_at = min(self._compare_at, time.monotonic() + SETTLE_S)
        self._wake.set()

    def pins_changed(self, pins: list[Pin]) -> None:
        """The catalog has these new records."""
        now = time.monotonic()
        if any(pin.removed for pin in pins):
            self._walk_at = min(self._walk_at, now + REMOVED_S)
        live = [pin for pin in pins if not pin.removed]
        if live and len(self._recent) + len(live) <= RECENT_MOST:
            self._recent += live
            self._recent_at = min(self._recent_at, now + SETTLE_S)
        elif live:
            self._walk_at = now
        self._changes += bool(live)
        self._wake.set()

    def run(self, is_dry: bool = False, is_walk: bool = True) -> Request:
        """Ask for a pass now; wait for the request's `done`. Dry: nothing is collected."""
        request = Request(is_dry, is_walk)
        self._requests.append(request)
        self._wake.set()
        return request

    # --- what is known -------------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """The figures take account of every change that this node knows of."""
        return self._compared == self._changes

    @property
    def is_drained(self) -> bool:
        """This node gives its shards away, and all that it held is where it should be."""
        return self._cluster.membership.me.drains and self.is_current and not self.surplus.blocks

    @property
    def surplus(self) -> Amount:
        """Blocks that others own and did not confirm to hold when they were asked last."""
        return Amount(sum(it.blocks for it in self._surplus), sum(it.bytes for it in self._surplus))

    @property
    def figures(self) -> Figures:
        """What this node is in charge of, and what it has still to fetch."""
        backlog = self.repair.backlog
        missing, displaced = backlog.missing, backlog.displaced
        return total(self._figures)._replace(
            missing_blocks=missing.blocks - displaced.blocks, missing_bytes=missing.bytes - displaced.bytes,
            displaced_blocks=displaced.blocks, displaced_bytes=displaced.bytes,
        )

    def state(self) -> dict[str, Any]:
        """How it goes, for STATUS."""
        return {
            "is_running": bool(self.phase), "phase": self.phase, "done": self.done, "total": self.total,
            "last_end": self._last_end, "last_s": round(self.report.seconds, 3), "is_current": self.is_current,
            "held_up": self.report.held_up, "unreadable": [str(cid) for cid in self.report.unreadable[:LISTED]],
        }

    # --- the worker ----------------------------------------------------------------------------------

    def _step(self) -> float:
        now = time.monotonic()
        if self._requests or now >= max(self._walk_at, self._rested_at):
            first = self._requests[0] if self._requests else Request(is_dry=False, is_walk=True)
            self._answer(first, [it for it in self._requests if it.is_like(first)])
        elif now >= max(self._compare_at, self._rested_at):
            self._pass(is_walk=False, is_dry=True)
        elif now >= max(self._settle_at, self._rested_at):
            self._look_again()
        elif now >= self._recent_at:
            self._look_at_recent()
        else:
            due = min(self._walk_at, self._compare_at, self._settle_at)
            due = min(max(due, self._rested_at), self._recent_at)
            self._wake.wait(max(0.01, due - now))
            self._wake.clear()
        return 0.0

    def _answer(self, kind: Request, requests: list[Request]) -> None:
        try:
            report = self._pass(kind.is_walk, kind.is_dry)
        except errors.P2pfsError as error:
            for request in requests:
                request.fail(error)
            raise
        finally:
            self._requests = [request for request in self._requests if request not in requests]
        for request in requests:
            request.succeed(report)

    def _pass(self, is_walk: bool, is_dry: bool) -> Report:
        """One comparison of everything, after a walk if that is wanted or there was none yet."""
        begin, report = time.monotonic(), Report()
        self._compare_at = begin + FAILED_S
        changes = self._changes
        if is_walk or self._inventory is None:
            self._walk_at = begin + FAILED_S
            self.report = report
            self._walk(report)
            is_walk = True
        unwanted = self._compare(range(PARTS), report)
        if is_walk:
            self._collect(unwanted, report, is_dry)
            self._walk_at = time.monotonic() + self._config().repair.audit_interval
        self._compare_at = math.inf
        self._compared = changes
        report.seconds = time.monotonic() - begin
        self._rest(report.seconds)
        self._publish()
        return report

    def _look_again(self) -> None:
        """Compare those parts only in which something was not as it should be."""
        begin = time.monotonic()
        self._settle_at = begin + FAILED_S
        self._compare(sorted(self._unsettled()), Report())
        self._rest(time.monotonic() - begin)

    def _unsettled(self) -> set[int]:
        backlog = self.repair.backlog
        return {
            part for part in range(PARTS)
            if self._figures[part].below_blocks or self._surplus[part].blocks or backlog.is_missing_in(part)
        }

    def _rest(self, seconds: float) -> None:
        """After a pass of so many seconds: say when to come back at the earliest, and when to look again."""
        self.phase = ""
        now = time.monotonic()
        self._rested_at = now + min(REST * seconds, REST_MOST_S)
        self._settle_at = max(now + UNSETTLED_S, self._rested_at) if self._unsettled() else math.inf

    def _publish(self) -> None:
        figures = self.figures
        metrics.AUDITS.inc()
        self._last_end = round(time.time(), 3)
        metrics.AUDIT_END.set(self._last_end)
        metrics.LEFT_BYTES.set(figures.missing_bytes)
        metrics.BELOW_BLOCKS.set(figures.below_blocks)
        metrics.LOST_BLOCKS.set(figures.lost_blocks)

    # --- walking -------------------------------------------------------------------------------------

    def _walk(self, report: Report) -> None:
        """A new inventory, of all pins and of those that were removed less than `gc_grace` ago."""
        self.phase, self.done = "walk", 0
        self.total = self._pinning.run(self._pinning.catalog.counts).live
        self._recent, self._recent_at = [], math.inf
        self._walks += 1
        inventory = self._local.run(Inventory, self._pinning.catalog.path.parent / "temp" / f"audit-{self._walks % 2}")
        with self._buffers.buffer() as view:
            marking = Marking(self._local, self._fetcher, view, inventory.add)
            self._mark_all(marking, report)
        report.unreadable = marking.unreadable
        old, self._inventory = self._inventory, inventory
        if old is not None:
            self._local.run(old.close)

    def _mark_all(self, marking: Marking, report: Report) -> None:
        catalog, after = self._pinning.catalog, None
        while page := self._pinning.run(catalog.pins, after, PAGE):
            for pin in page:
                marking.mark(pin)
                report.pins += 1
                self.done += 1
            after = page[-1]
        since_ms = int((self._collection.now() - self._config().storage.gc_grace) * 1000)
        after = None
        while page := self._pinning.run(catalog.removed_since, since_ms, after, PAGE):
            for pin in page:
                marking.mark(pin)
            after = page[-1]

    def _look_at_recent(self) -> None:
        """Pins that came since the last walk: only what they want is looked at."""
        changes, begin = self._changes, time.monotonic()
        is_current = self._compared >= changes - len(self._recent)
        found = self._mark_recent()
        if found is None or self._inventory is None:
            return
        comparison = self._local.run(compare_some, self._local.store, found, self._stand_in_now())
        self._add_missing(comparison.missing)
        counted = count(self._cluster, self._stand_in_now(), comparison.counted)
        for part, figures in counted.figures.items():
            self._figures[part] = total([self._figures[part], figures])
        if is_current:
            self._compared = changes
        if self._unsettled():
            self._settle_at = min(self._settle_at, time.monotonic() + UNSETTLED_S)
        self._recent_at = max(self._recent_at, time.monotonic() + REST * (time.monotonic() - begin))

    def _mark_recent(self) -> dict[Multihash, Live] | None:
        """Enter recent pins in the inventory; what they want. None: one cannot be read, and everything is walked."""
        pins, self._recent, self._recent_at = self._recent, [], math.inf
        found: dict[Multihash, Live] = {}
        if not pins or self._inventory is None:
            return found
        inventory = self._inventory

        def add(lives: list[Live]) -> None:
            inventory.add(lives)
            found.update((live.block, live) for live in lives)

        with self._buffers.buffer() as view:
            marking = Marking(self._local, self._fetcher, view, add)
            for pin in pins:
                marking.mark(pin)
        if marking.unreadable:
            self._walk_at = min(self._walk_at, time.monotonic() + FAILED_S)
            return None
        return found

    # --- comparing -----------------------------------------------------------------------------------

    def _stand_in_now(self) -> Callable[[int], Stand]:
        """Where this node stands in each shard, as of now; callable from native threads."""
        cluster = self._cluster
        reachable = frozenset(member.id for member in cluster.members() if member.is_reachable)
        possible = cluster.limited(1 << 16)
        return lambda shard: Stand(cluster.id, cluster.order(shard), reachable, possible)

    def _compare(self, parts: Sequence[int], report: Report) -> Unwanted:
        """Each part in turn; what no pin wants."""
        self.phase, self.done, self.total = "compare", 0, len(parts)
        unwanted: Unwanted = []
        gathered: dict[int, Comparison] = {}
        size = 0
        for part in parts:
            live_blocks, live_bytes, found = self._local.run(self._look_at, part, self._stand_in_now())
            report.blocks += live_blocks
            report.bytes += live_bytes
            self._replace_missing(part, found.missing)
            unwanted += found.unwanted
            gathered[part] = found
            size += len(found.counted) + len(found.surplus)
            if size >= AT_ONCE:
                self._ask_about(gathered, report)
                gathered, size = {}, 0
            self.done += 1
        self._ask_about(gathered, report)
        self._note_losses()
        return unwanted

    def _look_at(self, part: int, stand_in: Callable[[int], Stand]) -> tuple[int, int, Comparison]:
        assert self._inventory is not None
        live = self._inventory.bucket(part)
        shards = range(part * SHARDS_A_PART, (part + 1) * SHARDS_A_PART)
        wanted_here = [row for row in live.values() if row.copies]
        found = compare(self._local.store, live, shards, stand_in)
        return len(wanted_here), sum(row.size for row in wanted_here), found

    def _ask_about(self, gathered: dict[int, Comparison], report: Report) -> None:
        """Count copies, and give up what others hold."""
        stand_in = self._stand_in_now()
        counted = count(self._cluster, stand_in, (row for found in gathered.values() for row in found.counted))
        surplus = [row for found in gathered.values() for row in found.surplus]
        gone = give_up(self._local, self._cluster, stand_in, surplus)
        for part, found in gathered.items():
            self._figures[part] = counted.figures.get(part, Figures())
            self._lost[part] = [live for live in counted.lost if part_of(live.block) == part]
            stays = [seen.size for live, seen in found.surplus if live.block not in gone]
            self._surplus[part] = Amount(len(stays), sum(stays))
            left = [seen.size for live, seen in found.surplus if live.block in gone]
            report.given_up = report.given_up.plus(len(left), sum(left))

    def _note_losses(self) -> None:
        lost = {live.block: live for lives in self._lost for live in lives}
        if lost.keys() != self._lost_blocks:
            self._lost_blocks = set(lost)
            with self._buffers.buffer() as view:
                self.lost_pins = find_losses(self._local, self._fetcher, self._pinning, view, lost) if lost else []

    def _replace_missing(self, part: int, missing: list[Live]) -> None:
        self.repair.backlog.replace(part, missing)
        self.repair.wake()

    def _add_missing(self, missing: list[Live]) -> None:
        self.repair.backlog.add(missing)
        self.repair.wake()

    # --- collecting ----------------------------------------------------------------------------------

    def _collect(self, unwanted: Unwanted, report: Report, is_dry: bool) -> None:
        """Drop what is old enough, unless there is a reason not to."""
        self.phase = "collect"
        old, young = self._collection.split(unwanted, self._config().storage.gc_grace)
        report.waiting = Amount(len(young), sum(seen.size for _, seen in young))
        report.held_up = self._obstacle(report)
        if report.held_up:
            report.waiting = report.waiting.plus(len(old), sum(seen.size for _, seen in old))
            return
        assert self._inventory is not None
        report.collected = self._collection.drop(old, self._inventory, is_dry)

    def _obstacle(self, report: Report) -> str:
        if report.unreadable:
            return (
                f"{len(report.unreadable)} roots cannot be read, the first is {report.unreadable[0]}: what they want "
                "is not known; bring back who has them, or remove their pins"
            )
        if obstacle := self._collection.obstacle() or self._collection.meet_all():
            return obstacle
        if self._mark_recent() is None:
            return "a pin that just came cannot be read yet"
        return ""
