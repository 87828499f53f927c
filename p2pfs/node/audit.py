"""The audit: compares what the catalog says with what is on this disk, again and again, and sees that they agree.

A *walk* takes an inventory of all that the pins want (`wanting`); a *comparison* goes through inventory and disk part
by part (`standing`), and from it follow repair and moving in (`repairing`), moving out (`counting`), and, after a walk,
collection (`collecting`). What to do about a block is decided in `core/audit.py`; here is when what is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from p2pfs import errors, green, metrics
from p2pfs.config import Config
from p2pfs.core import wire
from p2pfs.core.agenda import SETTLE_S, UNSETTLED_S, Agenda, Work
from p2pfs.core.health import Figures
from p2pfs.core.pins import Pin
from p2pfs.node.backlog import PARTS, Amount
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Collection, Haul
from p2pfs.node.fetch import Fetcher
from p2pfs.node.levelling import Levelling
from p2pfs.node.local import LocalStore
from p2pfs.node.losses import Losses, LostPin
from p2pfs.node.pass_report import Report, Request
from p2pfs.node.place import Placer
from p2pfs.node.repairing import Repair
from p2pfs.node.standing import Standing
from p2pfs.node.wanting import News, Wanting
from p2pfs.store import ages
from p2pfs.store.layout import TEMP

BUFFERS = 5
"""Of 2 MiB, for the audit alone: one for walks, one for the search for hurt pins, the others for repair."""
INTRODUCTION_S = 5.0
"""The first pass waits at most so long until somebody has told who the members are: what a node remembers of them from
before it was stopped may be wrong, and it would fetch or give up in vain."""
MEET_S = 0.5
LISTED = 100
"""Unreadable roots that STATUS names."""


class Audit:
    """The worker. All passes are made in one greenlet, one after the other; long steps are native jobs."""

    def __init__(
        self, local: LocalStore, cluster: Cluster, fetcher: Fetcher, placer: Placer, levelling: Levelling,
        config: Callable[[], Config],
    ) -> None:
        self._local = local
        self._cluster = cluster
        self._fetcher = fetcher
        self._levelling = levelling
        self._pinning = pinning = levelling.pinning
        self._config = config
        self._buffers = BufferPool("audit", BUFFERS * wire.MAX_BLOCK)
        self.repair = Repair(
            local, fetcher, placer, self._buffers, lambda: config().repair.rate,
            lambda live: cluster.limited(live.copies),
        )
        temp = config().node.data_dir / TEMP
        self._wanting = Wanting(local, fetcher, pinning, self._buffers, temp)
        self._standing = Standing(local, cluster, self.repair.backlog)
        self._collection = Collection(local, cluster, levelling)
        self._group = green.Group("audit")
        self._losses = Losses(local, fetcher, pinning, self._buffers)
        self.report = Report()
        """The last walk that was completed, or the one under way."""
        self.phase, self.done, self.total = "", 0, 0
        self._requests: list[Request] = []
        self._wake = green.Event()
        self._agenda = Agenda(time.monotonic())
        self._introduced_by = 0.0
        self._last_end: float | None = None

    def start(self) -> None:
        """Begin, with a walk."""
        if self._cluster.size > 1 or self._config().cluster.seeds:
            self._introduced_by = time.monotonic() + INTRODUCTION_S
        self._cluster.on_change = self.members_changed
        self._pinning.on_change = self.pins_changed
        self._local.on_corrupt = self.repair.heal
        self.repair.on_unhealed = self._compare_soon
        self.repair.start()
        self._losses.start()
        self._group.loop("worker", self._step)

    def stop(self) -> None:
        """End in the middle of whatever it is; the next start begins anew, and finds what was done."""
        self._group.close()
        self.repair.stop()
        self._losses.stop()
        for request in self._requests:
            request.fail(errors.Interrupted("the node is stopping"))
        self._wanting.close()

    # --- what calls for work -------------------------------------------------------------------------

    def members_changed(self) -> None:
        """Other members own shards, or can be reached."""
        self.repair.forget_failures()
        self._agenda.members_changed(time.monotonic(), bool(self.report.held_up))
        self._wake.set()

    def _compare_soon(self) -> None:
        """Bad copies went, and no good ones came in their place: they are missing, and count so after a comparison."""
        self._agenda.want(Work.COMPARE, time.monotonic() + UNSETTLED_S)
        self._wake.set()

    def pins_changed(self, pins: list[Pin]) -> None:
        """The catalog has these new records."""
        now = time.monotonic()
        are_noted = self._wanting.note(pins)
        if any(pin.removed for pin in pins):
            self._agenda.pins_went(now)
        if not all(pin.removed for pin in pins):
            self._agenda.pins_came(now, are_noted)
        self._wake.set()

    def run(self, is_dry: bool = False, is_walk: bool = True) -> Request:
        """Ask for a pass now; wait for the request's `done`. Dry: nothing is collected."""
        self.repair.forget_failures()
        request = Request(is_dry, is_walk)
        self._requests.append(request)
        self._wake.set()
        return request

    # --- what is known -------------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """The figures take account of every change that this node knows of."""
        return self._agenda.is_current and self._losses.is_known

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
    def lost_pins(self) -> list[LostPin]:
        """Pins below which there are blocks in our charge that no member has."""
        return self._losses.pins

    @property
    def is_drained(self) -> bool:
        """This node gives its shards away, and all blocks that it held are where they should be."""
        is_looked_at = self._agenda.has_seen_the_members
        # With no owner left, all others dead or draining too, nothing here is a surplus, and nothing is elsewhere.
        is_owned = bool(self._cluster.order(0))
        return self._cluster.membership.me.drains and is_owned and is_looked_at and not self.surplus.blocks

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
        work = self._agenda.next(now)
        if not self.is_done_once and now < self._introduced_by and not self._cluster.has_met:
            self._wait(MEET_S)
        elif self._requests:
            self._answer(self._requests[0])
        elif work is not None:
            self._do(work, is_dry=False)
        else:
            self._wait(self._agenda.wait_s(now))

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _answer(self, first: Request) -> None:
        """A pass for whoever waits for one of that kind by now."""
        requests = [request for request in self._requests if request.is_like(first)]
        try:
            report = self._do(Work.WALK if first.is_walk else Work.COMPARE, first.is_dry)
        except BaseException as error:
            reason = errors.InternalError(f"the audit failed: {error!r}; see the node's log")
            for request in requests:
                request.fail(error if isinstance(error, errors.P2pfsError) else reason)
            raise
        finally:
            self._requests = [request for request in self._requests if request not in requests]
        for request in requests:
            request.succeed(report)

    def _do(self, work: Work, is_dry: bool) -> Report:
        """One pass, and what follows from it for the next ones."""
        begin, report = time.monotonic(), Report()
        if self._wanting.inventory is None:
            work = Work.WALK
        self._agenda.begin(work, begin)
        try:
            if work is Work.RECENT:
                if not self._look_at_recent():
                    self._agenda.fail(work)
                    return report
            elif work is Work.SETTLE:
                self._compare(self._standing.unsettled, report, self._new_haul())
            else:
                self._look_at_all(work is Work.WALK, is_dry, report)
        except BaseException:
            self._agenda.fail(work)
            raise
        now = time.monotonic()
        report.seconds = now - begin
        self._agenda.end(work, now, bool(self._standing.unsettled), self._config().repair.audit_interval)
        return report

    def _look_at_all(self, is_walk: bool, is_dry: bool, report: Report) -> None:
        if is_walk:
            self.report = report
            self._walk(report)
        haul = self._new_haul()
        self._compare(range(PARTS), report, haul)
        if is_walk:
            self._collect(haul, report, is_dry)
        self._publish()

    def _walk(self, report: Report) -> None:
        self._enter("walk", self._pinning.run(self._pinning.catalog.counts).live)
        since_ms = ages.now_ns() // 1_000_000 - int(self._config().storage.gc_grace * 1000)
        self._wanting.walk(since_ms, report, self._progress)

    def _compare(self, parts: Sequence[int], report: Report, haul: Haul) -> None:
        assert self._wanting.inventory is not None
        self._enter("compare", len(parts))
        self._standing.compare(self._wanting.inventory, parts, report, haul, self._progress)
        self.repair.wake()
        self._losses.note(self._standing.lost)

    def _look_at_recent(self) -> bool:
        """Pins that came since the last walk: only what they want is looked at. False: it takes a walk."""
        is_known = self._wanting.enter_recent(self._count_news)
        self.repair.wake()
        return is_known

    def _count_news(self, news: News) -> None:
        self._standing.add(news.new)
        if news.is_raised:
            self._agenda.want(Work.COMPARE, time.monotonic() + SETTLE_S)

    def _enter(self, phase: str, total: int) -> None:
        self.phase, self.done, self.total = phase, 0, total

    def _progress(self, done: int) -> None:
        self.done = done

    def _publish(self) -> None:
        self._last_end = round(time.time(), 3)
        metrics.AUDITS.inc()
        metrics.AUDIT_END.set(self._last_end)

    # --- collecting ----------------------------------------------------------------------------------

    def _new_haul(self) -> Haul:
        return self._collection.haul(self._config().storage.gc_grace)

    def _collect(self, haul: Haul, report: Report, is_dry: bool) -> None:
        """Drop what is old enough, unless there is a reason not to."""
        assert self._wanting.inventory is not None
        self._enter("collect", len(haul.rows))
        report.held_up = self._obstacle(report)
        waiting = [haul.young, haul.left]
        if report.held_up:
            waiting.append(Amount(len(haul.rows), sum(seen.size for _, seen in haul.rows)))
        else:
            report.collected = self._collection.drop(haul.rows, self._wanting.inventory, is_dry)
            report.is_cut = haul.left.blocks > 0
            if report.collected.blocks and not is_dry:
                self.repair.forget_failures()
        for amount in waiting:
            report.waiting = report.waiting.plus(amount.blocks, amount.bytes)
        if not report.held_up and not is_dry:
            self._levelling.purge(self._config().cluster.tombstone_life)
        if report.is_cut and not is_dry:
            self._agenda.want(Work.WALK, time.monotonic())

    def _obstacle(self, report: Report) -> str:
        """Why nothing may be collected. When it may, all catalogs were compared, and what came is in the inventory."""
        if report.unreadable:
            return (
                f"{len(report.unreadable)} roots cannot be read, the first is {report.unreadable[0]}: what they want "
                "is not known; bring back who has them, or remove their pins"
            )
        # Again after they were met: somebody may have gone away meanwhile.
        collection = self._collection
        if obstacle := collection.obstacle() or collection.meet_all() or collection.obstacle():
            return obstacle
        if not self._wanting.enter_recent(self._count_news):
            self._agenda.fail(Work.RECENT)
            return "pins that just came could not be walked yet"
        return ""
