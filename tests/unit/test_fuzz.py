"""Every target of kit/fuzz: its corpus and a fixed number of seeded mutations keep the promises of `kit.fuzz.harness`.

The searching that is guided by coverage is `make fuzz` (docs/FUZZING.md).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from kit.fuzz import guided
from kit.fuzz.harness import CORPUS, Target, TooMuch, TooSlow, limits, try_input, try_measured
from kit.fuzz.mutate import mutations, stretched
from kit.fuzz.targets import TARGETS
from p2pfs.errors import Malformed

# Said of a certificate that another program has made wrong; ours are right (tests/cluster/test_warnings.py).
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
INPUTS = 2000
STRETCHED = 6
"""So many inputs of each target are made long."""
LONG_BYTES = 100_000
CORPUS_BYTES = 512 * 1024


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    with limits():
        yield


def test_every_target_has_a_corpus_and_it_is_small() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < CORPUS_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    target = TARGETS[name]
    outcomes = {path.name: try_input(target, path.read_bytes()) for path in sorted(target.corpus.iterdir())}
    assert any(outcomes.values()), "nothing in the corpus is parsed: it shows nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    target = TARGETS[name]
    for data in islice(mutations(target, target.seeds(), random.Random(name)), INPUTS):
        try:
            try_input(target, data)
        except BaseException as error:
            error.add_note(f"{name}: {data!r}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_long_inputs_take_time_and_memory_in_proportion(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    for data in chance.sample(seeds, min(STRETCHED, len(seeds))):
        try_measured(target, stretched(data, min(LONG_BYTES, target.limit_bytes), chance))


# --- the harness can fail ------------------------------------------------------------------------------

def _refuse(data: bytes) -> None:
    raise Malformed("never right")


def _take_memory(data: bytes) -> int:
    return len(bytes(16 * 1024 * 1024))


def _take_time(data: bytes) -> int:
    return sum(1 for _ in data for _ in data for _ in data for _ in data)


def test_the_allowed_error_is_allowed_while_parsing_only() -> None:
    assert not try_input(Target("refuses", _refuse, (Malformed,)), b"")
    with pytest.raises(Malformed):
        try_input(Target("refuses", _refuse, ()), b"")
    with pytest.raises(Malformed):
        try_input(Target("refuses later", bytes, (Malformed,), _refuse), b"")


def test_memory_and_time_out_of_proportion_are_found() -> None:
    with pytest.raises(TooMuch):
        try_measured(Target("big", _take_memory, ()), b"x")
    with pytest.raises(TooSlow):
        try_input(Target("slow", _take_time, ()), bytes(1000))


def test_an_input_that_breaks_a_promise_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(text: bytes) -> None:
        assert b"%" not in text

    broken = TARGETS["cid-text"]._replace(parse=bytes, check=check)
    with pytest.raises(SystemExit):
        guided.mutate(broken, 60, tmp_path)
    (path,) = tmp_path.glob("crash-*")
    assert b"%" in path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_the_command_counts_what_it_tried(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kit.fuzz", "--minutes=0.1", f"--folder={tmp_path}", "varint", "cid"]
    done = subprocess.run(command, cwd=CORPUS.parents[1], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert set(counts) == {"varint", "cid"} and min(counts.values()) > 1000
