"""The hybrid logical clock."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.hlc import MAX_AHEAD_MS, MAX_FOLLOW_MS, MAX_STAMP, Clock, ms_of, stamp_of

NOW = 1_790_000_000_000


@given(st.lists(st.integers(0, 2**47), min_size=1, max_size=50))
def test_stamps_rise_however_the_wall_clock_jumps(times: list[int]) -> None:
    clock = Clock(times[0])
    stamps = [clock.tick(now) for now in times]
    assert all(a < b for a, b in pairwise(stamps))
    assert ms_of(stamps[-1]) >= max(times)


def test_a_stamp_follows_the_wall_clock_when_nothing_is_ahead() -> None:
    clock = Clock(NOW)
    assert clock.tick(NOW + 5) == stamp_of(NOW + 5)


def test_what_was_observed_is_overtaken() -> None:
    clock = Clock(NOW)
    an_hour_ahead = stamp_of(NOW + 3_600_000) + 7
    clock.observe(an_hour_ahead, NOW)
    assert clock.tick(NOW) == an_hour_ahead + 1
    assert clock.last == an_hour_ahead + 1


def test_an_old_stamp_changes_nothing() -> None:
    clock = Clock(NOW)
    clock.observe(stamp_of(NOW - 10**9), NOW)
    assert clock.last == stamp_of(NOW)


def test_a_counter_that_overflows_carries_into_the_milliseconds() -> None:
    clock = Clock(NOW)
    for _ in range(70_000):
        stamp = clock.tick(NOW)
    assert ms_of(stamp) == NOW + 1


def test_more_than_a_day_ahead_is_refused_and_forgotten() -> None:
    clock = Clock(NOW)
    clock.observe(stamp_of(NOW + MAX_AHEAD_MS), NOW)
    with pytest.raises(errors.Refused, match="24 hours"):
        clock.observe(stamp_of(NOW + MAX_AHEAD_MS + 1000), NOW)
    assert clock.last == stamp_of(NOW + MAX_FOLLOW_MS)


@given(st.lists(st.integers(0, MAX_STAMP), max_size=20), st.integers(0, MAX_AHEAD_MS - MAX_FOLLOW_MS - 1000))
def test_whatever_others_stamp_ours_is_taken_by_a_node_that_is_behind(stamps: list[int], behind_ms: int) -> None:
    clock, other = Clock(NOW), Clock(NOW - behind_ms)
    for stamp in [*stamps, stamp_of(NOW + MAX_AHEAD_MS)]:
        with contextlib.suppress(errors.Refused):
            clock.observe(stamp, NOW)
    other.observe(clock.tick(NOW), NOW - behind_ms)


def test_the_newest_stamp_of_an_earlier_life_holds_although_the_wall_clock_went_back() -> None:
    assert Clock(NOW, last=stamp_of(NOW + 10**12)).tick(NOW) == stamp_of(NOW + 10**12) + 1
