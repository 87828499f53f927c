"""When the audit does what, on a virtual clock: nothing is forgotten, and nothing takes all the time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from p2pfs.core.agenda import FAILED_S, REMOVED_S, REST, SETTLE_S, UNSETTLED_S, Agenda, Work

HOUR_S = 3600.0


class Player:
    """An audit whose work takes a given time, and a clock that jumps to where something is due."""

    def __init__(self, takes_s: float = 1.0) -> None:
        self.now = 0.0
        self.takes_s = takes_s
        self.agenda = Agenda(0.0)
        self.done: list[tuple[float, Work]] = []
        self.busy_s = 0.0
        self.is_unsettled = False

    def work(self, during: Callable[[], None] | None = None) -> Work:
        """Wait for what is due next, and do it; `during` happens in its middle."""
        while (work := self.agenda.next(self.now)) is None:  # twice, where the sum is rounded down
            self.now += self.agenda.wait_s(self.now)
        self.done.append((self.now, work))
        self.agenda.begin(work, self.now)
        if during:
            during()
        self.now += self.takes_s
        self.busy_s += self.takes_s
        self.agenda.end(work, self.now, self.is_unsettled, HOUR_S)
        return work

    def settle(self, within_s: float) -> None:
        """Work until all that happened is taken account of."""
        end = self.now + within_s
        while not self.agenda.is_current:
            self.work()
            assert self.now <= end, self.done


def settled() -> Player:
    player = Player()
    assert player.work() is Work.WALK, "a node that starts knows nothing"
    assert player.agenda.is_current
    return player


def test_without_changes_there_is_a_walk_in_each_interval() -> None:
    player = settled()
    assert [player.work() for _ in range(3)] == [Work.WALK] * 3
    assert player.now >= 3 * HOUR_S


def test_a_change_of_members_is_compared_after_a_moment_and_a_rest() -> None:
    player = settled()
    player.agenda.members_changed(player.now, is_held_up=False)
    begin = player.now
    assert not player.agenda.is_current
    assert player.work() is Work.COMPARE
    assert player.done[-1][0] - begin == max(SETTLE_S, player.takes_s)
    assert player.agenda.is_current


def test_a_change_of_members_makes_the_walk_anew_when_collection_is_held_up() -> None:
    player = settled()
    player.agenda.members_changed(player.now, is_held_up=True)
    assert Work.WALK in [player.work(), player.work()]
    assert player.now < 20


def test_new_pins_are_looked_at_and_too_many_are_walked() -> None:
    player = settled()
    player.agenda.pins_came(player.now, are_noted=True)
    assert player.work() is Work.RECENT
    assert player.agenda.is_current
    player.agenda.pins_came(player.now, are_noted=False)
    assert player.work() is Work.WALK


def test_removed_pins_call_for_a_walk() -> None:
    player = settled()
    begin = player.now
    player.agenda.pins_went(player.now)
    assert player.work() is Work.WALK
    assert player.done[-1][0] - begin == REMOVED_S


def test_what_changes_during_a_pass_is_not_forgotten() -> None:
    for change in (lambda it: it.agenda.members_changed(it.now, False), lambda it: it.agenda.pins_came(it.now, True)):
        player = settled()
        player.agenda.members_changed(player.now, False)
        player.work(during=lambda change=change, player=player: change(player))
        assert not player.agenda.is_current
        player.work()
        assert player.agenda.is_current
        assert player.now < 60


def test_a_comparison_takes_no_account_of_pins_that_are_still_to_be_looked_at() -> None:
    player = Player(takes_s=0.001)
    player.work()
    player.agenda.pins_came(player.now, True)
    player.agenda.begin(Work.COMPARE, player.now)
    player.agenda.end(Work.COMPARE, player.now, False, HOUR_S)
    assert not player.agenda.is_current
    assert player.work() is Work.RECENT
    assert player.agenda.is_current


def test_what_is_unsettled_is_looked_at_again_and_again() -> None:
    player = settled()
    player.is_unsettled = True
    player.agenda.members_changed(player.now, False)
    assert [player.work() for _ in range(4)] == [Work.COMPARE, Work.SETTLE, Work.SETTLE, Work.SETTLE]
    gaps = [later - earlier for (earlier, _), (later, _) in zip(player.done[1:], player.done[2:], strict=False)]
    assert gaps == [player.takes_s + UNSETTLED_S, *[player.takes_s * (1 + REST)] * 2]
    player.is_unsettled = False
    player.work()
    assert player.work() is Work.WALK, "nothing is left, so nothing comes before the interval is over"


def test_what_failed_is_tried_again() -> None:
    for work, then in ((Work.WALK, Work.WALK), (Work.SETTLE, Work.COMPARE), (Work.RECENT, Work.WALK)):
        player = settled()
        player.now += 100
        player.agenda.begin(work, player.now)
        player.agenda.fail(work)
        begin = player.now
        assert player.work() is then
        assert player.done[-1][0] - begin == FAILED_S


def test_pins_that_only_a_walk_finds_are_taken_account_of_by_a_walk_only() -> None:
    for forget in (
        lambda it: it.agenda.fail(Work.RECENT),
        lambda it: it.agenda.pins_came(it.now, are_noted=False),
    ):
        player = settled()
        agenda = player.agenda
        agenda.members_changed(player.now, False)
        player.now += 100
        agenda.pins_came(player.now, are_noted=True)
        agenda.begin(Work.RECENT, player.now)
        forget(player)
        for work in (Work.COMPARE, Work.RECENT):
            agenda.pins_came(player.now, are_noted=True)
            agenda.begin(Work.RECENT, player.now)  # not any more among what is due
            agenda.begin(work, player.now)
            agenda.end(work, player.now, False, HOUR_S)
            assert not agenda.is_current
            assert not agenda.has_seen_the_members
        assert player.work() is Work.WALK
        assert agenda.is_current
        assert agenda.has_seen_the_members


def test_pins_that_cannot_be_looked_at_at_the_end_of_a_walk_take_another_one() -> None:
    player = settled()
    player.now += HOUR_S
    begin = player.now

    def come_and_fail() -> None:
        player.agenda.pins_came(player.now, are_noted=True)
        player.agenda.fail(Work.RECENT)

    assert player.work(during=come_and_fail) is Work.WALK
    assert not player.agenda.is_current
    while player.work() is not Work.WALK:
        assert not player.agenda.is_current
    assert player.agenda.is_current
    assert player.done[-1][0] <= begin + FAILED_S


def test_pins_that_come_all_the_time_put_nothing_else_off() -> None:
    player = settled()
    player.is_unsettled = True
    player.agenda.members_changed(player.now, False)
    for _ in range(50):
        player.agenda.pins_came(player.now, True)
        player.work(during=lambda: player.agenda.pins_came(player.now, True))
    kinds = [work for _, work in player.done]
    assert Work.COMPARE in kinds
    assert kinds.count(Work.SETTLE) > 5
    assert player.agenda.has_seen_the_members
    assert not player.agenda.is_current


def test_the_members_are_seen_only_after_everybody_can_have_heard_of_the_change() -> None:
    player = Player(takes_s=0.01)
    player.work()
    player.agenda.members_changed(player.now, False)
    player.agenda.pins_came(player.now, True)
    changed_at = player.now
    while not player.agenda.has_seen_the_members:
        player.work(during=lambda: player.agenda.pins_came(player.now, True))
    assert player.done[-1][0] > changed_at + 5.0


WHAT = st.sampled_from(["members", "held", "pins", "many", "went", "work", "fail"])
EVENTS = st.lists(st.tuples(st.floats(0, 30), WHAT), max_size=60)


@given(EVENTS, st.floats(0.001, 20))
@example([(4.155249006916366, "fail"), (0.00021603296649480282, "members")], 1.0)
def test_whatever_happens_all_is_seen_in_the_end_and_passes_rest(
    events: list[tuple[float, str]], takes_s: float
) -> None:
    player = Player(takes_s)
    agenda = player.agenda
    for pause_s, what in events:
        player.now += pause_s
        if what in ("members", "held"):
            agenda.members_changed(player.now, what == "held")
        elif what in ("pins", "many"):
            agenda.pins_came(player.now, what == "pins")
        elif what == "went":
            agenda.pins_went(player.now)
        elif (work := agenda.next(player.now)) is not None:
            if what == "fail":
                agenda.begin(work, player.now)
                agenda.fail(work)
            else:
                player.work()
    player.settle(within_s=10 * takes_s * (REST + 1) + 3 * FAILED_S + REMOVED_S)
    for kind in Work:
        begins = [at for at, work in player.done if work is kind]
        for earlier, later in itertools.pairwise(begins):
            assert later - earlier >= takes_s * (REST + 1) - 1e-6, "each kind rests in proportion"


def test_a_small_look_does_not_wait_for_the_rest_after_a_long_walk() -> None:
    player = Player(takes_s=100)
    player.is_unsettled = True
    assert player.work() is Work.WALK
    player.takes_s = 0.1
    begin = player.now
    assert player.work() is Work.SETTLE
    assert player.done[-1][0] - begin == UNSETTLED_S
