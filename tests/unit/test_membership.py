"""The membership table by itself: merging, probing, suspicion, refutation, forgetting. Clusters: tests/sim."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.member import MAX_INCARNATION
from p2pfs.core.membership import TICK_S, Member, Membership, Timing
from tests.strategies import MEMBERS


def row(id: str, state: str = "alive", incarnation: int = 1, **fields: Any) -> Member:
    return Member(id, f"name-{id}", (f"{id}:1",), state, incarnation, **fields)


def table(*others: Member, timing: Timing | None = None) -> Membership:
    made = Membership(row("me", incarnation=100), timing or Timing(), random.Random(1))
    made.merge(0.0, others, "")
    return made


def pass_time(membership: Membership, start: float, end: float) -> list[tuple[float, str, str]]:
    """Tick as a driver does; when which member took which state."""
    seen = []
    steps = round((end - start) / TICK_S)
    for step in range(1, steps + 1):
        now = start + step * TICK_S
        seen += [(now, change.member.id, change.new) for change in membership.tick(now)]
    return seen


def fail(membership: Membership, now: float, id: str, silent: int = 0) -> list[str]:
    """Probe until that member's turn comes, and let it fail; the new states."""
    for _ in range(100):
        target = membership.next_probe(now)
        assert target is not None
        if target.id == id:
            membership.probe_failed(now, id)
            return [change.new for change in membership.indirect_failed(now, id, silent)]
        membership.probe_ok(now, target.id, 0.001)
    raise AssertionError(f"{id} is never probed")


def core(membership: Membership) -> dict[str, Any]:
    return {one.id: one.precedence for one in membership.snapshot() if one.id != "me"}


@given(st.lists(MEMBERS, min_size=1, max_size=4))
@settings(max_examples=60)
def test_merging_is_commutative_and_idempotent(rows: list[Member]) -> None:
    results = []
    for order in permutations(rows):
        membership = table()
        for one in order:
            membership.merge(0.0, [one], "")
        results.append(core(membership))
        membership.merge(0.0, rows, "")
        assert core(membership) == results[-1]
    assert all(result == results[0] for result in results)


@given(st.lists(MEMBERS, min_size=1, max_size=8))
@settings(max_examples=60)
def test_merging_only_moves_up_and_reports_what_moved(rows: list[Member]) -> None:
    membership = table()
    for one in rows:
        before = core(membership)
        changes = membership.merge(0.0, [one], "b")
        after = core(membership)
        assert all(after[id] >= before[id] for id in before)
        assert bool(changes) == (after != before)


@given(st.lists(st.builds(row, st.just("me"), st.sampled_from(["alive", "suspect", "dead", "left"]),
                          st.integers(0, 300)), max_size=5))
@settings(max_examples=60)
def test_nobody_else_decides_about_this_node(rows: list[Member]) -> None:
    membership = table()
    assert membership.merge(0.0, rows, "b") == []
    assert membership.me.state == "alive"
    assert membership.me.incarnation >= max([100, *(one.incarnation for one in rows)])
    assert all(membership.me.precedence >= one.precedence for one in rows)


def test_a_refutation_goes_out_fast_then_slower_than_before() -> None:
    membership = table(row("a"), row("b"))
    calm = membership.probe_interval_s()
    membership.merge(1.0, [row("me", "suspect", 100)], "a")
    assert membership.me.incarnation == 101
    assert membership.refutations == 1
    assert membership.probe_interval_s() == Timing().burst_interval_s
    for _ in range(20):
        membership.next_probe(1.0)
    assert membership.probe_interval_s() == 2 * calm, "Lifeguard: who was suspected trusts itself less"


def test_the_incarnation_stays_within_what_is_read() -> None:
    membership = table()
    membership.merge(0.0, [row("me", "dead", MAX_INCARNATION)], "a")
    assert membership.me.incarnation == MAX_INCARNATION


def test_an_identity_used_twice_is_counted() -> None:
    membership = table()
    membership.merge(0.0, [row("me", "alive", 500)._replace(addresses=("elsewhere:1",))], "a")
    assert membership.contested == 1
    assert membership.me.incarnation == 501
    membership.merge(0.0, [row("me", "alive", 400)._replace(addresses=("elsewhere:1",))], "a")
    assert membership.contested == 1


def test_everybody_is_probed_once_a_round() -> None:
    membership = table(*(row(f"n{number}") for number in range(10)))
    for _ in range(5):
        probed = [membership.next_probe(0.0) for _ in range(10)]
        assert {target.id for target in probed if target} == {f"n{number}" for number in range(10)}


def test_nobody_to_probe() -> None:
    assert table().next_probe(0.0) is None


def test_a_new_member_is_probed_in_this_round() -> None:
    membership = table(*(row(f"n{number}") for number in range(10)))
    membership.next_probe(0.0)
    membership.merge(0.0, [row("new")], "new")
    assert "new" in {target.id for target in (membership.next_probe(0.0) for _ in range(10)) if target}


def test_a_new_suspect_is_probed_next_so_that_it_hears_of_it() -> None:
    membership = table(*(row(f"n{number}") for number in range(7)))
    membership.next_probe(0.0)
    membership.merge(0.0, [row("n3", "suspect")], "n1")
    target = membership.next_probe(0.0)
    assert target is not None
    assert target.id == "n3"


def test_helpers_are_alive_and_others() -> None:
    membership = table(row("a"), row("b"), row("c"), row("s", "suspect"), row("d", "dead"))
    while (target := membership.next_probe(0.0)) is None or target.id != "a":
        pass
    assert {helper.id for helper in membership.probe_failed(0.0, "a")} == {"b", "c"}


def test_a_suspect_dies_when_its_time_is_over_and_sooner_when_others_agree() -> None:
    timing = Timing()
    others = [row(id) for id in "abcdef"]
    alone = table(*others)
    assert fail(alone, 0.0, "a") == ["suspect"]
    died = pass_time(alone, 0.0, 20.0)
    assert [event[1:] for event in died] == [("a", "dead")]
    assert died[0][0] == pytest.approx(timing.suspicion_min_s * timing.suspicion_max_factor, abs=0.11)
    agreed = table(*others)
    fail(agreed, 0.0, "a")
    for accuser in "bc":
        agreed.merge(0.1, [row("a", "suspect", accuser=accuser)], "d")
    assert pass_time(agreed, 0.1, 20.0)[0][0] == pytest.approx(timing.suspicion_min_s, abs=0.11)


def test_a_death_is_told() -> None:
    membership = table(*(row(id) for id in "abc"))
    fail(membership, 0.0, "a")
    pass_time(membership, 0.0, 10.0)
    assert [(one.id, one.state) for one in membership.updates(10, "b")] == [("a", "dead")]


def test_one_accuser_by_many_mouths_is_one() -> None:
    membership = table(*(row(id) for id in "abcdef"))
    for mouth in "bcdef":
        membership.merge(0.0, [row("a", "suspect", accuser="b")], mouth)
    assert pass_time(membership, 0.0, 5.0) == []


def test_a_refutation_in_time_saves_the_suspect() -> None:
    membership = table(row("a"), row("b"))
    fail(membership, 0.0, "a")
    changes = membership.merge(1.0, [row("a", "alive", 2)], "a")
    assert [(change.old, change.new) for change in changes] == [("suspect", "alive")]
    assert pass_time(membership, 1.0, 30.0) == []


def test_who_stood_still_blames_nobody() -> None:
    membership = table(row("a"), row("b"))
    fail(membership, 0.0, "a")
    target = membership.next_probe(0.1)
    assert target is not None
    assert membership.tick(100.0) == [], "the suspect gets its time again"
    assert membership.probe_failed(100.0, target.id) == []
    assert membership.indirect_failed(100.0, target.id) == []
    assert membership.stalls == 1
    assert [event[1:] for event in pass_time(membership, 100.0, 110.0)] == [("a", "dead")]


def test_a_clock_that_goes_back_is_no_harm() -> None:
    membership = table(row("a"))
    membership.tick(50.0)
    membership.tick(10.0)
    assert membership.tick(50.1) == []
    assert membership.stalls <= 1


def test_silent_helpers_make_this_node_doubt_itself_and_answers_restore_it() -> None:
    membership = table(row("a"), row("b"))
    fail(membership, 0.0, "a", silent=1)
    assert membership.probe_timeout_s == 2 * Timing().probe_timeout_s
    membership.probe_ok(0.0, "b", 0.001)
    assert membership.probe_timeout_s == Timing().probe_timeout_s


def test_an_accusation_is_the_first_thing_that_the_accused_hears() -> None:
    membership = table(*(row(f"n{number}") for number in range(50)), row("s", "suspect"), row("d", "dead"))
    membership.merge(0.0, [row(f"n{number}", incarnation=2) for number in range(50)], "n0")
    for accused, state in (("s", "suspect"), ("d", "dead")):
        news = membership.updates(5, accused)
        assert (news[0].id, news[0].state) == (accused, state)
        assert len(news) == 5
        assert [one.id for one in news].count(accused) == 1


def test_news_are_told_a_bounded_number_of_times() -> None:
    membership = table(row("a"), row("b"))
    membership.merge(0.0, [row("c")], "c")
    told = sum(len(membership.updates(10, "b")) for _ in range(100))
    assert told == Timing().retransmit


def test_the_newest_news_are_told_first() -> None:
    membership = table(row("a"))
    for number in range(10):
        membership.merge(0.0, [row(f"n{number}")], f"n{number}")
    assert [one.id for one in membership.updates(2, "a")] == ["n9", "n8"]


def test_who_cannot_hear_does_not_use_up_news() -> None:
    membership = table(row("a"), row("d", "dead"))
    membership.merge(0.0, [row("c")], "c")
    for _ in range(100):
        membership.updates(10, "d")
    assert [one.id for one in membership.updates(10, "a")] == ["c"]


def test_rows_from_disk_are_no_news() -> None:
    assert table(row("a"), row("b")).updates(10, "a") == []


def test_space_figures_come_from_the_member_itself() -> None:
    membership = table(row("a"), row("b"))
    membership.merge(0.0, [row("a", used_bytes=5, free_bytes=6)], "b")
    assert membership.get("a") == row("a")
    assert membership.merge(0.0, [row("a", used_bytes=5, free_bytes=6)], "a") == []
    assert membership.get("a") == row("a", used_bytes=5, free_bytes=6)


def test_what_was_seen_of_a_member() -> None:
    membership = table(row("a"))
    membership.merge(3.0, [], "a")
    membership.probe_ok(4.0, "a", 0.080)
    membership.probe_ok(5.0, "a", 0.160)
    me, a = membership.known()
    assert me.member.id == "me"
    assert (a.state_since, a.last_seen) == (0.0, 5.0)
    assert a.rtt_s == pytest.approx(0.090)


def test_who_counts_for_placement() -> None:
    membership = table(
        row("a", capacity=2.0, zone="z"), row("s", "suspect"), row("l", "left"), row("r", drains=True),
        row("old", "dead", dead_s=700), row("new", "dead", dead_s=10),
    )
    assert {one.id for one in membership.owners_candidates(0.0, 600)} == {"me", "a", "s", "new"}
    assert {one.id for one in membership.owners_candidates(595.0, 600)} == {"me", "a", "s"}
    membership.drain()
    assert {one.id for one in membership.owners_candidates(0.0, 600)} == {"a", "s", "new"}
    membership.drain(False)
    assert ("a", 2.0, "z") in membership.owners_candidates(0.0, 600)
    assert {one.id for one in membership.owners_candidates(0.0, 600)} == {"me", "a", "s", "new"}


def test_how_long_somebody_is_dead_travels_along() -> None:
    membership = table(row("d", "dead", dead_s=100), row("a"))
    membership.tick(0.5)
    pass_time(membership, 0.5, 20.5)
    assert [one.dead_s for one in membership.snapshot() if one.id == "d"] == [120]
    assert [one.dead_s for one in membership.updates(5, "d")] == [120]


def test_the_dead_are_probed_now_and_then() -> None:
    membership = table(row("a"), row("d", "dead"))
    probed = []
    for second in range(60):
        membership.tick(float(second))
        target = membership.next_probe(float(second))
        probed.append(target.id if target else "")
    assert 6 <= probed.count("d") <= 24


def test_forgetting_strikes_the_dead_only_and_for_a_while() -> None:
    membership = table(row("a"), row("d", "dead"), timing=Timing(forget_after_s=5.0))
    with pytest.raises(errors.Refused, match="alive"):
        membership.forget(0.0, "a")
    with pytest.raises(errors.NotFound):
        membership.forget(0.0, "nobody")
    assert membership.forget(0.0, "d").new == "left"
    with pytest.raises(errors.NotFound):
        membership.forget(0.0, "d")
    assert membership.merge(0.0, [row("d"), row("d", "dead")], "a") == []
    assert [one.id for one in membership.members()] == ["me", "a"]
    assert "d" in {one.id for one in membership.snapshot()}
    pass_time(membership, 0.0, 6.0)
    assert "d" not in {one.id for one in membership.snapshot()}


def test_a_forgotten_member_that_lives_comes_back() -> None:
    membership = table(row("d", "dead"))
    membership.forget(0.0, "d")
    assert [change.new for change in membership.merge(0.0, [row("d", "alive", 2)], "d")] == ["alive"]


def test_a_node_that_was_off_for_days_does_not_bring_back_who_was_struck() -> None:
    membership = table(row("a"), row("d", "dead"))
    membership.forget(0.0, "d")
    membership.tick(2 * 86400.0)
    membership.merge(2 * 86400.0, [row("d", "dead")], "a")
    assert "d" not in {one.id for one in membership.members()}


def test_how_long_ago_somebody_left_travels_along_so_that_all_let_go_of_it() -> None:
    first = table(row("a"), row("d", "dead", dead_s=5000), timing=Timing(forget_after_s=1000.0))
    first.forget(0.0, "d")
    first.tick(900.0)
    (told,) = [one for one in first.snapshot() if one.id == "d"]
    assert (told.state, told.dead_s) == ("left", 900)
    second = table(row("me2"), timing=Timing(forget_after_s=1000.0))
    second.merge(0.0, [told], "me2")
    second.tick(99.0)
    assert "d" in {one.id for one in second.snapshot()}
    for membership, now in ((first, 1001.0), (second, 101.0)):
        membership.tick(now)
        membership.merge(now, [told._replace(dead_s=1000)], "a")
        assert "d" not in {one.id for one in membership.snapshot()}
        membership.updates(100, "a")


def test_those_that_left_give_way_first_and_nobody_misses_them() -> None:
    membership = table(row("a"), row("b"), timing=Timing(max_members=20))
    words = ghosts(50, state="left")
    membership.merge(0.0, [one._replace(dead_s=100 + number) for number, one in enumerate(words)], "a")
    left = {one.id for one in membership.snapshot() if one.state == "left"}
    assert left == {f"ghost{number}" for number in range(7)}, "words, too, fill a half at most"
    membership.merge(0.0, [row("c", "dead"), row("e", "dead")], "a")
    for number in range(9):
        membership.merge(0.0, [row(f"real{number}")], f"real{number}")
    states = {one.id: one.state for one in membership.snapshot()}
    assert states["c"] == states["e"] == "dead"
    assert {id for id in states if states[id] == "left"} == {f"ghost{number}" for number in range(5)}, "the oldest go"
    for number in range(9, 15):
        membership.merge(0.0, [row(f"real{number}")], f"real{number}")
    assert membership.left_out == 0, "nobody whom collection would have to wait for"
    assert "left" not in {one.state for one in membership.snapshot()}
    membership.tick(1000.0)
    membership.updates(100, "a")


def test_leaving_is_final() -> None:
    membership = table(row("a"))
    membership.leave()
    membership.merge(0.0, [row("me", "alive", 500), row("me", "dead", 600)], "a")
    assert membership.me.state == "left"


def test_changes_of_this_node_are_newer_rows() -> None:
    membership = table()
    membership.update_self(zone="east", capacity=2.0)
    assert (membership.me.incarnation, membership.me.zone, membership.me.capacity) == (101, "east", 2.0)
    membership.update_self(zone="east")
    membership.report_space(5, 6)
    assert membership.me.incarnation == 101
    assert (membership.me.used_bytes, membership.me.free_bytes) == (5, 6)


def test_a_full_table_refuses_strangers_and_still_hears_of_friends() -> None:
    membership = table(*(row(f"n{number}") for number in range(20)), timing=Timing(max_members=10))
    assert len(membership.members()) == 10
    assert membership.left_out == 11
    assert [change.new for change in membership.merge(0.0, [row("n3", "dead")], "n1")] == ["dead"]


def test_syncs_are_due_on_a_timer_and_at_once_with_who_came_back() -> None:
    membership = table(row("a"), row("d", "dead"))
    times = []
    for step in range(3000):
        now = step * TICK_S
        membership.tick(now)
        if membership.next_sync(now):
            times.append(now)
    assert 6 <= len(times) <= 20
    membership.merge(300.0, [row("d", "alive", 2)], "d")
    partner = membership.next_sync(300.0)
    assert partner is not None
    assert partner.id == "d"


# --- members that this node never met ----------------------------------------------------------------

def ghosts(count: int, start: int = 0, state: str = "alive") -> list[Member]:
    return [row(f"ghost{number}", state, capacity=10_000.0) for number in range(start, start + count)]


def test_ten_thousand_ghosts_are_words_and_take_no_place() -> None:
    membership = table(row("a"), row("evil"))
    for start in range(0, 10_000, 100):
        assert membership.merge(0.0, ghosts(100, start), "evil") == []
    assert {one.id for one in membership.snapshot()} == {"me", "a", "evil"}
    assert {one.id for one in membership.owners_candidates(0.0, 600)} == {"me", "a", "evil"}
    assert membership.updates(100, "a") == []
    assert len(membership._hearsay) == Timing().max_members
    assert membership.left_out == 0, "the table itself has room"
    assert len(membership.unmet()) == Timing().max_members
    assert [change.new for change in membership.merge(0.0, [row("new")], "new")] == ["alive"], "it came itself"


def test_who_was_told_of_and_answers_is_a_member() -> None:
    membership = table(row("a"))
    membership.merge(0.0, [row("new"), row("ghost")], "a")
    for _ in range(2):
        target = membership.next_stranger(0.0)
        assert target is not None
        if target.id == "new":
            membership.merge(0.1, [row("new")], "new")
            membership.probe_ok(0.1, "new", 0.1)
        else:
            membership.probe_failed(0.1, "ghost")
            assert membership.indirect_failed(0.1, "ghost") == []
    assert membership.next_stranger(0.2) is None
    assert {one.id for one in membership.members()} == {"me", "a", "new"}
    assert len(membership._hearsay) == 0
    assert [told.row.id for told in membership.unmet()] == ["ghost"], "it may exist: nothing is collected meanwhile"
    membership.merge(500.0, [row("ghost")], "a")
    membership.next_stranger(500.0)
    membership.indirect_failed(500.0, "ghost")
    membership.tick(1000.0)
    assert len(membership.unmet()) == 1
    membership.tick(1200.0)
    assert membership.unmet() == []


def test_who_was_not_reached_and_comes_by_itself_is_met() -> None:
    membership = table(row("a"))
    membership.merge(0.0, [row("new")], "a")
    membership.next_stranger(0.0)
    membership.indirect_failed(0.5, "new")
    membership.merge(1.0, [row("new")], "new")
    assert membership.unmet() == []


@pytest.mark.parametrize("is_told_first", [True, False])
def test_who_was_struck_holds_nothing_up_though_somebody_who_was_off_still_tells_of_it(is_told_first: bool) -> None:
    membership = table(row("a"), row("was-off"))
    news = [([row("d")], "was-off"), ([row("d", "left")], "a")]
    for rows, teller in news if is_told_first else reversed(news):
        membership.merge(0.0, rows, teller)
    while (target := membership.next_stranger(0.1)) is not None:
        membership.indirect_failed(0.2, target.id)
    assert membership.unmet() == []
    membership.merge(0.3, [row("d", incarnation=2)], "was-off")
    assert [told.row.id for told in membership.unmet()] == ["d"], "it came back since"


def test_who_cannot_be_met_is_remembered_within_bounds() -> None:
    membership = table(row("evil"), timing=Timing(max_members=20))
    for number in range(100):
        membership.merge(0.0, ghosts(1, number), "evil")
        membership.next_stranger(0.0)
        membership.indirect_failed(0.0, f"ghost{number}")
    assert len(membership.unmet()) == 20


def test_a_helper_can_vouch_for_whom_another_one_told_of() -> None:
    membership = table(row("teller"), row("helper"))
    membership.merge(0.0, [row("new")], "teller")
    assert membership.next_stranger(0.0) == row("new")
    assert [one.id for one in membership.probe_failed(0.1, "new")] == ["helper"], "not who told of it"
    assert [change.new for change in membership.indirect_ok(0.1, "new")] == ["alive"]
    assert membership.get("new") == row("new")


def test_a_stall_loses_no_place_on_the_list() -> None:
    membership = table(row("a"))
    membership.merge(0.0, [row("new")], "a")
    membership.next_stranger(0.0)
    membership.tick(100.0)
    membership.indirect_failed(100.0, "new")
    assert len(membership._hearsay) == 0


def test_the_dead_that_were_never_met_fill_a_half_and_own_nothing() -> None:
    membership = table(row("a"), row("evil"), timing=Timing(max_members=20))
    membership.merge(0.0, ghosts(50, state="dead"), "evil")
    assert sum(one.state == "dead" for one in membership.members()) < 10
    assert {one.id for one in membership.owners_candidates(0.0, 600)} == {"me", "a", "evil"}
    assert membership.updates(10, "a") == []
    membership.merge(0.0, [one._replace(state="alive", incarnation=9) for one in ghosts(50)], "evil")
    assert sum(one.is_reachable for one in membership.members()) == 3, "to be called alive takes more than words, too"
    for number in range(30):
        membership.merge(0.0, [row(f"real{number}")], f"real{number}")
    assert sum(one.name.startswith("name-real") for one in membership.members()) == 17, "words give way"
    assert membership.left_out > 0


@given(st.lists(MEMBERS, max_size=5), st.integers(0, 2**53), st.integers(0, MAX_INCARNATION))
def test_whatever_is_heard_can_be_told(rows: list[Member], later_s: int, dead_s: int) -> None:
    """A row that others refuse would keep the whole message from them, and this node out of the cluster."""
    membership = table(row("a"))
    heard = [Member.from_wire(one._replace(dead_s=dead_s).to_wire()) for one in rows]
    for source in ("", "a", *(one.id for one in heard)):
        membership.merge(0.0, heard, source)
    membership.tick(float(later_s))
    for one in [*membership.snapshot(), *membership.updates(100, "a")]:
        assert Member.from_wire(one.to_wire()) == one


def test_nobody_was_dead_when_it_was_seen_here() -> None:
    membership = table(row("a"), row("evil"))
    membership.merge(50.0, [], "a")
    membership.merge(60.0, [row("a", "dead", dead_s=10**9)], "evil")
    assert "a" in {one.id for one in membership.owners_candidates(60.0, 600)}
