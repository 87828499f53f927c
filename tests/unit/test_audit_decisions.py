"""What the audit does about a block: by hand for the cases of the design, by properties for all others."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.audit import Live, Stand, Task, count_state, decide, is_in_charge, owners, wanted
from p2pfs.core.health import Figures, total

BLOCK = b"\x12\x20" + bytes(32)
ORDER = ("a", "b", "c", "d")


def leaf(copies: int = 2) -> Live:
    return Live(BLOCK, copies, 1000, False)


def branch(copies: int = 2) -> Live:
    return Live(BLOCK, copies, 1000, True)


def stand(me: str, order: tuple[str, ...] = ORDER, reachable: str = "abcd", possible: int | None = None) -> Stand:
    return Stand(me, order, frozenset(reachable), len(order) if possible is None else possible)


IDS = st.sampled_from("abcdef")
LIVES = st.builds(Live, st.just(BLOCK), st.integers(0, 8), st.integers(0, 2**21), st.booleans())
STANDS = st.builds(
    Stand, IDS, st.lists(IDS, unique=True).map(tuple), st.frozensets(IDS), st.integers(0, 8)
)


@pytest.mark.parametrize(("me", "live", "is_here", "task"), [
    ("b", leaf(), False, Task.FETCH),
    ("b", leaf(), True, Task.NONE),
    ("a", leaf(), True, Task.COUNT),
    ("a", leaf(), False, Task.COUNT | Task.FETCH),
    ("c", leaf(), True, Task.GIVE_UP),
    ("c", leaf(), False, Task.NONE),
    ("d", branch(), False, Task.FETCH),
    ("d", branch(), True, Task.NONE),
    ("x", branch(), False, Task.FETCH),
    ("x", branch(), True, Task.GIVE_UP),
    ("x", leaf(), True, Task.GIVE_UP),
    ("a", leaf(0), False, Task.NONE),
    ("c", leaf(0), True, Task.NONE),
    ("x", branch(0), False, Task.NONE),
    ("a", None, True, Task.COLLECT),
    ("c", None, True, Task.COLLECT),
    ("a", None, False, Task.NONE),
])
def test_the_cases_of_the_design(me: str, live: Live | None, is_here: bool, task: Task) -> None:
    assert decide(stand(me), live, is_here) == task


def test_a_pin_that_wants_more_than_there_are_members_gets_them_all() -> None:
    assert owners(stand("a"), leaf(9)) == ORDER and wanted(stand("a"), leaf(9)) == 4


def test_those_that_may_own_nothing_stand_last_and_own_nothing() -> None:
    assert owners(stand("a", possible=1), leaf(3)) == ("a",)
    assert owners(stand("a", possible=0), leaf(3)) == ("a",), "somebody has to"


def test_the_first_that_can_be_reached_is_in_charge() -> None:
    assert [id for id in ORDER if is_in_charge(stand(id, reachable="cd"))] == ["a", "b", "c"]
    assert [id for id in "cd" if is_in_charge(stand(id, reachable="cd"))] == ["c"]
    assert not is_in_charge(stand("x"))


def test_who_drains_alone_keeps_what_nobody_else_can_hold() -> None:
    assert decide(stand("a", order=()), leaf(), True) == Task.NONE
    assert decide(stand("a", order=()), branch(), True) == Task.NONE


@given(STANDS, LIVES, st.booleans())
def test_fetch_and_giving_up_exclude_each_other(stand: Stand, live: Live, is_here: bool) -> None:
    task, holders = decide(stand, live, is_here), owners(stand, live)
    is_mine = stand.me in holders or (live.is_branch and live.copies > 0)
    assert (Task.FETCH in task) == (is_mine and not is_here)
    assert (Task.GIVE_UP in task) == (is_here and bool(holders) and stand.me not in holders)
    assert Task.COLLECT not in task, "a wanted block is never collected"
    assert (Task.COUNT in task) == (live.copies > 0 and is_in_charge(stand))


@given(STANDS, LIVES)
def test_owners_are_the_first_of_the_order_and_as_many_as_wanted(stand: Stand, live: Live) -> None:
    holders = owners(stand, live)
    assert len(set(holders)) == len(holders)
    if live.copies == 0:
        assert holders == ()
    elif live.is_branch:
        assert holders == stand.order
    else:
        assert holders == stand.order[: len(holders)]
        assert len(holders) == min(wanted(stand, live), len(stand.order))


@given(STANDS, LIVES)
def test_exactly_one_is_in_charge_when_all_see_the_same(stand: Stand, live: Live) -> None:
    there = [id for id in stand.order if id in stand.reachable]
    in_charge = [id for id in there if is_in_charge(stand._replace(me=id))]
    assert in_charge == there[:1]


@given(STANDS, LIVES, LIVES, st.booleans())
def test_alike_blocks_are_treated_alike(stand: Stand, live: Live, other: Live, is_here: bool) -> None:
    alike = live._replace(block=b"\x12\x20" + bytes(31) + b"\1", size=other.size)
    assert decide(stand, alike, is_here) == decide(stand, live, is_here)
    assert owners(stand, alike) == owners(stand, live)


class Counting(NamedTuple):
    copies: int
    is_certain: bool
    kinds: set[str]


@pytest.mark.parametrize("case", [
    Counting(5, True, {"live"}),
    Counting(3, False, {"live"}),
    Counting(2, True, {"live", "below"}),
    Counting(1, True, {"live", "below", "single"}),
    Counting(0, True, {"live", "below", "lost"}),
    Counting(0, False, {"live", "below", "silent"}),
])
@pytest.mark.parametrize("live", [leaf(3), branch(3)], ids=["leaf", "branch"])
def test_what_a_block_adds_to_the_figures(case: Counting, live: Live) -> None:
    expected = Figures(**{f"{kind}_{unit}": 1 if unit == "blocks" else 1000
                          for kind in case.kinds for unit in ("blocks", "bytes")})
    assert count_state(stand("a"), [live], case.copies, case.is_certain) == expected


def test_one_copy_is_no_risk_where_no_more_are_wanted() -> None:
    for live, stand_ in ((leaf(1), stand("a")), (leaf(3), stand("a", order=("a",)))):
        assert count_state(stand_, [live], 1, True) == Figures(live_blocks=1, live_bytes=1000)


def test_what_is_only_kept_is_not_counted() -> None:
    assert count_state(stand("a"), [leaf(0)], 0, True) == Figures()


@given(STANDS, LIVES, st.lists(st.integers(0, 2**21), max_size=5), st.integers(0, 9), st.booleans())
def test_alike_blocks_count_together_as_one_by_one(
    stand: Stand, live: Live, sizes: list[int], copies: int, is_certain: bool
) -> None:
    lives = [live._replace(size=size) for size in sizes]
    one_by_one = total(count_state(stand, [it], copies, is_certain) for it in lives)
    assert count_state(stand, lives, copies, is_certain) == one_by_one


@given(STANDS, LIVES, st.integers(0, 9), st.booleans())
def test_the_kinds_are_among_those_below(stand: Stand, live: Live, copies: int, is_certain: bool) -> None:
    state = count_state(stand, [live], copies, is_certain)
    assert state.live_blocks == (live.copies > 0)
    assert state.below_blocks == (copies < wanted(stand, live))
    assert state.single_blocks + state.silent_blocks + state.lost_blocks <= state.below_blocks <= state.live_blocks
