"""The file that proves which shards were verified: any damage to it costs work, and never claims coverage."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.store import files, verified
from p2pfs.store.files import prepare_data_dir

BORN = 1_700_000_000
BEGUN = tuple(BORN + 1000 + shard for shard in range(4096))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    prepare_data_dir(tmp_path)
    os.utime(tmp_path / "format", (BORN, BORN))
    return tmp_path


def test_what_was_saved_is_loaded(data_dir: Path) -> None:
    verified.save(data_dir, BEGUN, BORN + 9000)
    assert verified.load(data_dir) == (BEGUN, BORN + 9000, "")
    verified.save(data_dir, (0,) * 4096, BORN + 9001)
    assert verified.load(data_dir) == ((0,) * 4096, BORN + 9001, "")


def test_without_the_file_each_shard_is_as_old_as_the_data_directory(data_dir: Path) -> None:
    assert verified.load(data_dir) == ((BORN,) * 4096, BORN, "")


def test_without_a_data_directory_nothing_is_known(tmp_path: Path) -> None:
    assert verified.load(tmp_path / "none") == ((0,) * 4096, 0, "")


def test_each_kind_of_damage_is_noticed(data_dir: Path) -> None:
    verified.save(data_dir, BEGUN, BORN + 9000)
    path = data_dir / verified.FILE
    good = path.read_bytes()
    chance = random.Random(1)
    damaged = [good[:length] for length in (0, 1, 14, 40, len(good) // 2, len(good) - 1)]
    damaged += [good + b"\n", bytes(len(good)), os.urandom(1000)]
    for position in [*range(60), *chance.sample(range(60, len(good)), 200), *range(len(good) - 25, len(good))]:
        flipped = bytearray(good)
        flipped[position] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        found = verified.load(data_dir)
        assert found[:2] == ((BORN,) * 4096, BORN)
        assert str(path) in found.problem


def test_something_else_in_its_place_is_noticed(data_dir: Path) -> None:
    (data_dir / verified.FILE).mkdir()
    found = verified.load(data_dir)
    assert found[:2] == ((BORN,) * 4096, BORN)
    assert found.problem


def test_a_newer_form_is_not_taken_for_this_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(verified, "_HEAD", b"p2pfs scrub 2")
        verified.save(data_dir, BEGUN, BORN)
    assert "p2pfs scrub 2" in verified.load(data_dir).problem


def test_on_a_full_disk_the_old_file_stays(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified.save(data_dir, BEGUN, BORN + 9000)

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(errors.NoSpace):
            verified.save(data_dir, (0,) * 4096, BORN + 9001)
    assert verified.load(data_dir) == (BEGUN, BORN + 9000, "")
    assert sorted(path.name for path in data_dir.iterdir()) == ["format", "lock", "scrub"]
