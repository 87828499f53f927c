"""The pace of background work: never more than it may, never less than it could."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.pace import Pace


def begun(pace: Pace, now: float, sizes: list[int]) -> list[tuple[float, int]]:
    """(when it may begin, size) of one worker that does one after the other."""
    found = []
    for size in sizes:
        now += pace.reserve(now, size)
        found.append((now, size))
    return found


def test_a_rest_allows_the_burst_and_then_the_rate_holds() -> None:
    pace = Pace(100, 50)
    assert [pace.reserve(7.0, 25) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]
    assert pace.reserve(1000.0, 25) == 0.0


def test_what_is_larger_than_the_burst_goes_and_is_paid_for_afterwards() -> None:
    pace = Pace(100, 0)
    assert pace.reserve(0.0, 1000) == 0.0
    assert pace.reserve(0.0, 1) == pytest.approx(10.0)


def test_another_rate_holds_from_the_next_reservation_on() -> None:
    pace = Pace(100, 0)
    pace.reserve(0.0, 1000)
    pace.set_rate(1000)
    assert pace.reserve(0.0, 1) == pytest.approx(1.0)


def test_a_clock_that_goes_back_pays_for_nothing_twice() -> None:
    pace = Pace(100, 0)
    pace.reserve(10.0, 1000)
    pace.reserve(0.0, 1)
    assert pace.reserve(10.0, 1) == pytest.approx(10.01)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_would_never_end_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="pace"):
        Pace(rate, 0)
    with pytest.raises(ValueError, match="pace"):
        Pace(1, 0).set_rate(rate)
    with pytest.raises(ValueError, match="burst"):
        Pace(1, -1)


SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=30)


@given(rate=st.integers(1, 1000), burst=st.integers(0, 2000), now=st.floats(0, 1e6), sizes=SIZES)
def test_within_any_time_no_more_than_the_rate_the_burst_and_one_more(
    rate: int, burst: int, now: float, sizes: list[int]
) -> None:
    done = begun(Pace(rate, burst), now, sizes)
    for first in range(len(done)):
        for last in range(first, len(done)):
            elapsed = done[last][0] - done[first][0]
            amount = sum(size for _, size in done[first:last])
            assert amount <= rate * elapsed + burst + done[first][1] + 1e-3


@given(rate=st.integers(1, 1000), burst=st.integers(0, 2000), sizes=SIZES)
def test_who_always_has_something_to_do_gets_the_whole_rate(rate: int, burst: int, sizes: list[int]) -> None:
    done = begun(Pace(rate, burst), 0.0, sizes)
    assert done[-1][0] <= sum(sizes[:-1]) / rate + 1e-6


@given(rate=st.integers(1, 1000), burst=st.integers(0, 2000),
       steps=st.lists(st.tuples(st.floats(-5, 50), st.integers(1, 3000)), max_size=30))
def test_waits_are_finite_even_when_the_clock_does_not_go_forward(
    rate: int, burst: int, steps: list[tuple[float, int]]
) -> None:
    pace, now, taken = Pace(rate, burst), 0.0, 0
    for step, size in steps:
        now += step
        assert 0.0 <= pace.reserve(now, size) <= taken / rate
        taken += size
