"""Repair with a fetcher that is scripted: what is fetched, what is left to others, and how often it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.core.pace import Pace
from p2pfs.node import repairing
from p2pfs.node.backlog import Amount, part_of
from p2pfs.node.buffers import BufferPool
from p2pfs.node.local import LocalStore
from p2pfs.node.place import Copies
from p2pfs.node.repairing import Repair
from p2pfs.store.memory import MemoryStore

DATA = b"a block"
LIVE = Live(multihash(SHA2_256, DATA), 2, len(DATA), False)


class Others:
    """The other members, as the fetcher shows them."""

    def __init__(self) -> None:
        self.has_it = True
        self.is_damaged = False
        self.holding = {"b", "c"}
        self.asked = 0

    def from_others(self, cid: CID, view: memoryview) -> int:
        self.asked += 1
        if self.is_damaged and not self.has_it:
            raise errors.Corrupt("only damaged copies")
        if not self.has_it:
            raise errors.NotFound("nobody has it")
        view[: len(DATA)] = DATA
        return len(DATA)

    def holders(self, cids: list[CID]) -> tuple[list[set[str]], dict[str, errors.P2pfsError]]:
        return [self.holding for _ in cids], {}


class Site:
    """A repair on a disk in memory."""

    def __init__(self, max_size: int | None = None) -> None:
        self.others = Others()
        self.local = LocalStore(MemoryStore(max_size), 1)
        fetcher: Any = self.others
        placer: Any = None
        buffers = BufferPool("test", 4 * wire.MAX_BLOCK)
        self.repair = Repair(self.local, fetcher, placer, buffers, lambda: 1 << 30, lambda live: 2)
        self.repair.start()

    def compare(self) -> None:
        """What a comparison that finds the block missing does."""
        self.repair.backlog.replace(part_of(LIVE.block), [LIVE])
        self.repair.wake()

    def wait(self, condition: Callable[[], object]) -> None:
        with green.deadline(30.0, "the repair"):
            while not condition():
                green.sleep(0.005)

    def close(self) -> None:
        self.repair.stop()
        self.local.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def test_what_is_missing_is_fetched_and_kept(site: Site) -> None:
    site.compare()
    site.wait(lambda: site.repair.fetched_blocks == 1)
    assert site.local.have([LIVE.block]) == [True]
    assert site.repair.backlog.missing == Amount(0, 0)


def test_a_bad_copy_is_replaced_whatever_the_backlog_says(site: Site) -> None:
    site.repair.heal(LIVE.block)
    site.wait(lambda: site.local.have([LIVE.block]) == [True])


def test_a_bad_copy_that_stays_in_its_place_is_not_called_healed(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk does not let go of it, and says of a good one that it is here already: the length is the same."""

    def read(block: Multihash, into: memoryview) -> int:
        raise errors.Corrupt("it could not be moved to quarantine")

    site.local.put(LIVE.block, memoryview(DATA))
    monkeypatch.setattr(site.local.store, "read", read)
    site.repair.heal(LIVE.block)
    site.wait(lambda: "could not be moved to quarantine" in caplog.text)
    assert f"there is no good copy of {CID(RAW, LIVE.block)} here" in caplog.text
    assert site.repair.fetched_blocks == 0


def test_a_block_that_nobody_has_is_sought_less_and_less_often(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "RETRY_S", 1000.0)
    site.others.has_it = False
    for _ in range(5):
        site.compare()
        site.wait(lambda: site.repair.is_idle)
    assert site.others.asked == 1
    assert site.repair.backlog.missing == Amount(1, len(DATA))
    site.others.has_it = True
    site.repair.forget_failures()
    site.compare()
    site.wait(lambda: site.repair.fetched_blocks == 1)


def test_what_came_is_paid_for_and_a_search_in_vain_is_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairing, "RETRY_S", 0.0)
    now, paid = 100.0, list[int]()
    pace = Pace(1000, 0)

    def reserve(now_s: float, size: int) -> float:
        paid.append(size)
        return Pace.reserve(pace, now, size)

    monkeypatch.setattr(site.repair, "_pace", SimpleNamespace(set_rate=lambda rate: None, reserve=reserve))
    site.others.has_it = False
    for _ in range(5):
        site.compare()
        site.wait(lambda: site.repair.is_idle)
    assert sum(paid) == 0
    site.others.is_damaged = True
    site.compare()
    site.wait(lambda: site.repair.is_idle)
    assert sum(paid) == len(DATA), "it came, and was of no use"
    site.others.has_it = True
    site.compare()
    green.sleep(0.05)
    assert site.repair.fetched_blocks == 0, "that is paid for first"
    now += len(DATA) / 1000
    site.wait(lambda: site.repair.fetched_blocks == 1)
    assert sum(paid) == 2 * len(DATA)


def test_without_room_what_others_hold_is_not_fetched() -> None:
    site = Site(max_size=len(DATA) - 1)
    try:
        site.compare()
        site.wait(lambda: site.repair.backlog.displaced == Amount(1, len(DATA)))
        assert site.others.asked == 0
    finally:
        site.close()


def test_what_finds_no_room_anywhere_is_fetched_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full cluster, or a disk that takes no writes: else all of it would come again and again, for nothing."""
    monkeypatch.setattr(repairing, "RETRY_S", 1000.0)
    site = Site(max_size=len(DATA) - 1)
    site.others.holding = {"b"}
    site.repair._placer = SimpleNamespace(put=lambda *_: Copies(("b",), is_new=False))  # type: ignore[assignment]
    try:
        for _ in range(5):
            site.compare()
            site.wait(lambda: site.repair.is_idle)
        assert site.others.asked == 1
        assert site.repair.backlog.missing == Amount(1, len(DATA))
        site.local.store.set_limits(None, 0)
        site.repair.forget_failures()
        site.compare()
        site.wait(lambda: site.repair.fetched_blocks == 1)
    finally:
        site.close()


def test_a_bad_copy_that_is_not_replaced_at_once_is_left_to_a_comparison(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be missing, and no figure would say so, until the next walk in an hour."""
    left = 0

    def note() -> None:
        nonlocal left
        left += 1

    site.repair.on_unhealed = note
    site.others.has_it = False
    site.repair.heal(LIVE.block)
    site.wait(lambda: left == 1)
    monkeypatch.setattr(repairing, "HEAL_AT_ONCE", 0)
    site.repair.heal(LIVE.block)
    assert left == 2, "there are too many"
