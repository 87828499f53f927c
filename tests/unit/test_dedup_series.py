"""The series of `make bench-dedup` that are generated: the same for the same seed, and edited as they say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kit.dedup import series

MAKERS = {"machine": partial(series.machine, size=8 * series.MIB), "dump": partial(series.dump, rows=2000)}


def versions(name: str, folder: Path, seed: int) -> Iterator[bytes]:
    folder.mkdir()
    for path in MAKERS[name](folder, random.Random(seed)):
        yield path.read_bytes()
        assert list(folder.iterdir()) == [path]  # one at a time: they are big


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_gives_the_same_versions_and_each_differs_from_the_one_before(name: str, tmp_path: Path) -> None:
    made = list(versions(name, tmp_path / "a", 1))
    assert made == list(versions(name, tmp_path / "b", 1))
    assert made != list(versions(name, tmp_path / "c", 2))
    assert len(made) == len(set(made)) == series.VERSIONS


def test_pages_of_a_machine_change_in_place_and_rows_of_a_dump_stay_whole(tmp_path: Path) -> None:
    assert {len(content) for content in versions("machine", tmp_path / "a", 1)} == {8 * series.MIB}
    rows = [content.splitlines(keepends=True) for content in versions("dump", tmp_path / "b", 1)]
    assert all(row.endswith(b"');\n") and row.count(b"INSERT") == 1 for content in rows for row in content[1:])
    assert all(len(after) > len(before) for before, after in itertools.pairwise(rows))
