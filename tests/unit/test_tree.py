"""Walking and making local trees: order, special files, and every way out of the target."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.client import tree_writer
from p2pfs.client.tree_writer import TreeWriter
from p2pfs.tree import MAX_TREE_DEPTH, Event, open_file, scan


def names(events: list[Event]) -> list[tuple[str, bytes]]:
    return [(event.kind, event.name) for event in events]


# --- reading -----------------------------------------------------------------------------------------


def test_a_tree_is_scanned_in_bytewise_order_with_everything_in_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "b" / "empty").mkdir(parents=True)
    (top / "B").write_bytes(b"12345")
    (top / "é").write_bytes(b"")
    (top / ".hidden").write_bytes(b"")
    (top / "b" / "link").symlink_to("../nowhere")
    events = list(scan(top))
    assert names(events) == [
        ("enter", b"top"), ("file", b".hidden"), ("file", b"B"), ("enter", b"b"), ("enter", b"empty"),
        ("leave", b"empty"), ("symlink", b"link"), ("leave", b"b"), ("file", "é".encode()), ("leave", b"top"),
    ]
    assert events[2].size == 5
    assert events[6].target == b"../nowhere"
    assert events[6].path == os.fsencode(top / "b" / "link")


def test_a_file_alone_is_one_event(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    assert list(scan(os.fsencode(tmp_path / "f"))) == [Event("file", b"f", os.fsencode(tmp_path / "f"), 1)]


def test_a_symbolic_link_is_followed_only_when_the_user_named_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside").symlink_to("/etc")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert names(list(scan(link))) == [("enter", b"link"), ("symlink", b"inside"), ("leave", b"link")]


def test_a_root_given_by_dots_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next(scan(".")).name == os.fsencode(tmp_path.name)


def test_special_files_are_refused_by_path_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.Refused, match=r"pipe.*FIFO"):
        list(scan(tmp_path))
    read_end, write_end = os.pipe()
    with pytest.raises(errors.Refused, match=f"/dev/fd/{read_end}' is a FIFO.*`-` stores what comes on standard input"):
        list(scan(f"/dev/fd/{read_end}"))
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(errors.Refused, match="pipe"):
        open_file(os.fsencode(tmp_path / "pipe"))
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        with pytest.raises(errors.Refused, match=r"sock.*socket"):
            list(scan(tmp_path))
    with pytest.raises(errors.Refused, match="character device"):
        list(scan("/dev/null"))


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="absent"):
        list(scan(tmp_path / "absent"))
    for path in (b"", b"a\0b"):
        with pytest.raises(errors.UsageError, match="no path"):
            list(scan(path))
    with pytest.raises(errors.NotFound, match="absent"):
        open_file(os.fsencode(tmp_path / "absent"))


def test_names_that_are_not_utf8_are_refused_with_their_directory(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with open(os.fsencode(tmp_path) + b"/folder/caf\xe9", "wb"):
        pass
    with pytest.raises(errors.UsageError, match=r"folder.*caf\\\\xe9"):
        list(scan(tmp_path))


def test_a_file_that_became_a_link_after_the_scan_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    (event,) = scan(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(errors.Refused):
        open_file(event.path)


def test_reading_has_a_depth_limit(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(MAX_TREE_DEPTH - 1):
        path = path / "d"
    path.mkdir(parents=True)
    assert len(list(scan(tmp_path))) == 2 * MAX_TREE_DEPTH
    (path / "d").mkdir()
    with pytest.raises(errors.Refused, match=str(MAX_TREE_DEPTH)):
        list(scan(tmp_path))


# --- making ------------------------------------------------------------------------------------------


def put(writer: TreeWriter, name: bytes, data: bytes) -> None:
    fd = writer.open_file(name)
    os.write(fd, data)
    os.close(fd)


def make(target: Path) -> None:
    with TreeWriter(target) as writer:
        put(writer, b"file", b"data")
        writer.enter(b"sub")
        put(writer, b"inner", b"more")
        writer.symlink(b"link", b"/etc/passwd")
        writer.leave()
        writer.enter(b"empty")


def test_a_tree_is_made_and_made_again(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for _ in range(2):
        make(target)
        assert (target / "file").read_bytes() == b"data"
        assert (target / "sub" / "inner").read_bytes() == b"more"
        assert (target / "sub" / "link").readlink() == Path("/etc/passwd")
        assert (target / "empty").is_dir()


def test_a_file_of_an_earlier_run_is_opened_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"half")
    with TreeWriter(tmp_path) as writer:
        fd = writer.open_file(b"part")
        assert os.read(fd, 10) == b"half"
        assert os.write(fd, b" and half") == 9
        os.close(fd)


def test_a_link_of_an_earlier_run_is_put_right(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("old")
    with TreeWriter(tmp_path) as writer:
        writer.symlink(b"link", b"new")
    assert (tmp_path / "link").readlink() == Path("new")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"/etc/x", b"a/b", b"../x", b"a\0b", b"n" * 256, b"\xff"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: bytes) -> None:
    target = tmp_path / "out"
    with TreeWriter(target) as writer:
        for act in (writer.enter, writer.open_file, lambda name: writer.symlink(name, b"x")):
            with pytest.raises(errors.Refused):
                act(name)
    assert sorted(tmp_path.rglob("*")) == [target]


@pytest.mark.parametrize("is_same_run", [True, False])
def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path, is_same_run: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"precious")
    target = tmp_path / "out"
    with TreeWriter(target) as writer:
        writer.symlink(b"folder", os.fsencode(outside))
        writer.symlink(b"file", os.fsencode(outside / "victim"))
        if is_same_run:
            with pytest.raises(errors.Refused, match="twice"):
                writer.enter(b"folder")
            with pytest.raises(errors.Refused, match="twice"):
                writer.open_file(b"file")
    with TreeWriter(target) as writer:
        with pytest.raises(errors.Refused):
            writer.enter(b"folder")
        with pytest.raises(errors.Refused):
            writer.open_file(b"file")
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_bytes() == b"precious"


def test_a_target_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    with pytest.raises(errors.Refused):
        TreeWriter(tmp_path / "out")


def test_a_second_name_of_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "victim", tmp_path / "out" / "file")
    with TreeWriter(tmp_path / "out") as writer, pytest.raises(errors.Refused, match="several names"):
        writer.open_file(b"file")


def test_what_is_there_as_something_else_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with TreeWriter(tmp_path) as writer:
        with pytest.raises(errors.Refused, match="FIFO"):
            writer.open_file(b"pipe")
        with pytest.raises(errors.Refused, match="file"):
            writer.enter(b"file")
        with pytest.raises(errors.Refused, match="folder"):
            writer.symlink(b"folder", b"x")


def test_making_has_a_depth_limit_and_lets_go_of_its_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with TreeWriter(tmp_path) as writer:
        for _ in range(MAX_TREE_DEPTH):
            writer.enter(b"d")
        with pytest.raises(errors.Refused, match=str(MAX_TREE_DEPTH)):
            writer.enter(b"d")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_target_itself_is_not_left(tmp_path: Path) -> None:
    with TreeWriter(tmp_path) as writer, pytest.raises(ValueError, match="close"):
        writer.leave()


class OneCase:
    """`os`, on a file system that keeps case and normal form of a name and does not tell them apart, as on a Mac."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], bytes] = {}

    def _fold(self, name: bytes, dir_fd: int | None) -> bytes:
        folder = os.fstat(dir_fd).st_ino if dir_fd is not None else 0
        folded = unicodedata.normalize("NFC", os.fsdecode(name)).casefold()
        return self._kept.setdefault((folder, os.fsencode(folded)), name)

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in ("open", "mkdir", "stat", "unlink", "readlink"):
            return call
        return lambda path, *args, dir_fd=None, **kwargs: call(self._fold(path, dir_fd), *args, dir_fd=dir_fd, **kwargs)

    def symlink(self, target: bytes, name: bytes, dir_fd: int | None = None) -> None:
        os.symlink(target, self._fold(name, dir_fd), dir_fd=dir_fd)


PAIRS = {"case": (b"readme", b"README"), "normal form": ("caf\u00e9".encode(), "cafe\u0301".encode())}


@pytest.mark.parametrize("second", ["file", "link", "same link", "folder"])
@pytest.mark.parametrize("first", ["file", "link", "folder"])
@pytest.mark.parametrize("pair", PAIRS)
def test_two_names_that_are_one_to_the_file_system_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str, first: str, second: str
) -> None:
    one, other = PAIRS[pair]

    def make_it(writer: TreeWriter, kind: str, name: bytes) -> None:
        if kind == "file":
            put(writer, name, b"data of " + name)
        elif kind == "folder":
            writer.enter(name)
            writer.leave()
        else:
            writer.symlink(name, b"/first" if kind == "same link" or name == one else b"/second")

    with TreeWriter(tmp_path / "usual") as writer:
        make_it(writer, first, one)
        make_it(writer, second, other)
    assert len(os.listdir(tmp_path / "usual")) == 2
    monkeypatch.setattr(tree_writer, "os", OneCase())
    with TreeWriter(tmp_path / "out") as writer:
        make_it(writer, first, one)
        before = sorted((path.name, path.lstat().st_ino, path.lstat().st_size) for path in (tmp_path / "out").iterdir())
        with pytest.raises(errors.Refused):
            make_it(writer, second, other)
    after = sorted((path.name, path.lstat().st_ino, path.lstat().st_size) for path in (tmp_path / "out").iterdir())
    assert after == before
    with TreeWriter(tmp_path / "again") as writer:
        put(writer, one, b"1")
        with pytest.raises(errors.Refused, match="one to this file system"):
            writer.open_file(other)


def test_a_tree_has_so_many_names_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_writer, "MAX_TREE_ENTRIES", 3)
    with TreeWriter(tmp_path / "out") as writer:
        put(writer, b"1", b"")
        writer.enter(b"2")
        put(writer, b"3", b"")
        with pytest.raises(errors.Refused, match="over 3 names"):
            writer.open_file(b"4")
