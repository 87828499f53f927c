"""Durable files, the lock and the format of a data directory."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import p2pfs
from p2pfs import errors
from p2pfs.store import files

CHILD_ENV = {**os.environ, "PYTHONPATH": str(Path(p2pfs.__file__).parents[1])}


def test_a_new_data_directory_is_durable_before_anything_is_kept_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, synced, sync_folder = tmp_path / "srv/p2pfs/data", list[str](), files.sync_folder

    def sync(path: str) -> None:
        synced.append(path)
        if path != str(folder):
            assert not (folder / files.FORMAT_FILE).exists()
        sync_folder(path)

    monkeypatch.setattr(files, "sync_folder", sync)
    files.prepare_data_dir(folder)
    assert set(synced) >= {str(tmp_path / "srv/p2pfs"), str(tmp_path / "srv"), str(tmp_path)}
    synced.clear()
    files.prepare_data_dir(folder)
    assert not synced, "once"


@pytest.mark.parametrize(("number", "is_usable"), [(errno.EACCES, True), (errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_above_that_cannot_be_synced_is_nothing_and_one_whose_disk_fails_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_usable: bool
) -> None:
    usual = files.sync_folder

    def sync(path: str) -> None:
        if path == str(tmp_path):
            raise OSError(number, os.strerror(number))
        usual(path)

    monkeypatch.setattr(files, "sync_folder", sync)
    if is_usable:
        files.prepare_data_dir(tmp_path / "data")
        return
    with pytest.raises(errors.ConfigError, match="cannot be used: Input/output error"):
        files.prepare_data_dir(tmp_path / "data")
    assert os.listdir(tmp_path / "data") == []


def test_write_atomically_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    files.write_atomically(path, b"new", 0o640)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomically_goes_over_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / "file.temp").write_bytes(b"half")
    files.write_atomically(tmp_path / "file", b"whole")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(errors.NoSpace, match=r"cannot write .*file"):
        files.write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_errors_of_the_system_become_ours() -> None:
    assert isinstance(files.disk_error("x", OSError(errno.ENOSPC, "full")), errors.NoSpace)
    assert isinstance(files.disk_error("x", OSError(errno.EMFILE, "too many")), errors.Busy)
    refused = files.disk_error("cannot read y", OSError(errno.EACCES, "Permission denied"))
    assert isinstance(refused, errors.Refused) and "cannot read y: Permission denied" in str(refused)


def test_prepare_makes_a_private_folder_of_this_format(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    files.prepare_data_dir(folder)
    files.prepare_data_dir(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "format").read_text().startswith(f"{files.FORMAT}\n")


def test_prepare_refuses_a_newer_format(tmp_path: Path) -> None:
    files.prepare_data_dir(tmp_path)
    (tmp_path / "format").write_text(f"{files.FORMAT + 1}\n")
    with pytest.raises(errors.Refused, match="newer p2pfs"):
        files.prepare_data_dir(tmp_path)


@pytest.mark.parametrize("text", [b"", b"one\n", b"-1\n", b"\xff\xfe", b"1 2\n", b"\xd9\xa1\n"])
def test_prepare_refuses_what_is_no_format(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "format").write_bytes(text)
    with pytest.raises(errors.Refused, match="not with a number"):
        files.prepare_data_dir(tmp_path)


def test_prepare_refuses_a_folder_with_blocks_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    with pytest.raises(errors.Refused, match="is it a p2pfs data directory"):
        files.prepare_data_dir(tmp_path)


def test_prepare_says_what_to_do_where_it_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/p2pfs")):
        with pytest.raises(errors.ConfigError, match=r"cannot be used: .*\[node\] data_dir"):
            files.prepare_data_dir(folder)


HOLD = """
import sys
from p2pfs.store.files import lock_data_dir
lock = lock_data_dir(sys.argv[1])
print("held", flush=True)
input()
"""


def test_one_process_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=CHILD_ENV,
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(errors.Refused, match=f"in use by another node, pid {holder.pid};"):
            files.lock_data_dir(tmp_path)
        holder.kill()  # a lock does not outlive its holder
    lock = files.lock_data_dir(tmp_path)
    with pytest.raises(errors.Refused, match=f"pid {os.getpid()}"):
        files.lock_data_dir(tmp_path)
    lock.close()
    files.lock_data_dir(tmp_path).close()


def test_the_next_user_removes_what_a_crash_left_half_written(tmp_path: Path) -> None:
    files.prepare_data_dir(tmp_path)
    (tmp_path / "members.jsonl").write_bytes(b"whole")
    (tmp_path / "members.jsonl.temp").write_bytes(b"half")
    files.lock_data_dir(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"format", "lock", "members.jsonl"}
