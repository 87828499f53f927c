"""The window towards one member follows the delay of the way, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.window import LEAST, MOST, REMEMBERED, Window
from p2pfs.net.doorman import CONNECTIONS_PER_MEMBER

round_trips = st.floats(0, 60)


def after(*round_trips_s: float) -> int:
    """The size after these answers."""
    window = Window()
    for round_trip_s in round_trips_s:
        window.note(round_trip_s)
    return window.size


def test_the_farther_the_wider() -> None:
    assert [after(), after(0.0005), after(0.010), after(0.030), after(0.050), after(0.2)] == [4, 4, 4, 8, 12, 12]


def test_a_busy_moment_does_not_widen_it() -> None:
    assert after(0.001, *[0.5] * (REMEMBERED - 1)) == LEAST


def test_it_follows_a_way_that_becomes_longer_and_one_that_becomes_shorter() -> None:
    assert after(0.001, *[0.1] * REMEMBERED) == MOST
    assert after(*[0.1] * REMEMBERED, 0.001) == LEAST


@given(st.lists(round_trips), round_trips, round_trips)
def test_it_has_bounds_and_grows_with_the_delay(before: list[float], one_s: float, other_s: float) -> None:
    near, far = sorted((one_s, other_s))
    assert LEAST <= after(*before, near) <= after(*before, far) <= MOST


def test_a_member_lets_in_what_two_of_them_open() -> None:
    assert 2 * (MOST + 3) <= CONNECTIONS_PER_MEMBER
