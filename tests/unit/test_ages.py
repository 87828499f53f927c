"""No step of the machine's clock makes a block older than it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.store import ages
from p2pfs.store.disk import DiskStore

SECOND = 1_000_000_000
DAY = 24 * 3600 * SECOND
STEPS = st.lists(st.tuples(st.integers(0, 2 * DAY), st.integers(-2 * DAY, 2 * DAY)), max_size=6)


class Clocks:
    """In place of the module `time`: both clocks stand still unless they are told to go."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000 * SECOND
        self.steady = self.wall - ages._BOOT_NS

    def time_ns(self) -> int:
        return self.wall

    CLOCK_BOOTTIME = 7

    def clock_gettime_ns(self, clock: int) -> int:
        assert clock == self.CLOCK_BOOTTIME
        return self.steady

    def pass_time(self, ns: int) -> None:
        self.wall += ns
        self.steady += ns


@given(STEPS, STEPS, st.integers(0, DAY))
def test_an_age_is_never_more_than_what_passed(
    before: list[tuple[int, int]], after: list[tuple[int, int]], last: int
) -> None:
    clocks = Clocks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ages, "time", clocks)
        for passed, step in before:
            clocks.pass_time(passed)
            clocks.wall += step
        stamp, begin = ages.stamp_ns(), clocks.steady
        for passed, step in after:
            clocks.pass_time(passed)
            clocks.wall += step
        clocks.pass_time(last)
        assert ages.now_ns() - stamp <= clocks.steady - begin


@given(st.integers(0, DAY))
def test_with_a_clock_that_is_left_alone_it_is_just_what_passed(passed: int) -> None:
    clocks = Clocks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ages, "time", clocks)
        stamp = ages.stamp_ns()
        clocks.pass_time(passed)
        assert ages.now_ns() - stamp == passed


@pytest.mark.parametrize("how", ["put", "renewed"])
def test_a_block_that_came_while_the_clock_was_behind_is_young_when_it_is_right_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = DiskStore(tmp_path)
    data = memoryview(b"some bytes")
    block = multihash(SHA2_256, data)
    clocks = Clocks()
    clocks.wall = clocks.steady + ages._BOOT_NS - DAY
    if how == "renewed":
        store.put(block, data)
    with monkeypatch.context() as patch:
        patch.setattr(ages, "time", clocks)
        assert store.put(block, data) if how == "put" else store.has(block, renew=True)
        clocks.wall += DAY
        seen = store.seen(block)
        assert seen and abs(ages.now_ns() - seen.token) <= 2 * SECOND  # some file systems keep even seconds only


def test_the_clocks_are_those_of_the_machine() -> None:
    assert abs(ages.stamp_ns() - time.time_ns()) < 60 * SECOND
    assert abs(ages.now_ns() - time.time_ns()) < 60 * SECOND
