"""Some seconds of `make chaos` with one seed, on loopback; and that its plan depends on the seed alone."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from kit.chaos.__main__ import Chaos, parse
from kit.chaos.faults import ALL, DAMAGE, damage, lanes

SEED = 4


def test_the_seed_alone_makes_the_plan() -> None:
    def first(seed: int, size: int) -> list[str]:
        return [str(step) for lane in lanes(seed, ALL, size).values() for step in itertools.islice(lane, 50)]

    assert first(1, 5) == first(1, 5)
    assert first(1, 5) != first(2, 5)
    assert first(1, 5) != first(1, 3)


def test_damage_hurts_one_disk_at_a_time_and_every_fault_comes() -> None:
    for seed in range(20):
        plans = lanes(seed, ALL, 5)
        assert all(len(step.nodes) == 1 for step in itertools.islice(plans["damage"], 200))
        assert all(len(set(step.nodes)) == len(step.nodes) <= 5 for step in itertools.islice(plans["trouble"], 200))
    plans = lanes(1, ALL, 5)
    assert {step.kind for lane in plans.values() for step in itertools.islice(lane, 100)} == set(ALL)


def test_only_the_wanted_faults_are_played() -> None:
    plans = lanes(1, ["kill", *DAMAGE], 3)
    assert {step.kind for step in itertools.islice(plans["trouble"], 50)} == {"kill"}
    assert list(lanes(1, ["kill"], 3)["damage"]) == []


@pytest.mark.parametrize(("kind", "is_as_long"), [("flip", True), ("truncate", False)])
def test_damage_changes_a_read_only_block_in_place(tmp_path: Path, kind: str, is_as_long: bool) -> None:
    path = tmp_path / "block"
    path.write_bytes(bytes(1000))
    path.chmod(0o400)
    inode = path.stat().st_ino
    damage(path, kind, random.Random(1))
    assert path.stat().st_ino == inode
    assert path.read_bytes() != bytes(1000)
    assert (path.stat().st_size == 1000) is is_as_long


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--faults=kill,frogs"])
    assert end.value.code == 2
    assert "frogs" in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_no_promise_breaks_under_kills_pauses_and_flips(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, SEED, 3, ["kill", "pause", "flip"], use_netns=False)
    chaos.run(12)
    assert chaos.broken == []
    assert len(chaos.report["faults"]) >= 2
    assert chaos.report["operations"]["store"]["OK"] >= 5
    assert chaos.report["disks"]["kept_roots"] >= 3
