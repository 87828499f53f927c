"""The client against a node that keeps everything in memory: what is sent, what is made of answers and of failures."""

from __future__ import annotations

import datetime
import fcntl
import io
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pfs import CID, Client, errors
from p2pfs.client import answers, files, pool, sending
from p2pfs.client.remote_file import MOST_BYTES, RemoteFile
from p2pfs.core import wire
from p2pfs.net import certificates, tls
from tests.unit.fake_node import FakeNode, Link, Talk, cid_of

MIB = 1024 * 1024
WAIT_S = 10.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path) as node:
        yield node


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with Client(node.address) as client:
        yield client


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# --- store ---------------------------------------------------------------------------------------------


def test_a_regular_file_goes_by_descriptor(node: FakeNode, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data_of(3 * MIB))
    stored = client.store(path, replicas=3, chunker="fixed-256KiB")
    assert node.trees[str(stored.cid)] == path.read_bytes()
    assert node.records == ["FD"]
    assert node.options == {"name": "model.bin", "replicas": 3, "chunker": "fixed-256KiB"}
    assert (stored.size, stored.replicas, stored.nodes) == (3 * MIB, 2, ["a", "b"])


def test_an_open_file_goes_by_descriptor_from_its_start_and_else_in_line(
    node: FakeNode, client: Client, here: Path
) -> None:
    Path("f").write_bytes(b"0123456789")
    with open("f", "rb") as file:
        assert client.store(file, name="whole").name == "whole"
        assert node.records == ["FD"]
        file.seek(4)
        stored = client.store(file)
    assert node.trees[str(stored.cid)] == b"456789"
    assert node.records == ["FD", "FILE", "PART", "END"]


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 7])
def test_a_file_object_is_streamed_in_parts(node: FakeNode, client: Client, size: int) -> None:
    stored = client.store(io.BytesIO(data_of(size)), name="x", dry_run=True)
    assert node.trees[str(stored.cid)] == data_of(size)
    assert node.options == {"name": "x", "dry_run": True}
    assert node.records.count("PART") == -(-size // MIB)


def test_a_pipe_is_streamed_as_it_comes_with_signs_of_life(
    node: FakeNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ALIVE_S", 0.01)
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb", buffering=0) as pipe:
            pipe.write(b"first ")
            node.alive.clear()
            assert node.alive.wait(WAIT_S)
            pipe.write(b"second")

    writer = threading.Thread(target=write)
    writer.start()
    with open(read_end, "rb") as pipe:
        stored = client.store(pipe)
    writer.join()
    assert node.trees[str(stored.cid)] == b"first second"


def test_a_refusal_in_mid_stream_is_heard_while_the_pipe_is_silent(node: FakeNode, client: Client) -> None:
    node.refuse_store_after = 3
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as pipe, open(write_end, "wb", buffering=0) as source:
        source.write(b"more than three")
        with pytest.raises(errors.NoSpace, match="max_size"):
            client.store(pipe)


def test_the_reason_is_found_when_sending_fails(node: FakeNode, client: Client) -> None:
    node.refuse_store_after = 0
    with pytest.raises(errors.NoSpace, match="max_size"):
        client.store(io.BytesIO(data_of(30 * MIB)))
    assert not node.pinned
    assert client.stat(node.keep(b"x")).size == 1


def test_progress_tells_bytes_and_size(node: FakeNode, client: Client, here: Path) -> None:
    Path("f").write_bytes(b"x" * 1000)
    seen: list[answers.Progress] = []
    client.store("f", progress=seen.append)
    assert seen == [(1000, 1000)]
    seen.clear()
    client.store(io.BytesIO(b"abc"), progress=seen.append)
    assert seen == [(3, None)]


def test_a_text_file_object_is_refused(client: Client) -> None:
    with pytest.raises(errors.UsageError, match="binary"):
        client.store(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["missing", "socket", "fifo", "device", "unreadable"])
def test_what_is_no_file_is_refused_by_name(
    node: FakeNode, client: Client, here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/dev/null" if kind == "device" else "odd"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
    if kind == "unreadable":
        Path(path).write_bytes(b"x")
        real = os.open

        def refuse(name: Any, *args: Any, **kwargs: Any) -> int:
            if os.path.basename(os.fsencode(name)) == b"odd":
                raise PermissionError(13, "Permission denied", name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.NotFound if kind == "missing" else errors.Refused, match=path):
        client.store(path)
    assert not node.pinned


# --- get -----------------------------------------------------------------------------------------------


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


def test_two_gets_of_one_target_do_not_mix(node: FakeNode, client: Client, here: Path) -> None:
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


def read_tree(path: bytes) -> Any:
    if os.path.islink(path):
        return Link(os.readlink(path))
    if os.path.isdir(path):
        return {name: read_tree(os.path.join(path, name)) for name in os.listdir(path)}
    return Path(os.fsdecode(path)).read_bytes()


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


# --- open, read ----------------------------------------------------------------------------------------


def test_open_is_a_seekable_binary_file(node: FakeNode, client: Client) -> None:
    data = data_of(5 * MIB + 3)
    node.keep(data, "big")
    with client.open("big") as file:
        assert file.seekable()
        assert file.read(10) == data[:10]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(MIB)
        node.keep(b"another", "big")
        assert file.read(3 * MIB) == data[MIB : 4 * MIB]
        assert file.seek(len(data) + 100) and file.read(1) == b""
        with pytest.raises(ValueError, match="before the start"):
            file.raw.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=400_000), st.lists(st.tuples(st.integers(0, 450_000), st.integers(0, 300_000)), max_size=8))
def test_a_remote_file_reads_what_a_file_in_memory_does(data: bytes, reads: list[tuple[int, int]]) -> None:
    def read_range(offset: int, length: int) -> Iterator[bytes]:
        assert 0 < length <= MOST_BYTES
        assert offset + length <= len(data)
        yield from (data[at : min(at + 1000, offset + length)] for at in range(offset, offset + length, 1000))

    ours = io.BufferedReader(RemoteFile(CID.parse(cid_of(data)), len(data), read_range), 4096)
    model = io.BytesIO(data)
    for offset, length in reads:
        assert ours.seek(offset) == model.seek(offset)
        assert ours.read(length) == model.read(length)
        assert ours.tell() == model.tell()
    ours.seek(0)
    assert ours.read() == data


def test_reading_on_asks_for_more_at_once(node: FakeNode, client: Client) -> None:
    node.keep(data_of(20 * MIB), "big")
    with client.open("big") as file:
        while file.read(64 * 1024):
            pass
    lengths = [int(request[3]) for request in node.requests if request[0] == "READ"]
    assert max(lengths) == MOST_BYTES
    assert len(lengths) < 15


def test_read_gives_a_range_and_may_be_left(node: FakeNode, client: Client) -> None:
    data = data_of(3 * MIB)
    cid = node.keep(data)
    assert b"".join(client.read(cid, 100, 50)) == data[100:150]
    assert b"".join(client.read(cid)) == data
    pieces = client.read(cid)
    next(pieces)
    pieces.close()
    assert b"".join(client.read(cid, 5)) == data[5:]
    assert b"".join(client.read(CID.parse(cid))) == data


# --- look ----------------------------------------------------------------------------------------------


def test_answers_are_typed(node: FakeNode, client: Client) -> None:
    cid = node.keep({b"d": {}, b"f": b"12345"}, "tree")
    assert [(entry.name, entry.type, entry.size) for entry in client.ls("tree")] == [
        ("d", "directory", None), ("f", "file", 5),
    ]
    pin = next(client.pins())
    assert (pin.name, pin.cid) == ("tree", CID.parse(cid))
    assert client.stat("tree").entries == 2
    assert [peer.name for peer in client.peers()] == ["a", "b"]
    assert client.status()["verdict"] == "healthy"
    explained = client.explain("tree")
    assert [row.holders for row in explained] == [["a"]]
    assert explained.end.below_wanted == 1
    assert client.explain("tree").end.wanted == 2
    assert [one.name for one in client.remove("tree")] == ["tree"]
    assert list(client.pins()) == []


def test_car_in_and_out(node: FakeNode, client: Client, here: Path) -> None:
    Path("in.car").write_bytes(data_of(2 * MIB))
    imported = client.import_car("in.car", replicas=2)
    root = imported.roots[0]
    assert (node.trees[str(root.cid)], root.pinned) == (data_of(2 * MIB), True)
    assert node.options == {"replicas": 2}
    assert client.export_car("imported", "out.car") == 1
    assert Path("out.car").read_bytes() == b"CAR of " + data_of(2 * MIB)
    out = io.BytesIO()
    client.export_car(root.cid, out)
    assert out.getvalue() == Path("out.car").read_bytes()
    with pytest.raises(errors.NotFound):
        client.export_car("nothing", "new.car")
    assert sorted(os.listdir()) == ["in.car", "out.car"]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(cid_of(b"")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["cid", "name", "size", "roots", "blocks", "new_blocks", "new_bytes", "type", "pinned"]), inner
    ),
))
def test_any_json_is_an_answer_or_a_protocol_error(value: Any) -> None:
    for shape in (answers.Imported, answers.Entry, answers.Removed, answers.Peer):
        try:
            parsed = answers.parse(shape, value)
        except errors.ProtocolError:
            continue
        assert answers.parse(shape, answers.plain(parsed)) == parsed


# --- connections ---------------------------------------------------------------------------------------


def test_no_node_says_where_and_how_to_start_one(tmp_path: Path) -> None:
    with Client(str(tmp_path / "none.sock")) as client, pytest.raises(errors.Unreachable) as caught:
        client.status()
    assert "p2pfs-node -c conf/node.ini" in str(caught.value)
    assert str(tmp_path / "none.sock") in str(caught.value)


def test_a_connection_is_used_again_unless_the_node_closed_it(node: FakeNode, client: Client) -> None:
    client.status()
    client.status()
    with pytest.raises(errors.NotFound):
        client.stat("nothing")
    client.status()
    assert node.connections == 1
    node.hang_up()
    client.status()
    assert node.connections == 2


def test_threads_share_a_client(node: FakeNode, client: Client) -> None:
    cids = [node.keep(data_of(100_000 + i)) for i in range(8)]
    right: list[bool] = []

    def read(index: int) -> None:
        right.extend(b"".join(client.read(cids[index])) == data_of(100_000 + index) for _ in range(5))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert right == [True] * 40
    assert node.connections <= 8


def test_the_deadline_ends_a_silent_answer(node: FakeNode) -> None:
    is_over = threading.Event()
    node.hooks["STATUS"] = lambda talk, line: is_over.wait(WAIT_S) and None
    with Client(node.address, timeout_s=0.05) as client, pytest.raises(errors.DeadlinePassed):
        client.status()
    is_over.set()


def test_the_deadline_is_the_whole_operations(node: FakeNode) -> None:
    def drip(talk: Talk, line: wire.Line) -> None:
        while True:
            talk.part(b"x")

    node.hooks["READ"] = drip
    with Client(node.address, timeout_s=0.1) as client, pytest.raises(errors.DeadlinePassed):
        for _ in client.read("anything"):
            pass


def test_a_closed_client_says_so(node: FakeNode) -> None:
    with Client(node.address) as client:
        client.status()
    with pytest.raises(errors.UsageError, match="closed"):
        client.status()


def test_a_remote_address_needs_certificates() -> None:
    with pytest.raises(errors.UsageError, match="--tls-dir"):
        Client("nas:4640")


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[FakeNode, Client]]:
    """A node behind TLS, and a client of the same cluster."""
    authority = certificates.derive_authority("a secret")
    now = datetime.datetime.now(datetime.UTC)
    folders = []
    for name in ("n", "client"):
        folder = tmp_path / name
        folder.mkdir()
        key = certificates.new_key()
        (folder / "key.pem").write_bytes(key)
        (folder / "ca.pem").write_bytes(authority.pem)
        (folder / "cert.pem").write_bytes(certificates.issue(authority, certificates.load_key(key), name, now))
        folders.append(folder)
    context = tls.server_context(*(str(folders[0] / name) for name in ("ca.pem", "cert.pem", "key.pem")))
    with FakeNode(tmp_path, context) as node, Client(node.address, tls_dir=folders[1]) as client:
        yield node, client


def test_a_remote_node_gets_and_gives_everything_in_line(remote: tuple[FakeNode, Client], here: Path) -> None:
    node, client = remote
    Path("f").write_bytes(data_of(3 * MIB + 1))
    stored = client.store("f")
    assert node.trees[str(stored.cid)] == data_of(3 * MIB + 1)
    assert "FD" not in node.records
    Path(files.part_path("g", str(stored.cid))).write_bytes(b"of an earlier try" * MIB)
    client.get(stored.cid, "g")
    assert Path("g").read_bytes() == Path("f").read_bytes()
    tree = {b"a": data_of(70_000), b"b": {b"c": b"1", b"l": Link(b"c")}}
    client.get(node.keep(tree), "t")
    assert read_tree(b"t") == tree
    client.store("t")
    assert node.trees[node.pinned["t"]] == tree


def test_a_remote_refusal_in_mid_stream_is_told(remote: tuple[FakeNode, Client]) -> None:
    node, client = remote
    node.refuse_store_after = 0
    with pytest.raises(errors.NoSpace, match="max_size"):
        client.store(io.BytesIO(data_of(30 * MIB)))


def test_the_default_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2PFS_NODE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(pool, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    own = str(tmp_path / "p2pfs" / "control.sock")
    assert pool.default_address() == own
    (tmp_path / "system.sock").touch()
    assert pool.default_address() == str(tmp_path / "system.sock")
    (tmp_path / "p2pfs").mkdir()
    Path(own).touch()
    assert pool.default_address() == own
    monkeypatch.setenv("P2PFS_NODE", "nas:4640")
    assert pool.default_address() == "nas:4640"


@pytest.mark.parametrize(
    ("address", "is_path"),
    [("nas:4640", False), ("[::1]:4640", False), ("/run/x.sock", True), ("./a:1", True), ("s", True)],
)
def test_what_is_a_socket_path(address: str, is_path: bool) -> None:
    assert pool.is_socket_path(address) is is_path


def test_importing_the_client_loads_little() -> None:
    code = (
        "import sys, p2pfs; p2pfs.Client; p2pfs.CID; p2pfs.errors\n"
        "print(sorted({'gevent', 'ssl', 'cryptography', 'prometheus_client', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_tree_is_sent_with_small_files_in_line_and_large_ones_by_descriptor(
    node: FakeNode, client: Client, here: Path
) -> None:
    tree = {
        b"big": data_of(sending.SMALL_BYTES + 1), b"empty": b"", b"none": {}, b"small": data_of(sending.SMALL_BYTES),
        b"sub": {b"link": Link(b"../big"), **{b"%d" % i: b"%d" % i for i in range(500)}},
    }
    node.keep(tree)
    client.get(cid_of(tree), "t")
    node.records.clear()
    seen: list[answers.Progress] = []
    stored = client.store("t", progress=seen.append)
    assert node.trees[str(stored.cid)] == tree
    assert node.records.count("FD") == 1
    assert seen[-1].bytes == seen[-1].size


def test_a_file_that_changes_while_it_is_sent_is_refused(node: FakeNode, client: Client, here: Path) -> None:
    Path("t").mkdir()
    Path("t/a").write_bytes(b"1")
    Path("t/shrinking").write_bytes(data_of(1000))

    class Shrinking(sending.Outgoing):
        def record(self, name: str, *args: Any, **kwargs: Any) -> None:
            super().record(name, *args, **kwargs)
            if name == "FILE":
                os.truncate("t/shrinking", 500)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "Outgoing", Shrinking)
        with pytest.raises(errors.Refused, match=r"shrinking.*changed"):
            client.store("t")
    assert not node.pinned
    assert client.store("t").size == 501
