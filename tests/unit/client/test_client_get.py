"""What a get leaves on disk: complete or not at all, and nowhere but where it should."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import CID, Client, errors
from p2pfs.client import files, getting
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Link, Talk, cid_of, data_of, read_tree

MIB = 1024 * 1024
WAIT_S = 60.0


def test_get_puts_a_file_under_its_pins_name(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(data_of(MIB), "big/model.bin")
    assert client.get("big/model.bin") == Path("model.bin")
    assert Path("model.bin").read_bytes() == data_of(MIB)
    assert client.get(cid, "other") == Path("other")
    assert sorted(os.listdir()) == ["model.bin", "other"]


def test_get_into_a_folder_and_of_a_path_inside(node: FakeNode, client: Client, here: Path) -> None:
    node.keep({b"docs": {b"a.txt": b"hello"}}, "tree")
    Path("sub").mkdir()
    assert client.get("tree/docs/a.txt", "sub") == Path("sub/a.txt")
    assert Path("sub/a.txt").read_bytes() == b"hello"


def test_an_existing_target_is_refused_before_anything_is_fetched(node: FakeNode, client: Client, here: Path) -> None:
    node.keep(b"new", "f")
    Path("f").write_bytes(b"old")
    with pytest.raises(errors.Refused, match="--force"):
        client.get("f")
    assert Path("f").read_bytes() == b"old"
    assert "FETCH" not in [request[0] for request in node.requests]
    client.get("f", force=True)
    assert Path("f").read_bytes() == b"new"
    assert os.listdir() == ["f"]


def test_an_interrupted_get_leaves_a_part_and_continues(node: FakeNode, client: Client, here: Path) -> None:
    node.keep(data_of(100_000), "f")
    node.fetch_limit = 60_000
    with pytest.raises(errors.Unreachable):
        client.get("f")
    assert [name.endswith(files.SUFFIX) for name in os.listdir()] == [True]
    node.fetch_limit = None
    client.get("f")
    assert 60_000 <= node.kept_bytes < 100_000
    assert os.listdir() == ["f"]


def test_a_get_that_fetched_nothing_leaves_nothing(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(b"x")

    def refuse(talk: Talk, line: wire.Line) -> None:
        os.close(talk.fd())
        raise errors.NotFound("nobody has it")

    node.hooks["FETCH"] = refuse
    with pytest.raises(errors.NotFound):
        client.get(cid, "f")
    assert os.listdir() == []


def test_two_gets_of_one_target_do_not_mix(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.0)
    cid = node.keep(b"content")
    part = files.part_path("f", cid)
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(errors.Refused, match="another get"):
            client.get(cid, "f")
    assert client.get(cid, "f").read_bytes() == b"content"


def test_a_part_that_is_a_link_is_not_followed(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(b"content")
    Path("victim").write_bytes(b"precious")
    os.symlink("victim", files.part_path("f", cid))
    with pytest.raises(errors.Refused, match="in the way"):
        client.get(cid, "f")
    assert Path("victim").read_bytes() == b"precious"


def test_a_part_that_is_the_finished_file_as_well_is_not_written(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(b"content")
    Path("finished").write_bytes(b"edited by its owner since")
    os.link("finished", files.part_path("f", cid))
    client.get(cid, "f")
    assert Path("finished").read_bytes() == b"edited by its owner since"
    assert Path("f").read_bytes() == b"content"


def test_a_name_taken_meanwhile_is_not_overwritten(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(b"content")
    with pytest.raises(errors.Refused, match="meanwhile"):
        client.get(cid, "f", progress=lambda _: Path("f").write_bytes(b"quicker") and None)
    assert Path("f").read_bytes() == b"quicker"


def test_get_makes_a_link_and_does_not_follow_it(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(Link(b"/etc/passwd"))
    assert os.readlink(client.get(cid, "l")) == "/etc/passwd"
    assert os.listdir() == ["l"]


def test_a_missing_folder_is_named(node: FakeNode, client: Client, here: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such folder"):
        client.get(node.keep(b"x"), "missing/f")


def test_a_folder_that_cannot_be_synced_is_refused_before_anything_comes(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = node.keep(b"x")
    usual = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_DIRECTORY:  # as for a user who may write there and not read
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return usual(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.Refused):
        client.get(cid, "f")
    assert os.listdir() == [], "it says that it failed, so nothing is there"


def test_get_of_a_directory(node: FakeNode, client: Client, here: Path) -> None:
    tree = {
        b"a": b"1", b"empty": {}, b"deep": {b"er": {b"f": data_of(70_000)}}, b"link": Link(b"a"),
        "größe \n".encode(): b"odd",
        **{b"many-%d" % i: b"%d" % i for i in range(300)},
    }
    node.keep(tree, "tree")
    assert client.get("tree") == Path("tree")
    assert read_tree(b"tree") == tree
    assert os.listdir() == ["tree"]
    assert node.connections <= 6
    with pytest.raises(errors.Refused, match="exists"):
        client.get("tree", force=True)


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"nul\0"])
def test_a_hostile_name_in_a_directory_is_refused(node: FakeNode, client: Client, here: Path, name: bytes) -> None:
    cid = node.keep({b"good": b"1", name: b"evil"})
    with pytest.raises(errors.Refused, match="nothing is made in"):
        client.get(cid, "t")
    assert not os.path.lexists("t")
    assert not (here.parent / "b").exists()


def test_an_entry_cannot_lead_out_through_a_link(node: FakeNode, client: Client, here: Path) -> None:
    Path("outside").mkdir()
    tree = {b"d": {b"f": b"evil"}}
    cid = node.keep(tree)

    def twice(talk: Talk, line: wire.Line) -> None:
        assert line.args[0] == cid
        for kind, child in (("symlink", Link(bytes(here / "outside"))), ("directory", tree[b"d"])):
            talk.part({"name": "d", "cid": node.keep(child), "type": kind, "size": None})
        talk.ok()

    node.hooks["LIST"] = twice
    with pytest.raises(errors.Refused, match="twice"):
        client.get(cid, "t")
    assert os.listdir("outside") == []
    assert not os.path.lexists("t")


def test_one_directory_after_the_other_comes_over_the_same_connections(
    remote: tuple[FakeNode, Client], here: Path
) -> None:
    """Each new one is a handshake, of which a node takes so many a second from one address."""
    node, client = remote
    node.keep({b"a": data_of(100_000), b"b": data_of(200_000)}, "dir")
    for number in range(4):
        client.get("dir", f"copy {number}")
    assert node.connections <= 3, "one that lists, and one for each file"


def test_a_directory_continues_from_its_part(node: FakeNode, client: Client, here: Path) -> None:
    tree = {b"%d" % i: data_of(70_000 + i) for i in range(20)}
    cid = node.keep(tree)
    fetched = 0
    usual = node._fetch

    def fail_late(talk: Talk, line: wire.Line) -> None:
        nonlocal fetched
        fetched += 1
        if fetched > 10:
            os.close(talk.fd())
            raise errors.NotFound("nobody has it")
        usual(talk, line)

    node.hooks["FETCH"] = fail_late
    with pytest.raises(errors.NotFound):
        client.get(cid, "t")
    assert not os.path.lexists("t")
    del node.hooks["FETCH"]
    client.get(cid, "t")
    assert read_tree(b"t") == tree
    assert os.listdir() == ["t"]


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_directory_whose_paths_are_longer_than_the_system_takes(
    node: FakeNode, client: Client, here: Path, encrypt: bool
) -> None:
    inside = ["n" * 250] * 15
    # As long as what can be stored from here; the part's name, which comes before it in a get, is longer than "d".
    inside.append("m" * min(250, 4080 - len(os.path.abspath("/".join(["d", *inside])))))
    os.makedirs("/".join(["d", *inside]))
    Path("/".join(["d", *inside, "f"])).write_bytes(b"x")
    stored = client.store("d", encrypt=encrypt)
    client.get(stored.link or stored.cid, "o" * 255)
    for name in ("o" * 255, *inside):
        os.chdir(name)
    assert Path("f").read_bytes() == b"x"


def test_what_was_put_into_a_part_is_no_part_of_the_directory(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep({b"a": {b"b": data_of(70_000)}})
    for place in ("tree", "tree/a"):
        part = Path(files.part_path("t", cid))
        part.mkdir(mode=0o700, exist_ok=True)
        (part / place).mkdir(parents=True, exist_ok=True)
        (part / place / "more").write_bytes(b"nobody verified it")
        with pytest.raises(errors.Refused, match=f"{place}/more. is there, and no part of"):
            client.get(cid, "t")
        assert not os.path.lexists("t")
        (part / place / "more").unlink()
    client.get(cid, "t")
    assert read_tree(b"t") == {b"a": {b"b": data_of(70_000)}}


@pytest.mark.parametrize("third", [False, True])
def test_a_get_that_waited_for_another_ones_part_does_not_write_into_a_thirds(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch, third: bool
) -> None:
    cid = node.keep({b"f": data_of(70_000)})
    part = files.part_path("t", cid)
    os.mkdir(part, 0o700)
    first = os.open(part, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    usual, waits = time.sleep, threading.Event()
    monkeypatch.setattr(time, "sleep", lambda seconds: (waits.set(), usual(seconds)))
    failed: list[errors.P2pfsError] = []

    def get() -> None:
        try:
            client.get(cid, "t")
        except errors.P2pfsError as error:
            failed.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    assert waits.wait(WAIT_S)
    os.rmdir(part)  # The first one is done,
    held = -1
    if third:  # and another one has begun in a part of its own,
        monkeypatch.setattr(files, "LOCK_WAIT_S", 0.0)
        os.mkdir(part, 0o700)
        held = os.open(part, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    else:
        os.mkdir("t")
    os.close(first)
    thread.join(WAIT_S)
    assert ["is being written by another get" if third else "t exists"] == [
        text for text in ("is being written by another get", "t exists") if text in str(failed)
    ]
    assert os.listdir(part if third else "t") == []
    if third:
        os.close(held)


def test_small_files_come_together_and_those_that_are_right_already_stay(
    node: FakeNode, client: Client, here: Path
) -> None:
    tree = {b"%d" % i: b"small %d" % i for i in range(150)}
    cid = node.keep(tree)
    asked = 0
    usual = node._reads

    def fail_late(talk: Talk, line: wire.Line) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            talk.body(line.length)
            raise errors.NotFound("nobody has it")
        usual(talk, line)

    node.hooks["READS"] = fail_late
    with pytest.raises(errors.NotFound):
        client.get(cid, "t")
    assert not os.path.lexists("t")
    (part,) = here.iterdir()
    changes = {path.name: path.stat() for path in (part / "tree").iterdir() if path.stat().st_size}
    first = next(iter(changes))
    (part / "tree" / first).write_bytes(b"torn, and longer than what it was")
    del node.hooks["READS"], changes[first]
    node.requests.clear()
    client.get(cid, "t")
    assert read_tree(b"t") == tree
    assert sum(request[0] == "READS" for request in node.requests) == 3, "64 at a time"
    assert all((here / "t" / name).stat().st_mtime_ns == was.st_mtime_ns for name, was in changes.items())


def test_what_is_longer_than_its_directory_says_comes_alone(node: FakeNode, client: Client, here: Path) -> None:
    tree = {b"liar": data_of(100_000), b"small": b"1"}
    cid = node.keep(tree)

    def say_small(talk: Talk, line: wire.Line) -> None:
        for name, data in tree.items():
            talk.part({"name": name.decode(), "cid": cid_of(data), "type": "file", "size": 10})
        talk.ok()

    node.hooks["LIST"] = say_small
    client.get(cid, "t")
    assert read_tree(b"t") == tree


@given(
    st.text(max_size=300) | st.sampled_from(["a/b", "..", "x/..", "/", "ipfs://x", "sha256:00"]), st.lists(st.text())
)
def test_the_name_of_what_is_got_stays_in_its_folder(ref: str, pins: list[str]) -> None:
    cid = CID.parse(cid_of(b""))
    name = files.name_for(ref, cid, pins)
    assert files.is_safe_name(name)
    assert os.path.dirname(name) == ""
    part = files.part_path(os.path.join("folder", name), str(cid))
    assert os.path.dirname(part) == "folder"
    assert len(os.fsencode(os.path.basename(part))) <= 255


@pytest.mark.parametrize("far", [False, True])
def test_a_sha256_that_the_catalog_gives_to_another_file_is_noticed(
    node: FakeNode, client: Client, remote: tuple[FakeNode, Client], here: Path, far: bool
) -> None:
    if far:
        node, client = remote
    data = data_of(3 * MIB)
    right, wrong = f"sha256:{hashlib.sha256(data).hexdigest().upper()}", f"sha256:{'0' * 64}"
    node.keep(data, right)
    assert client.get(right, "right").read_bytes() == b"".join(client.read(right)) == data
    for evil in (data, b"x", {b"d": b"x"}):
        node.keep(evil, wrong)
        with pytest.raises(errors.Corrupt, match="gives"):
            client.get(wrong, "wrong")
        if isinstance(evil, bytes):
            with pytest.raises(errors.Corrupt, match="a file that has another one"):
                list(client.read(wrong))
    assert os.listdir() == ["right"]


@pytest.mark.parametrize("name", [".profile", "x/.ssh", "-rf"])
def test_a_name_that_nobody_here_wrote_is_neither_hidden_nor_an_option(name: str) -> None:
    cid = CID.parse(cid_of(b""))
    assert files.name_for(str(cid), cid, [name]) == str(cid)
    assert files.name_for(str(cid), cid, [name, "photo"]) == "photo"
    assert files.name_for(name, cid, [name]) == files.name_for(f"{cid}/{name}", cid, []) == name.rpartition("/")[2]


def test_an_interrupted_get_from_afar_leaves_nothing(remote: tuple[FakeNode, Client], here: Path) -> None:
    node, client = remote
    node.keep(data_of(100_000), "f")

    def break_off(talk: Talk, line: wire.Line) -> None:
        talk.part(data_of(60_000))
        raise errors.Unreachable("it broke off")

    node.hooks["READ"] = break_off
    with pytest.raises(errors.Unreachable):
        client.get("f")
    assert os.listdir() == []


def test_something_else_than_was_asked_for_is_no_file(node: FakeNode, client: Client, here: Path) -> None:
    cid, other = node.keep(data_of(1000)), node.keep(data_of(2000))
    node.pinned[cid] = other
    for into, what in ((getting.fetch_into, "f"), (getting.read_into, None)):
        with open("f", "w+b") as file, pytest.raises(errors.ProtocolError, match=f"the node sent {other} for {cid}"):
            into(client._calls, file.fileno(), CID.parse(cid), what, client._deadline(), None)


def test_a_get_waits_while_the_node_lets_go_of_an_interrupted_one(node: FakeNode, client: Client, here: Path) -> None:
    cid = node.keep(b"content")
    part = os.open(files.part_path("f", cid), os.O_RDWR | os.O_CREAT)
    fcntl.flock(part, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, os.close, [part])
    timer.start()
    assert client.get(cid, "f").read_bytes() == b"content"
    timer.join()


def test_a_disk_that_is_full_for_the_node_names_what_was_to_come(node: FakeNode, client: Client, here: Path) -> None:
    def refuse(talk: Talk, line: wire.Line) -> None:
        raise errors.NoSpace("cannot write the output file: No space left on device")

    cid = node.keep(data_of(3 * MIB), "f")
    tree = node.keep({b"big": data_of(3 * MIB)}, "tree")
    node.hooks["FETCH"] = refuse
    for ref, target in ((cid, "copy"), (tree, "folder")):
        with pytest.raises(errors.NoSpace, match=f"^{target}: cannot write the output file: No space left"):
            client.get(ref, target)


def test_a_full_disk_names_what_was_to_come(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    node.keep(b"x", "f")
    node.keep({b"x": b"y"}, "d")
    monkeypatch.setattr(os, "fsync", refuse)
    for name in ("f", "d"):
        with pytest.raises(errors.NoSpace, match=f"{name}-copy: no space left on device"):
            client.get(name, here / f"{name}-copy")
    with pytest.raises(errors.NoSpace, match=r"f\.car: no space left on device"):
        client.export_car("f", here / "f.car")


def test_a_directory_that_failed_leaves_nobody_who_writes_to_it_later(
    remote: tuple[FakeNode, Client], here: Path
) -> None:
    node, client = remote
    hanging, failing = data_of(200_000), data_of(300_000)
    node.keep({b"hangs": hanging, b"never": failing}, "dir")
    has_begun, may_end = threading.Event(), threading.Event()

    def read(talk: Talk, line: wire.Line) -> None:
        if line.args[0] == cid_of(failing):
            assert has_begun.wait(WAIT_S)
            raise errors.NotFound("nobody has it")
        talk.part(hanging[:100_000])
        has_begun.set()
        may_end.wait(WAIT_S)  # as a node that hangs

    node.hooks["READ"] = read
    try:
        begin = time.monotonic()
        with pytest.raises(errors.NotFound):
            client.get("dir")
        assert time.monotonic() - begin < 4, "it waited for the node that hangs"
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("get-")]
        assert not left, "whoever waits still empties the file when the node is given up, got by somebody else or not"
    finally:
        may_end.set()
    assert client.stat("dir").type == "directory", "the client's own connection was cut, too"
