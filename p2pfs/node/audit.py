"""The audit: compares what the catalog says with what is on this disk, again and again, and sees that they agree.

A *walk* takes an inventory of all that the pins want (`wanting`); a *comparison* goes through inventory and disk part
by part (`standing`), and from it follow repair and moving in (`repairing`), moving out (`counting`), and, after a walk,
collection (`collecting`). What to do about a block is decided in `core/audit.py`; here is when what is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from p2pfs import errors, green, metrics
from p2pfs.config import Config
from p2pfs.core import wire
from p2pfs.core.health import Figures
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import Pin
from p2pfs.node.backlog import PARTS, Amount
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Collection, Unwanted
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.losses import LostPin, find_losses
from p2pfs.node.pass_report import Report, Request
from p2pfs.node.pinning import Pinning
from p2pfs.node.place import Placer
from p2pfs.node.repairing import Repair
from p2pfs.node.standing import Standing
from p2pfs.node.wanting import News, Wanting

BUFFERS = 5
"""Of 2 MiB, for the audit alone: one for walks, the others for repair."""
SETTLE_S = 0.5
"""Changes come in bursts; so long they are waited for."""
REMOVED_S = 10.0
"""Soon after pins were removed the walk is made anew, so that what they wanted is not missed any more."""
REST = 3
"""A pass that took a second is followed by so many seconds of rest, whatever happens."""
REST_MOST_S = 600.0
UNSETTLED_S = 2.0
"""As long as something is missing or waits to be given up, this is the least pause between looks at it."""
HEARD_S = 5.0
"""After so long everybody has heard of a change of members, and what was placed before has come."""
FAILED_S = 10.0
INTRODUCTION_S = 5.0
"""The first pass waits at most so long until somebody has told who the members are: what a node remembers of them from
before it was stopped may be wrong, and it would fetch or give up in vain."""
LISTED = 100
"""Unreadable roots that STATUS names."""


class Audit:
    """The worker. All passes are made in one greenlet, one after the other; long steps are native jobs."""

    def __init__(
        self, local: LocalStore, cluster: Cluster, fetcher: Fetcher, placer: Placer, pinning: Pinning,
        config: Callable[[], Config],
    ) -> None:
        self._local = local
        self._cluster = cluster
        self._fetcher = fetcher
        self._pinning = pinning
        self._config = config
        self._buffers = BufferPool("audit", BUFFERS * wire.MAX_BLOCK)
        self.repair = Repair(
            local, fetcher, placer, self._buffers, lambda: config().repair.rate,
            lambda live: cluster.limited(live.copies),
        )
        temp = config().node.data_dir / "temp"
        self._wanting = Wanting(local, fetcher, pinning, self._buffers, temp)
        self._standing = Standing(local, cluster, self.repair.backlog)
        self._collection = Collection(local, cluster, pinning)
        self._group = green.Group("audit")
        self._lost: set[Multihash] = set()
        self.lost_pins: list[LostPin] = []
        """Pins below which there are blocks in our charge that no member has."""
        self.report = Report()
        """The last walk that was completed, or the one under way."""
        self.phase, self.done, self.total = "", 0, 0
        self._requests: list[Request] = []
        self._wake = green.Event()
        self._walk_at = self._compare_at = self._rested_at = self._recent_rested_at = 0.0
        self._recent_at = self._settle_at = math.inf
        self._introduced_by = 0.0
        self._changes = 0
        self._compared = -1
        self._members_at = self._compared_at = self._looked_at = -math.inf
        """When members changed last; what was there then was compared; pins that had come by then were looked at."""
        self._last_end: float | None = None

    def start(self) -> None:
        """Begin, with a walk."""
        now = time.monotonic()
        self._walk_at = now + SETTLE_S
        if self._cluster.size > 1 or self._config().cluster.seeds:
            self._introduced_by = now + INTRODUCTION_S
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
        self._wanting.close()

    # --- what calls for work -------------------------------------------------------------------------

    def members_changed(self) -> None:
        """Other members own shards, or can be reached."""
        self._members_at = time.monotonic()
        self._changes += 1
        self._compare_at = min(self._compare_at, time.monotonic() + SETTLE_S)
        if self.report.held_up:  # perhaps by whom the change was about
            self._walk_at = min(self._walk_at, self._compare_at)
        self._wake.set()

    def pins_changed(self, pins: list[Pin]) -> None:
        """The catalog has these new records."""
        now = time.monotonic()
        live = [pin for pin in pins if not pin.removed]
        if len(live) < len(pins):
            self._walk_at = min(self._walk_at, now + REMOVED_S)
        if live:
            self._changes += 1
            if self._wanting.note(live):
                self._recent_at = min(self._recent_at, max(now + SETTLE_S, self._recent_rested_at))
            else:
                self._walk_at = now
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
    def is_done_once(self) -> bool:
        """There was a comparison since the start: before it the figures say nothing."""
        return self._last_end is not None

    @property
    def figures(self) -> Figures:
        """What this node is in charge of, and what it has still to fetch."""
        return self._standing.figures

    @property
    def surplus(self) -> Amount:
        """Blocks here that others own, and did not confirm to hold when they were asked last."""
        return self._standing.surplus

    @property
    def is_drained(self) -> bool:
        """This node gives its shards away, and all that it held is where it should be."""
        # On a busy cluster there are always pins that just came; whoever knows of the drain places them elsewhere.
        is_looked_at = self.is_current or (
            self._compared_at > self._members_at and self._looked_at > self._members_at + HEARD_S
        )
        return self._cluster.membership.me.drains and is_looked_at and not self.surplus.blocks

    def state(self) -> dict[str, Any]:
        """How it goes, for STATUS."""
        return {
            "is_running": bool(self.phase), "phase": self.phase, "done": self.done, "total": self.total,
            "last_end": self._last_end, "last_s": round(self.report.seconds, 3), "is_current": self.is_current,
            "held_up": self.report.held_up, "unreadable": [str(cid) for cid in self.report.unreadable[:LISTED]],
        }

    # --- the worker ----------------------------------------------------------------------------------

    def _step(self) -> float:
        try:
            self._do_next(time.monotonic())
        finally:
            self.phase = ""
        return 0.0

    def _do_next(self, now: float) -> None:
        if not self._last_end and now < self._introduced_by and not self._cluster.has_met:
            self._wake.wait(SETTLE_S)
            self._wake.clear()
        elif self._requests:
            self._answer(self._requests[0])
        elif now >= max(self._walk_at, self._rested_at):
            self._pass(is_walk=True, is_dry=False)
        elif now >= max(self._compare_at, self._rested_at):
            self._pass(is_walk=False, is_dry=True)
        elif now >= max(self._settle_at, self._rested_at):
            self._look_again()
        elif now >= self._recent_at:
            self._look_at_recent()
        else:
            due = max(min(self._walk_at, self._compare_at, self._settle_at), self._rested_at)
            self._wake.wait(max(0.01, min(due, self._recent_at) - now))
            self._wake.clear()

    def _answer(self, first: Request) -> None:
        """A pass for whoever waits for one of that kind by now."""
        requests = [request for request in self._requests if request.is_like(first)]
        try:
            report = self._pass(first.is_walk, first.is_dry)
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
        begin, report, changes = time.monotonic(), Report(), self._changes
        is_walk = is_walk or self._wanting.inventory is None
        # Before anything is looked at: what changes during the pass calls for another one.
        self._compare_at = math.inf
        if is_walk:
            self._walk_at = math.inf
        try:
            self._look_at_all(is_walk, is_dry, report)
        except BaseException:
            self._compare_at = min(self._compare_at, begin + FAILED_S)
            self._walk_at = min(self._walk_at, begin + FAILED_S) if is_walk else self._walk_at
            raise
        if is_walk:
            self._walk_at = min(self._walk_at, time.monotonic() + self._config().repair.audit_interval)
        self._compared, self._compared_at, self._looked_at = changes, begin, begin
        report.seconds = time.monotonic() - begin
        self._rest(report.seconds)
        self._publish()
        return report

    def _look_at_all(self, is_walk: bool, is_dry: bool, report: Report) -> None:
        if is_walk:
            self.report = report
            self._walk(report)
        unwanted = self._compare(range(PARTS), report)
        if is_walk:
            self._collect(unwanted, report, is_dry)

    def _walk(self, report: Report) -> None:
        self._enter("walk", self._pinning.run(self._pinning.catalog.counts).live)
        self._recent_at = math.inf
        since_ms = int((self._collection.now() - self._config().storage.gc_grace) * 1000)
        self._wanting.walk(since_ms, report, self._progress)

    def _compare(self, parts: Sequence[int], report: Report) -> Unwanted:
        assert self._wanting.inventory is not None
        self._enter("compare", len(parts))
        unwanted = self._standing.compare(self._wanting.inventory, parts, report, self._progress)
        self.repair.wake()
        lost = self._standing.lost
        if lost.keys() != self._lost:
            self._lost = set(lost)
            with self._buffers.buffer() as view:
                self.lost_pins = find_losses(self._local, self._fetcher, self._pinning, view, lost) if lost else []
        return unwanted

    def _look_again(self) -> None:
        """Compare those parts only in which something was not as it should be."""
        begin = time.monotonic()
        self._settle_at = begin + FAILED_S
        self._compare(self._standing.unsettled, Report())
        self._rest(time.monotonic() - begin)

    def _look_at_recent(self) -> None:
        """Pins that came since the last walk: only what they want is looked at."""
        begin, changes, was_current = time.monotonic(), self._changes, math.isinf(self._compare_at)
        self._recent_at = math.inf
        found = self._wanting.enter_recent()
        if found is None:
            self._walk_at = min(self._walk_at, begin + FAILED_S)
            return
        self._count_news(found)
        self.repair.wake()
        if was_current:
            self._compared = changes
        # A rest of its own, and nothing else put off: where pins come all the time, the other looks would never come.
        now = time.monotonic()
        self._recent_rested_at = now + min(REST * (now - begin), REST_MOST_S)
        if self._standing.unsettled:
            self._settle_at = min(self._settle_at, now + UNSETTLED_S)

    def _count_news(self, news: News) -> None:
        self._standing.add(news.new)
        if news.is_raised:
            self._compare_at = min(self._compare_at, time.monotonic() + SETTLE_S)

    def _enter(self, phase: str, total: int) -> None:
        self.phase, self.done, self.total = phase, 0, total

    def _progress(self, done: int) -> None:
        self.done = done

    def _rest(self, seconds: float) -> None:
        """After a pass of so many seconds: say when to come back at the earliest, and when to look again."""
        now = time.monotonic()
        self._rested_at = now + min(REST * seconds, REST_MOST_S)
        self._settle_at = max(now + UNSETTLED_S, self._rested_at) if self._standing.unsettled else math.inf

    def _publish(self) -> None:
        figures, self._last_end = self.figures, round(time.time(), 3)
        metrics.AUDITS.inc()
        metrics.AUDIT_END.set(self._last_end)
        metrics.LEFT_BYTES.set(figures.missing_bytes)
        metrics.BELOW_BLOCKS.set(figures.below_blocks)
        metrics.LOST_BLOCKS.set(figures.lost_blocks)

    # --- collecting ----------------------------------------------------------------------------------

    def _collect(self, unwanted: Unwanted, report: Report, is_dry: bool) -> None:
        """Drop what is old enough, unless there is a reason not to."""
        assert self._wanting.inventory is not None
        self._enter("collect", len(unwanted))
        old, young = self._collection.split(unwanted, self._config().storage.gc_grace)
        report.waiting = report.waiting.plus(len(young), sum(seen.size for _, seen in young))
        report.held_up = self._obstacle(report)
        if report.held_up:
            report.waiting = report.waiting.plus(len(old), sum(seen.size for _, seen in old))
        else:
            report.collected = self._collection.drop(old, self._wanting.inventory, is_dry)
            if not is_dry:
                self._pinning.purge(self._config().cluster.tombstone_life)

    def _obstacle(self, report: Report) -> str:
        """Why nothing may be collected. When it may, all catalogs were compared, and what came is in the inventory."""
        if report.unreadable:
            return (
                f"{len(report.unreadable)} roots cannot be read, the first is {report.unreadable[0]}: what they want "
                "is not known; bring back who has them, or remove their pins"
            )
        if obstacle := self._collection.obstacle() or self._collection.meet_all():
            return obstacle
        found = self._wanting.enter_recent()
        if found is None:
            return "a pin that just came cannot be read yet"
        self._count_news(found)
        return ""
