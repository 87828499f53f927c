"""What the audit knows of pins that come while it is at work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Pin
from p2pfs.node import marking, wanting
from p2pfs.node.buffers import BufferPool
from p2pfs.node.marking import Marking
from p2pfs.node.pass_report import Report
from p2pfs.node.wanting import News, Wanting


class Here:
    """A disk and a catalog without threads."""

    def __init__(self) -> None:
        self.catalog = self
        self.live: list[Pin] = []

    def run(self, job: Callable[..., Any], *args: Any) -> Any:
        return job(*args)

    def pins(self, after: Pin | None, limit: int) -> list[Pin]:
        return [] if after else self.live

    def removed_since(self, ms: int, after: Pin | None, limit: int) -> list[Pin]:
        return []


class Lacking:
    """A disk, and peers, without a single block."""

    def __init__(self) -> None:
        self.store = self

    def run(self, job: Callable[..., Any], *args: Any) -> Any:
        return job(*args)

    def read(self, block: bytes, view: memoryview) -> int:
        raise errors.NotFound("not here")

    def branch(self, cid: CID) -> bytes:
        raise errors.NotFound("nowhere")


def pin(number: int) -> Pin:
    return Pin(CID(RAW, multihash(SHA2_256, b"%d" % number)), "", 1, None, 1, 1, 1, number, "n", False)


@pytest.mark.parametrize("batches", [[3], [2, 1], [1, 2], [2, 1, 1]])
def test_pins_that_are_too_many_to_be_noted_take_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[int]
) -> None:
    monkeypatch.setattr(wanting, "RECENT_MOST", 2)
    here, heard = cast(Any, Here()), list[News]()
    known = Wanting(here, here, here, BufferPool("test", wire.MAX_BLOCK), tmp_path)
    known.walk(0, Report(), lambda done: None)
    pins = [pin(number) for number in range(sum(batches))]
    for size in batches:
        known.note(pins[len(here.live) : len(here.live) + size])
        here.live = pins[: len(here.live) + size]
    # Nothing may be collected by an inventory that lacks them, not even when it is asked again.
    assert not known.enter_recent(heard.append)
    assert not known.enter_recent(heard.append)
    assert heard == []
    known.walk(0, Report(), lambda done: None)
    assert known.enter_recent(heard.append)
    assert known.inventory is not None
    wanted = {block for part in range(256) for block in known.inventory.bucket(part)}
    assert wanted == {one.cid.multihash for one in pins}


def test_a_walk_that_failed_does_not_cost_the_next_one_its_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wanting, "INVENTORY_BYTES", 1)
    here = cast(Any, Here())
    here.live = [pin(number) for number in range(3)]
    known = Wanting(here, here, here, BufferPool("test", wire.MAX_BLOCK), tmp_path)

    def fail(done: int) -> None:
        raise errors.Busy("in the middle")

    for progress in (lambda done: None, fail, lambda done: None):
        with contextlib.suppress(errors.Busy):
            known.walk(0, Report(), progress)
        assert known.inventory is not None
        wanted = {block for part in range(256) for block in known.inventory.bucket(part)}
        assert wanted == {one.cid.multihash for one in here.live}


@pytest.mark.parametrize("memory_bytes", [wanting.INVENTORY_BYTES, 1])
def test_pins_that_came_are_entered_slice_by_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    """What a pin wants may be more than fits into memory."""
    monkeypatch.setattr(wanting, "INVENTORY_BYTES", memory_bytes)
    monkeypatch.setattr(wanting, "SLICE", 100)
    here, heard = cast(Any, Here()), list[News]()
    known = Wanting(here, here, here, BufferPool("test", wire.MAX_BLOCK), tmp_path)
    known.walk(0, Report(), lambda done: None)
    assert known.note([pin(1)])
    assert known.enter_recent(heard.append)
    assert [list(news.new) for news in heard] == [[pin(1).cid.multihash]]
    assert known.note([pin(number) for number in range(1000)])
    assert known.enter_recent(heard.append)
    assert len(heard) > 10
    assert all(len(news.new) <= 100 for news in heard)
    told = [block for news in heard for block in news.new]
    assert sorted(told) == sorted(pin(number).cid.multihash for number in range(1000))
    assert known.note([pin(2)._replace(replicas=2)])
    assert known.enter_recent(heard.append)
    assert heard[-1] == News({}, True)
    assert known.inventory is not None
    assert {live.copies for part in range(256) for live in known.inventory.bucket(part).values()} == {1, 2}
    assert [path.name for path in tmp_path.iterdir() if path.name == "inventory-recent"] == []


def test_what_a_walk_remembers_of_branches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "KNOWN_MOST", 3)
    found: list[Live] = []
    walk = Marking(cast(Any, Lacking()), cast(Any, Lacking()), memoryview(bytearray(1)), found.extend)
    for number in range(20):
        walk.mark([pin(number)._replace(cid=CID(DAG_PB, pin(number).cid.multihash))])
        assert len(walk._walked) <= 4
    assert len(walk.unreadable) == len({live.block for live in found}) == 20
