"""The verdict: which word, why, how much is left, and when it is done."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.health import Away, Figures, Health, judge, total

MIB = 1 << 20
ALL_WELL = {"node-a": Figures(live_blocks=10, live_bytes=10 * MIB), "node-b": Figures()}
FIGURES = st.builds(Figures, *[st.integers(0, 2**40)] * len(Figures._fields))


def judged(figures: dict[str, Figures] | None = None, away: tuple[Away, ...] = (), silent: tuple[str, ...] = (),
           wanted: int = 3, rate: int = MIB, is_current: bool = True) -> Health:
    return judge(ALL_WELL if figures is None else figures, away, silent, wanted, 3, rate, is_current)


# --- figures -----------------------------------------------------------------------------------------

@given(FIGURES)
def test_figures_travel(figures: Figures) -> None:
    sent = json.loads(json.dumps(figures.to_wire() | {"is_current": True, "of a later version": [1]}))
    assert Figures.from_wire(sent) == figures


@pytest.mark.parametrize("value", [None, [], "x", {}, {"live_blocks": 1}])
def test_what_is_no_figures_is_refused(value: object) -> None:
    with pytest.raises(errors.ProtocolError):
        Figures.from_wire(value)


@pytest.mark.parametrize("field", Figures._fields)
@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, 2**63])
def test_a_figure_that_is_no_count_is_refused(field: str, value: object) -> None:
    with pytest.raises(errors.ProtocolError, match=field):
        Figures.from_wire(Figures().to_wire() | {field: value})


@given(st.lists(FIGURES))
def test_total_adds_each_field(figures: list[Figures]) -> None:
    for field in Figures._fields:
        assert getattr(total(figures), field) == sum(getattr(one, field) for one in figures)


# --- verdict -----------------------------------------------------------------------------------------

def test_all_well() -> None:
    assert judged() == Health("healthy", (), 0, 0.0)
    assert judge({}, [], [], 1, 1, MIB, True) == Health("healthy", (), 0, 0.0)


@pytest.mark.parametrize(("figures", "verdict", "reason"), [
    (Figures(lost_blocks=1, lost_bytes=2 * MIB, below_blocks=1, below_bytes=2 * MIB), "lost",
     "1 block (2.00 MiB) is on no member; store the files again that have them"),
    (Figures(silent_blocks=2, silent_bytes=5), "at-risk",
     "2 blocks (5 B) are on no member that answered"),
    (Figures(single_blocks=1, single_bytes=5), "at-risk", "1 block (5 B) has one copy left"),
    (Figures(below_blocks=1203, below_bytes=1203 * MIB), "degraded",
     "1,203 blocks (1.17 GiB) have fewer copies than wanted"),
    (Figures(missing_blocks=3, missing_bytes=3 * MIB), "healthy",
     "moving in: 3 blocks (3.00 MiB) to node-c, 3.0 s to go"),
    (Figures(displaced_blocks=1, displaced_bytes=7), "healthy",
     "no room for 1 block (7 B) on node-c, others hold them; give it more room, or add a node"),
])
def test_each_kind_of_block_has_its_word(figures: Figures, verdict: str, reason: str) -> None:
    health = judged({**ALL_WELL, "node-c": figures})
    assert (health.verdict, health.reasons[0]) == (verdict, reason)


def test_the_gravest_word_wins_and_its_reason_comes_first() -> None:
    health = judged({
        "node-a": Figures(below_blocks=9, below_bytes=9, single_blocks=3, single_bytes=3, silent_blocks=2),
        "node-b": Figures(below_blocks=1, below_bytes=1, lost_blocks=1, lost_bytes=1),
    })
    assert health.verdict == "lost"
    assert [reason.split()[0] for reason in health.reasons] == ["1", "2", "3", "10"]


def test_who_is_away_degrades_and_the_operator_reads_until_when() -> None:
    health = judged(away=(Away("node-d", -3.0), Away("node-c", 480.0)))
    assert health.verdict == "degraded"
    assert health.reasons == (
        "away: node-d; its shards are the others' now; bring it back, or `forget` it",
        "away: node-c; its shards are taken over in 8 m unless it comes back",
    )


def test_silent_blocks_name_who_has_to_come_back() -> None:
    health = judged({"node-a": Figures(silent_blocks=1, silent_bytes=1)}, (Away("node-d", 5),), ("node-c",))
    assert health.reasons[0].endswith("bring back node-c, node-d")


def test_who_does_not_answer_degrades() -> None:
    health = judged(silent=("node-d", "node-c"))
    assert (health.verdict, health.time_to_go_s) == ("degraded", None)
    assert health.reasons == ("no answer from node-c, node-d: what they lack is not in these figures",)


def test_hints_do_not_change_the_verdict() -> None:
    health = judged(wanted=2, is_current=False)
    assert health == Health("healthy", (
        "3 copies are wanted, the members there are can hold 2",
        "the audit is not through with the last change yet",
    ), 0, 0.0)


# --- what is left, and how long it takes -------------------------------------------------------------

def test_the_node_with_most_to_fetch_says_when_it_is_done() -> None:
    health = judged({
        "node-a": Figures(missing_blocks=1, missing_bytes=10 * MIB, below_blocks=2, below_bytes=35 * MIB),
        "node-b": Figures(missing_blocks=1, missing_bytes=20 * MIB),
    }, rate=2 * MIB)
    assert (health.left_bytes, health.time_to_go_s) == (35 * MIB, 10.0)
    assert "being restored: 2 blocks (30.0 MiB) to node-a, node-b, 10 s to go" in health.reasons


def test_before_shards_are_taken_over_that_is_waited_for() -> None:
    figures = {"node-a": Figures(below_blocks=2, below_bytes=20 * MIB), "node-b": Figures()}
    health = judged(figures, away=(Away("node-d", 600.0), Away("node-c", 100.0)))
    assert (health.left_bytes, health.time_to_go_s) == (20 * MIB, 110.0), "two nodes share 20 MiB at 1 MiB/s each"


@pytest.mark.parametrize("figures", [
    Figures(lost_blocks=1, lost_bytes=1, below_blocks=1, below_bytes=1, missing_blocks=1, missing_bytes=1),
    Figures(silent_blocks=1, silent_bytes=1, below_blocks=1, below_bytes=1),
])
def test_where_nobody_can_know_no_time_is_said(figures: Figures) -> None:
    assert judged({"node-a": figures}).time_to_go_s is None


AWAY = st.lists(st.builds(Away, st.sampled_from(["node-x", "node-y"]), st.floats(-1e6, 1e6)), max_size=3)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), FIGURES), AWAY, st.lists(st.just("node-z"), max_size=1),
       st.integers(1, 5), st.integers(1, 2**30), st.booleans())
def test_every_word_but_healthy_has_a_reason_and_no_time_is_negative(
    figures: dict[str, Figures], away: list[Away], silent: list[str], wanted: int, rate: int, is_current: bool
) -> None:
    health = judge(figures, away, silent, wanted, 3, rate, is_current)
    sums = total(figures.values())
    assert (health.verdict == "lost") == (sums.lost_blocks > 0)
    assert health.verdict == "healthy" or health.reasons
    assert health.left_bytes == max(sums.below_bytes, sums.missing_bytes)
    assert health.time_to_go_s is None or health.time_to_go_s >= 0
    if health.verdict == "healthy":
        assert not (away or silent or sums.below_blocks or sums.single_blocks or sums.silent_blocks)
    assert judge(figures, away, silent, 1, 3, rate, not is_current).verdict == health.verdict


def test_before_the_owners_looked_the_time_is_what_copying_takes() -> None:
    health = judged({"node-a": Figures(below_blocks=1, below_bytes=2**20), "node-b": Figures()})
    assert health.time_to_go_s == pytest.approx(0.5)


def test_who_was_not_audited_since_its_start_knows_of_nothing_and_degrades() -> None:
    health = judge({"node-a": Figures()}, [], [], 2, 2, MIB, True, unaudited=["node-a"])
    assert health.verdict == "degraded"
    assert "node-a" in health.reasons[0]
