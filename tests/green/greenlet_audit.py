"""When an audit knows that it has taken account of all pins, and when not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import metrics
from p2pfs.core import hlc
from p2pfs.core.agenda import FAILED_S, Work
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Pin
from p2pfs.node.audit import Audit
from p2pfs.node.census import refresh_gauges
from p2pfs.node.pass_report import Report
from p2pfs.node.wanting import News
from p2pfs.store import ages
from p2pfs.store.inventory import Inventory
from tests.green.greenlet_node import World

PIN = Pin(CID(RAW, multihash(SHA2_256, b"")), "", 1, None, 1, 1, 1, 1, "n", False)

HOUR_NS = 3600 * 1_000_000_000


class Site:
    """The audit of a node on its own. A pin comes in the middle of its walk, and cannot be walked right after it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1)
        self.inventory = self._inventory = Inventory(folder / "inventory", 1 << 20)
        pinning = SimpleNamespace(
            catalog=SimpleNamespace(
                counts=lambda: SimpleNamespace(live=1), lacks_records=lambda: False, pins=lambda *_: [],
                removed_since=lambda *_: [],
            ),
            run=lambda job, *args: job(*args),
        )
        levelling = self.levelling = cast(
            Any, SimpleNamespace(pinning=pinning, compare_all=lambda *_: {}, purge=lambda life_s: None)
        )
        config = cast(Any, SimpleNamespace(
            node=SimpleNamespace(data_dir=folder), repair=SimpleNamespace(rate=1 << 20, audit_interval=3600.0),
            storage=SimpleNamespace(gc_grace=2 * 3600.0), cluster=SimpleNamespace(tombstone_life=3600.0),
        ))
        self.audit = Audit(
            self.world.local, self.world.cluster, self.world.fetcher, self.world.placer, levelling, lambda: config
        )
        self.wanting = self.audit._wanting
        self.audit._wanting = cast(Any, self)
        self.noted: list[Pin] = []
        self.is_readable = False

    def walk(self, since_ms: int, report: Report, progress: Callable[[int], None]) -> None:
        self.noted = []
        if not self.is_readable:
            self.audit.pins_changed([PIN])

    def note(self, pins: list[Pin]) -> bool:
        self.noted += pins
        return True

    def enter_recent(self, tell: Callable[[News], None]) -> bool:
        pins, self.noted = self.noted, []
        return self.is_readable or not pins

    def close(self) -> None:
        self._inventory.close()
        self.world.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_pins_that_cannot_be_walked_before_collecting_take_a_walk_soon(site: Site) -> None:
    audit = site.audit
    report = audit._do(Work.WALK, is_dry=False)
    assert "could not be walked" in report.held_up
    assert not audit.is_current
    begin = now = audit._agenda._begun_at
    site.is_readable = True
    done = []
    while Work.WALK not in done:
        assert not audit.is_current
        now += audit._agenda.wait_s(now)
        work = audit._agenda.next(now)
        assert work is not None
        audit._do(work, is_dry=False)
        done.append(work)
    assert now - begin <= FAILED_S + 1.0
    assert audit.is_current


@pytest.mark.parametrize("removed_h", [1, 3])
def test_what_was_removed_lately_is_kept_also_where_the_pin_was_never_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed_h: int
) -> None:
    """A node comes back, and hears of the removal after its walk; the grace is two hours."""
    now_ns = ages.now_ns() + 10 * HOUR_NS
    monkeypatch.setattr(ages, "now_ns", lambda: now_ns)
    site = Site(tmp_path)
    audit = site.audit
    audit._wanting = site.wanting
    site.world.local.put(PIN.cid.multihash, memoryview(b""))
    stamp = hlc.stamp_of((now_ns - removed_h * HOUR_NS) // 1_000_000)
    tombstone = PIN._replace(removed=True, stamp=stamp)

    def compare_all(past_ms: int) -> dict[str, str]:
        audit.pins_changed([tombstone])
        return {}

    site.levelling.compare_all = compare_all
    report = audit._do(Work.WALK, is_dry=False)
    assert report.held_up == ""
    assert report.collected.blocks == (removed_h > 2)
    assert site.world.local.have([PIN.cid.multihash]) == [removed_h < 2]
    site.wanting.close()
    site.close()


def test_the_gauges_follow_the_repair_and_not_the_last_comparison_of_all(site: Site) -> None:
    services = cast(Any, SimpleNamespace(
        audit=site.audit, local=site.world.local, scrub=SimpleNamespace(oldest_s=lambda: None)
    ))
    backlog, live = site.audit.repair.backlog, Live(PIN.cid.multihash, 1, 1000, False)
    backlog.add([live])
    refresh_gauges(services)
    assert b"\np2pfs_left_bytes 1000.0\n" in metrics.render()
    backlog.done(live)
    refresh_gauges(services)
    assert b"\np2pfs_left_bytes 0.0\n" in metrics.render()


def test_what_was_not_healed_is_compared_soon(site: Site) -> None:
    audit = site.audit
    site.is_readable = True
    audit._do(Work.WALK, is_dry=False)
    now = audit._agenda._begun_at
    assert audit._agenda.wait_s(now) > 60.0
    audit._compare_soon()
    assert audit._agenda.wait_s(now) < 60.0
    assert audit._agenda.next(now + 60.0) is Work.COMPARE
