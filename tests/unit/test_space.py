"""Reservations and figures of a data directory."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pfs import errors
from p2pfs.store.space import Space


def make(folder: Path, max_size: int | None = None, reserve_free: int = 0, is_new: bool = True) -> Space:
    return Space(str(folder), max_size, reserve_free, is_new)


def set_disk(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, files: int = 100, free_files: int = 50
) -> None:
    disk = SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096, f_files=files, f_favail=free_files)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)


def test_what_is_reserved_counts_against_max_size_until_it_is_kept_or_released(tmp_path: Path) -> None:
    space = make(tmp_path, max_size=100)
    space.reserve(60)
    assert space.usage() == (0, 0, True) and space.free_bytes() == 40
    with pytest.raises(errors.NoSpace, match="max_size is 100 and 60 are in use"):
        space.reserve(41)
    space.release(60)
    space.reserve(100)
    space.keep(0, 100)
    assert space.usage() == (1, 100, True) and space.free_bytes() == 0
    space.remove(0, 100)
    assert space.usage() == (0, 0, True) and space.free_bytes() == 100


def test_reserve_free_is_kept_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free_bytes=1_000 * 4096)
    space = make(tmp_path, reserve_free=900 * 4096)
    assert space.free_bytes() == 100 * 4096
    space.reserve(60 * 4096)
    assert space.free_bytes() == 39 * 4096, "a page for the entry in its folder is counted too"
    with pytest.raises(errors.NoSpace, match="reserve_free keeps"):
        space.reserve(39 * 4096)
    space.reserve(38 * 4096)
    assert space.free_bytes() == 0


def test_a_new_reserve_free_holds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free_bytes=100 * 4096)
    space = make(tmp_path)
    space.set_limits(None, 100 * 4096)
    assert space.free_bytes() == 0
    with pytest.raises(errors.NoSpace, match="reserve_free"):
        space.reserve(1)


def test_a_refusal_reserves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free_bytes=10 * 4096)
    space = make(tmp_path, max_size=1 << 40)
    for _ in range(5):
        with pytest.raises(errors.NoSpace):
            space.reserve(10 * 4096)
    space.reserve(9 * 4096)


def test_inodes_are_counted_with_those_in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free_bytes=1 << 30, free_files=2)
    space = make(tmp_path)
    space.reserve(1)
    space.reserve(1)
    with pytest.raises(errors.NoSpace, match="2 inodes are free"):
        space.reserve(1)
    space.release(1)
    space.reserve(1)


def test_a_disk_without_an_inode_limit_is_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free_bytes=1 << 30, files=0, free_files=0)
    make(tmp_path).reserve(1)


def test_figures_survive_a_clean_stop(tmp_path: Path) -> None:
    space = make(tmp_path)
    space.reserve(7)
    space.keep(5, 7)
    space.save()
    again = make(tmp_path, max_size=10, is_new=False)
    assert again.usage() == (1, 7, True) and not again.needs_count


def test_figures_after_an_unclean_stop_are_the_old_ones_and_called_so(tmp_path: Path) -> None:
    space = make(tmp_path)
    space.reserve(7)
    space.keep(5, 7)
    space.save()
    make(tmp_path, is_new=False)  # and no save
    again = make(tmp_path, max_size=10, is_new=False)
    assert again.usage() == (1, 7, False) and again.needs_count
    assert not make(tmp_path, is_new=False).needs_count, "without a limit nothing depends on them"


def test_figures_that_are_not_exact_are_not_saved_as_such(tmp_path: Path) -> None:
    make(tmp_path, is_new=False).save()
    assert make(tmp_path, is_new=False).usage() == (0, 0, False)


@pytest.mark.parametrize(
    "text", [b"", b"\0\0", b"12", b"-1 blocks\n2 bytes\n", b"1 bytes\n2 blocks\n", b"x" * 1000]
)
def test_a_damaged_usage_file_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "usage").write_bytes(text)
    assert make(tmp_path, is_new=False).usage() == (0, 0, False)
    assert make(tmp_path, is_new=False).usage() == (0, 0, False)


def test_a_count_follows_changes_in_shards_that_it_has_passed(tmp_path: Path) -> None:
    space = make(tmp_path, is_new=False)
    space.begin_count()
    assert space.count_shard(0, 2, 20, lambda: True)
    for shard in (0, 1):  # one that is counted, one that is to come and will show it
        space.reserve(5)
        space.keep(shard, 5)
    assert not space.count_shard(1, 99, 99, lambda: False), "it changed meanwhile: to be looked at again"
    assert space.count_shard(1, 1, 5, lambda: True)
    space.remove(0, 20)
    assert not space.usage().is_exact
    space.end_count()
    assert space.usage() == (3, 10, True)


def test_removing_more_than_was_known_stops_at_zero(tmp_path: Path) -> None:
    space = make(tmp_path)
    space.remove(0, 5)
    assert space.usage() == (0, 0, True)
    assert os.listdir(tmp_path) == []
