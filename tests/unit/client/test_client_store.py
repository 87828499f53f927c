"""What the client sends: files by descriptor, streams, trees; and what it makes of a node that refuses."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfs import Client, errors
from p2pfs.client import answers, outgoing, sending
from p2pfs.client.deadline import Deadline
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Link, cid_of, data_of

MIB = 1024 * 1024
WAIT_S = 60.0


def test_a_regular_file_goes_by_descriptor(node: FakeNode, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data_of(3 * MIB))
    stored = client.store(path, replicas=3, chunker="fixed-256KiB")
    assert node.trees[str(stored.cid)] == path.read_bytes()
    assert node.records == ["FD"]
    assert node.options == {"name": "model.bin", "replicas": 3, "chunker": "fixed-256KiB"}
    assert (stored.size, stored.replicas, stored.nodes) == (3 * MIB, 2, ["a", "b"])


def test_what_hides_its_bytes_is_stored_to_its_end(node: FakeNode, client: Client, here: Path) -> None:
    wanted = Path("/proc/version").read_bytes()
    assert node.trees[str(client.store("/proc/version").cid)] == wanted
    with open("/proc/version", "rb") as file:
        assert node.trees[str(client.store(file).cid)] == wanted
    assert "FD" not in node.records


def test_an_empty_file_that_is_written_to_meanwhile_hides_nothing_and_is_refused(
    client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tree").mkdir()
    Path("tree/log").touch()
    read = os.pread

    def late(fd: int, count: int, offset: int) -> bytes:
        Path("tree/log").write_bytes(b"the first half")
        return read(fd, count, offset)

    monkeypatch.setattr(os, "pread", late)
    with pytest.raises(errors.Refused, match=r"tree/log. was changed while it was read"):
        client.store("tree")


def test_a_read_error_names_the_file(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tree").mkdir()
    Path("tree/bad").write_bytes(b"bad")
    monkeypatch.setattr(os, "read", lambda *_: raise_os_error(errno.EIO))
    for encrypt in (False, True):
        monkeypatch.setattr(os, "pread", lambda *_: raise_os_error(errno.EIO))
        with pytest.raises(errors.Refused, match=r"cannot read .*/tree/bad.: Input/output error"):
            client.store("tree", encrypt=encrypt)


def test_a_car_that_cannot_be_read_is_named(client: Client) -> None:
    with pytest.raises(errors.Refused, match=r"cannot read ./proc/self/mem.: Input/output error"):
        client.import_car("/proc/self/mem")


@pytest.mark.parametrize("encrypt", [False, True])
def test_what_fails_in_a_callback_is_not_blamed_on_the_file(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch, encrypt: bool
) -> None:
    Path("f").write_bytes(data_of(3 * MIB))

    def told(progress: answers.Progress) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    # As if the node had told its progress before each record.
    monkeypatch.setattr(outgoing.Outgoing, "_hear", lambda out: told(answers.Progress(0, None)))
    with pytest.raises(BrokenPipeError):
        client.store("f", encrypt=encrypt, progress=told)


def raise_os_error(number: int) -> bytes:
    raise OSError(number, os.strerror(number))


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


def test_a_file_object_whose_bytes_are_not_those_of_a_descriptor_is_read_as_it_reads(
    node: FakeNode, client: Client, here: Path
) -> None:
    data = data_of(2 * MIB + 1)
    Path("f").write_bytes(data)
    with tarfile.open("t.tar", "w") as tar:
        tar.add("f")
    cid = node.keep(data)

    class Backwards(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size)[::-1]

    with (
        tarfile.open("t.tar") as tar, client.open(cid) as opened, Backwards("f") as backwards,
        client.open(cid) as again,
    ):
        member = tar.extractfile("f")
        assert member is not None
        assert str(client.store(member).cid) == cid, "a member of a tar"
        assert str(client.store(opened).cid) == cid, "what is stored already"
        pieces = [data[at : at + wire.MAX_PART][::-1] for at in range(0, len(data), wire.MAX_PART)]
        assert str(client.store(backwards).cid) == cid_of(b"".join(pieces)), "what the object gives, not its descriptor"
        assert client.store(again, encrypt=True).size == len(data), "and that encrypted"
    with open("w", "wb", buffering=0) as written, pytest.raises(errors.UsageError, match="can be read"):
        client.store(written)


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 7])
def test_a_file_object_is_streamed_in_parts(node: FakeNode, client: Client, size: int) -> None:
    stored = client.store(io.BytesIO(data_of(size)), name="x", dry_run=True)
    assert node.trees[str(stored.cid)] == data_of(size)
    assert node.options == {"name": "x", "dry_run": True}
    assert node.records.count("PART") == -(-size // MIB)


def test_a_pipe_is_streamed_as_it_comes_with_signs_of_life(
    node: FakeNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "ALIVE_S", 0.01)
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


class TalkativeNode:
    """The connection to a node that tells its progress twice a second of a clock of its own; it is the clock, too."""

    def __init__(self, source: socket.socket) -> None:
        self.now_s = 0.0
        self.sent: list[tuple[float, str, object]] = []
        self._source = source
        self._ours, self._theirs = socket.socketpair()

    def clock(self) -> float:
        self.now_s += 0.5
        assert self.now_s < 60, "nothing was sent for so long that the node gave up"
        self._theirs.send(b"x")
        return self.now_s

    def fileno(self) -> int:
        return self._ours.fileno()

    def stream(self, verb: str, body: bytes) -> Iterator[bytes]:
        while self._ours.recv(1):
            yield b'{"bytes": 1}'

    def send_record(self, name: str, *args: Any, body: object = None, fds: tuple[int, ...] = ()) -> None:
        self.sent.append((self.now_s, name, body))
        if len(self.sent) == 2:
            self._source.send(b"at last")

    def send_records(self, lines: bytes) -> None:
        self.send_record("several", body=lines)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def test_signs_of_life_go_out_however_much_the_node_says() -> None:
    ours, theirs = socket.socketpair()
    node = TalkativeNode(theirs)
    with ours, theirs, contextlib.closing(node):
        out = outgoing.Outgoing(node, Deadline(None), "STORE", {}, None, True, node.clock)  # type: ignore[arg-type]
        out.wait_readable(ours.fileno())
        assert [sent[1:] for sent in node.sent] == [("PART", b""), ("PART", b"")]
        assert all(sent[0] - begin_s < outgoing.ALIVE_S + 2 for sent, begin_s in zip(node.sent, (0, 15), strict=True))


def test_small_files_that_come_slowly_are_signs_of_life() -> None:
    ours, theirs = socket.socketpair()
    node = TalkativeNode(theirs)
    with ours, theirs, contextlib.closing(node):
        out = outgoing.Outgoing(node, Deadline(None), "STORE", {}, None, True, node.clock)  # type: ignore[arg-type]
        while len(node.sent) < 2:
            node.clock()
            out.gather("SMALL", b"name", body=b"slow")
        assert all(sent[0] - begin_s < outgoing.ALIVE_S + 2 for sent, begin_s in zip(node.sent, (0, 15), strict=True))


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

    real = os.read

    def read_and_shrink(fd: int, count: int) -> bytes:
        data = real(fd, count)
        if data == data_of(1000):
            os.truncate("t/shrinking", 500)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "read", read_and_shrink)
        with pytest.raises(errors.Refused, match=r"shrinking.*changed"):
            client.store("t")
    assert not node.pinned
    assert client.store("t").size == 501
