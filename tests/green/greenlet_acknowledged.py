"""Histories of a cluster that are drawn by chance: what was acknowledged holds, and all agree in the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import settings

from p2pfs.core import rights
from p2pfs.core.pins import Pin
from p2pfs.node import pinning, upkeep_verbs
from p2pfs.node.securing import make_pins
from tests.green.history import DAY_S, NAMES, ROOTS, History

SEEKS = not settings.default.derandomize
"""`make properties`: other histories than `make test` has, and more."""
FIRST = random.SystemRandom().randrange(10**9) if SEEKS else 0
COUNT = 100 if SEEKS else 20

WEIGHTS = {
    "store": 8, "remove": 5, "restore": 2, "compare": 6, "cut": 5, "deaf": 2, "lose_answers": 2, "restart": 4,
    "leap": 4, "wait": 5, "level": 3, "heal": 4, "slow": 2, "strike": 2, "purge": 4, "leap_all": 2, "drain": 2,
    "full": 2, "meanwhile": 6,
}
PLAIN = {"store", "remove", "restore", "compare", "cut", "deaf", "lose_answers", "restart", "leap", "wait"}
"""What may also happen in the middle of something."""
SPANS = [1.0, 5.0, 100.0, 3600.0, DAY_S, 40 * DAY_S, 100 * DAY_S]
LEAPS = [0.0, 2.0, 30.0, 600.0, 3600.0, 20 * 3600.0, 2 * DAY_S, 100 * DAY_S, 400 * DAY_S]
WAYS = ["clean", "kill", "catalog", "journal", "both", "broken"]
STRUCK = [("strike", number) for number in range(5)]

Step = tuple[Any, ...]


class Chance:
    """Draws histories. Each has some kinds of steps and values only: of all at once each would be too rare."""

    def __init__(self, seed: int, kinds: dict[str, int], chance_of_kind: float = 0.45) -> None:
        self._random = chance = random.Random(seed)
        self._weights = {
            kind: weight for kind, weight in kinds.items()
            if kind in ("store", "remove", "compare") or chance.random() < chance_of_kind
        }
        self._spans = chance.sample(SPANS, 3)
        self._leaps = chance.choice([[0.0, 2.0, 30.0], [0.0, 30.0, 3600.0], [0.0, 5.0, 20 * 3600.0], LEAPS])
        self._ways = chance.sample(WAYS, chance.choice([1, 2, 6]))
        self._roots, self._names = chance.choice([1, 1, 2]), chance.choice([["a"], ["a"], NAMES])
        self.size, self.quorum = chance.choice([3, 3, 4, 5]), chance.choice([1, 2, 2, 3])

    def steps(self, most: int) -> list[Step]:
        """A few, or many."""
        return [self._step(self._weights) for _ in range(self._random.randrange(most))]

    def _step(self, weights: dict[str, int]) -> Step:
        chance = self._random
        (kind,) = chance.choices(list(weights), list(weights.values()))
        node, other, root = chance.randrange(5), chance.randrange(5), chance.randrange(self._roots)
        args: dict[str, Step] = {
            "store": (node, root, chance.choice(self._names)),
            "remove": (node, chance.choice([str(ROOTS[root]), "a"])),
            "restore": (node, chance.choice([str(ROOTS[root]), "a"])),
            "compare": (node, other), "deaf": (node, other), "lose_answers": (node, other),
            "cut": ({node, other},), "restart": (node, chance.choice(self._ways)),
            "leap": (node, chance.choice(self._leaps)), "leap_all": (chance.choice(self._leaps),),
            "wait": (chance.choice(self._spans),), "level": (), "heal": (),
        }
        if kind == "meanwhile":
            plain = {kind: weight for kind, weight in weights.items() if kind in PLAIN}
            return (kind, chance.randrange(12), self._step(plain))
        return (kind, *args.get(kind, (node,)))

    def absence(self) -> list[Step]:
        """Both sides of a cut strike each other, and let go of tombstones before they meet again."""
        gone = [("purge", number) for number in self._random.sample(range(5), 5)]
        cut = [("cut", {self._random.randrange(5)}) for _ in range(2)]
        return [
            *self.steps(4), cut[0], *self.steps(4), ("heal",), *self.steps(4), ("store", 0, 0, "t"), ("remove", 0, "t"),
            ("wait", DAY_S), *self._random.choice([[("level",)], self.steps(3)]), cut[1], *self.steps(4),
            *STRUCK, *self.steps(4), ("wait", 100 * DAY_S), *gone, *self.steps(3), ("heal",), *self.steps(6),
        ]


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


def wrong_with(folder: Path, size: int, quorum: int, steps: list[Step]) -> str:
    """Play it, heal, and look; again after all tombstones went, and everybody was restarted. Empty: all is well."""
    history = History(folder, size, quorum)
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
    except AssertionError as error:
        return str(error).partition("\n")[0]
    finally:
        history.close()
        shutil.rmtree(folder)
    return ""


def judge(factory: pytest.TempPathFactory, chance: Chance, steps: list[Step]) -> None:
    """Fails with the fewest steps that are as wrong."""
    def wrong(steps: list[Step]) -> str:
        return wrong_with(factory.mktemp("history"), chance.size, chance.quorum, steps)

    if not wrong(steps):
        return
    at = len(steps) - 1
    while at >= 0:
        fewer = steps[:at] + steps[at + 1 :]
        steps, at = (fewer if wrong(fewer) else steps), at - 1
    pytest.fail(f"{wrong(steps)}: {chance.size} nodes, write_quorum {chance.quorum}, {steps}")


def test_whatever_befalls_a_cluster_what_was_acknowledged_holds_and_all_agree(
    tmp_path_factory: pytest.TempPathFactory
) -> None:
    for seed in range(FIRST, FIRST + 2 * COUNT):
        chance = Chance(seed, WEIGHTS)
        judge(tmp_path_factory, chance, chance.steps(30))


def test_whoever_was_away_for_longer_than_tombstones_live_loses_nothing_that_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinds = {"store": 5, "remove": 3, "compare": 8, "wait": 3, "restart": 1, "restore": 1, "leap": 1, "level": 1,
             "drain": 1, "deaf": 1, "lose_answers": 1, "meanwhile": 2}
    for seed in range(FIRST, FIRST + COUNT):
        chance = Chance(seed, kinds)
        judge(tmp_path_factory, chance, chance.absence())
