"""Histories of a cluster that are drawn by chance: what was acknowledged holds, and all agree in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.core import rights
from p2pfs.core.pins import Pin
from p2pfs.node import pinning, upkeep_verbs
from p2pfs.node.securing import make_pins
from tests.green.history import DAY_S, NAMES, ROOTS, History

NODES = st.integers(0, 4)
REFS = st.sampled_from([*map(str, ROOTS), *filter(None, NAMES)])
SPANS = st.sampled_from([1.0, 5.0, 100.0, 3600.0, DAY_S, 40 * DAY_S, 100 * DAY_S])
LEAPS = st.sampled_from([0.0, 0.0, 2.0, 30.0, 600.0, 3600.0, 20 * 3600.0, 2 * DAY_S, 100 * DAY_S, 400 * DAY_S])
WAYS = ["clean", "kill", "catalog", "journal", "both", "broken"]
PLAIN = {
    "store": st.tuples(NODES, st.integers(0, 1), st.sampled_from(NAMES)),
    "remove": st.tuples(NODES, REFS),
    "restore": st.tuples(NODES, REFS),
    "compare": st.tuples(NODES, NODES),
    "cut": st.tuples(st.sets(NODES, max_size=2)),
    "deaf": st.tuples(NODES, NODES),
    "lose_answers": st.tuples(NODES, NODES),
    "restart": st.tuples(NODES, st.sampled_from(WAYS)),
    "leap": st.tuples(NODES, LEAPS),
    "wait": st.tuples(SPANS),
}
"""What may also happen in the middle of something."""
KINDS = PLAIN | {
    "level": st.tuples(),
    "heal": st.tuples(),
    "slow": st.tuples(NODES),
    "strike": st.tuples(NODES),
    "purge": st.tuples(NODES),
    "leap_all": st.tuples(LEAPS),
    "drain": st.tuples(NODES),
    "full": st.tuples(NODES),
}
Step = tuple[Any, ...]


def steps_of(kinds: list[str]) -> st.SearchStrategy[list[Step]]:
    """Of some kinds: with all of them at once each would be too rare."""
    plain = {kind: args.map(lambda args, kind=kind: (kind, *args)) for kind, args in PLAIN.items()}  # type: ignore[misc]
    others = {kind: args.map(lambda args, kind=kind: (kind, *args)) for kind, args in KINDS.items()}  # type: ignore[misc]
    others["meanwhile"] = st.tuples(st.just("meanwhile"), st.integers(0, 12), st.one_of(*plain.values()))
    return st.lists(st.one_of(*(others[kind] for kind in ["store", "store", "remove", *kinds])), max_size=30)


STEPS = st.lists(st.sampled_from([*KINDS, "meanwhile"]), min_size=2, unique=True).flatmap(steps_of)


def play(history: History, step: Step) -> None:
    """One step. Numbers of nodes are taken modulo their number."""
    verb, *args = step
    ids = history.ids

    def node(at: int) -> str:
        return ids[args[at] % len(ids)]

    if verb == "store":
        history.store(node(0), args[1], args[2])
    elif verb == "remove":
        history.remove(node(0), args[1])
    elif verb == "restore":
        history.restore(node(0), args[1])
    elif verb == "compare":
        history.compare(node(0), node(1))
    elif verb == "cut":
        history.cut({ids[number % len(ids)] for number in args[0]})
    elif verb == "heal":
        history.cut(set())
        history.deaf, history.answers_lost, history.slow = set(), set(), set()
    elif verb == "deaf":
        history.deaf ^= {(node(0), node(1))}
    elif verb == "lose_answers":
        history.answers_lost ^= {(node(0), node(1))}
    elif verb == "slow":
        history.slow ^= {node(0)}
    elif verb == "restart":
        history.restart(node(0), args[1])
    elif verb == "leap":
        history.ahead_ms[node(0)] = int(args[1] * 1000)
    elif verb == "leap_all":
        history.ahead_ms = dict.fromkeys(ids, int(args[0] * 1000))
    elif verb == "wait":
        history.pass_s(args[0])
    elif verb == "level":
        history.level()
    elif verb == "strike":
        history.strike(node(0))
    elif verb == "purge":
        history.purge(node(0))
    elif verb == "drain":
        history.draining ^= {node(0)}
    elif verb == "full":
        catalog = history.nodes[node(0)].catalog
        catalog.max_records = sum(catalog._counts)
    elif verb == "meanwhile":
        history.meanwhile = [(args[0], lambda: play(history, args[1]))]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path, 3, 2)
    yield history
    history.close()


def has_been_removed_ahead(history: History) -> None:
    """n1, whose clock is ahead, removed all that is called `a`, and nobody has heard of it."""
    history.cut({"n1"})
    history.ahead_ms["n1"] = 60_000
    history.remove("n1", "a")
    history.cut(set())
    history.ahead_ms["n1"] = 0


def test_a_tombstone_that_comes_by_a_comparison_during_a_store_is_outranked(history: History) -> None:
    history.store("n0", 0, "a")
    has_been_removed_ahead(history)
    history.deaf = {("n0", "n1")}
    history.meanwhile = [(2, lambda: history.level())]  # n1 was not reached, n2 has taken the pin
    history.store("n0", 0, "a")
    history.heal()
    assert [len(history.live(id)) for id in history.ids] == [1] * 3


def test_who_has_no_room_for_one_record_says_that_it_removed_another_one(history: History) -> None:
    history.store("n0", 0, "a")
    has_been_removed_ahead(history)
    history.nodes["n1"].catalog.max_records = 1
    node = history.nodes["n0"]
    pins = [Pin(ROOTS[number], "a", 1, None, 1, 1, 1, 1, "n0") for number in range(2)]
    make_pins(history.services["n0"], cast(Any, SimpleNamespace(keep=lambda: None, quorum=2)), pins, rights.OF_MEMBER)
    assert node.catalog.counts() == (2, 0)
    history.heal()
    assert [len(history.live(id)) for id in history.ids] == [2] * 3


def test_each_of_many_pins_outranks_its_tombstone(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were removed one after the other, and travel in more messages than a store has attempts."""
    monkeypatch.setattr(pinning, "BATCH", 1)
    names = [f"a{number}" for number in range(pinning.ATTEMPTS + 1)]
    for name in names:
        history.store("n0", 0, name)
    history.cut({"n1"})
    history.ahead_ms["n1"] = 60_000
    for name in names:
        history.remove("n1", name)
    history.cut(set())
    history.ahead_ms["n1"] = 0
    pins = [Pin(ROOTS[0], name, 1, None, 1, 1, 1, 1, "n0") for name in names]
    make_pins(history.services["n0"], cast(Any, SimpleNamespace(keep=lambda: None, quorum=2)), pins, rights.OF_MEMBER)
    history.heal()
    assert [len(history.live(id)) for id in history.ids] == [len(names)] * 3


def test_a_node_is_drained_when_those_that_stay_know_its_pins(history: History) -> None:
    """n1 and n2 have no room for them at first: when n0 goes, nobody has them."""
    for id in ("n1", "n2"):
        history.nodes[id].catalog.max_records = 0
    history.write_quorum = 1
    history.store("n0", 0, "a")
    history.draining = {"n0"}
    services = history.services["n0"]
    services.audit = SimpleNamespace(is_drained=True)
    services.cluster.limited = lambda copies: min(copies, 2)
    services.config.cluster.write_quorum = 2
    assert not upkeep_verbs.is_drained(services)
    history.nodes["n1"].catalog.max_records = 1
    assert not upkeep_verbs.is_drained(services)
    history.nodes["n2"].catalog.max_records = 1
    history.deaf = {("n0", "n2")}
    assert not upkeep_verbs.is_drained(services)
    history.deaf = set()
    assert upkeep_verbs.is_drained(services)
    assert [len(history.live(id)) for id in history.ids] == [1] * 3


@given(st.integers(3, 5), st.integers(1, 3), STEPS)
@settings(max_examples=settings.default.max_examples * 2 // 5)
def test_whatever_befalls_a_cluster_what_was_acknowledged_holds_and_all_agree(
    tmp_path_factory: pytest.TempPathFactory, size: int, quorum: int, steps: list[Step]
) -> None:
    """Also after all tombstones went, and everybody was restarted."""
    history = History(tmp_path_factory.mktemp("history"), size, quorum)
    try:
        for step in steps:
            play(history, step)
        history.heal()
        history.check()
        history.pass_s(200 * DAY_S)
        for id in history.ids:
            history.purge(id)
        for id in history.ids:
            history.restart(id, "clean")
        history.heal()
        history.check()
    finally:
        history.close()
