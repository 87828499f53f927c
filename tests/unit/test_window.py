"""The window towards one member follows the delay of the way, as long as blocks do not wait for each other on it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.window import LEAST, MOST, REMEMBERED, Window
from p2pfs.net.doorman import CONNECTIONS_PER_MEMBER
from p2pfs.node.peer import LANES

round_trips = st.floats(0, 60)


def after(*round_trips_s: float, blocks_s: tuple[float, ...] = (0.1,) * MOST) -> int:
    """The size after these answers and these blocks."""
    window = Window()
    for round_trip_s in round_trips_s:
        window.note(round_trip_s)
    for seconds in blocks_s:
        window.note_block(seconds)
    return window.size


def test_the_farther_the_wider() -> None:
    assert [after(), after(0.0005), after(0.010), after(0.030), after(0.050), after(0.2)] == [4, 4, 4, 8, 12, 12]


def test_a_busy_moment_does_not_widen_it() -> None:
    assert after(0.001, *[0.5] * (REMEMBERED - 1)) == LEAST


def test_it_follows_a_way_that_becomes_longer_and_one_that_becomes_shorter() -> None:
    assert after(0.001, *[0.1] * REMEMBERED) == MOST
    assert after(*[0.1] * REMEMBERED, 0.001) == LEAST


def test_it_opens_block_by_block_and_closes_with_a_slow_one() -> None:
    assert [after(0.1, blocks_s=(0.2,) * count) for count in (0, 1, 2, 50)] == [4, 5, 6, 12]
    assert after(0.1, blocks_s=(*[0.2] * 50, 3.0)) == LEAST


def test_a_way_that_is_long_is_not_taken_for_a_narrow_one() -> None:
    assert after(1.0, blocks_s=(2.5,) * MOST) == MOST


def wait_s(line_bytes_s: float, delay_s: float) -> float:
    """The longest that a block takes on a line of that rate which all share, after the first hundred."""
    window = Window()
    window.note(delay_s)
    longest = 0.0
    for number in range(500):
        seconds = 2 * delay_s + window.size * 2**20 / line_bytes_s
        window.note_block(seconds)
        if number > 100:
            longest = max(longest, seconds)
    return longest


def test_on_a_narrow_line_blocks_do_not_wait_for_each_other() -> None:
    for line_bytes_s in (0.5e6, 1e6, 4e6):
        assert math.isclose(wait_s(line_bytes_s, 0.1), 0.2 + LEAST * 2**20 / line_bytes_s)
    assert wait_s(10e6, 0.1) < 2.0


@given(st.lists(round_trips), round_trips, round_trips)
def test_it_has_bounds_and_grows_with_the_delay(before: list[float], one_s: float, other_s: float) -> None:
    near, far = sorted((one_s, other_s))
    assert LEAST <= after(*before, near) <= after(*before, far) <= MOST


def test_a_member_lets_in_what_two_of_them_open() -> None:
    assert 2 * (MOST + sum(LANES.values())) <= CONNECTIONS_PER_MEMBER
