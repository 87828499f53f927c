"""Lines, bodies, descriptors and deadlines of one connection."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.net.stream import MAX_DESCRIPTORS, Limits, Stream
from tests.sockets import IS_GREEN, SHORT, Script, Task, stream_pair

KINDS = ["tcp", "unix", "tls"]
WAIT_S = 60.0


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Stream, Stream]]:
    with stream_pair(request.param, tmp_path) as streams:
        yield streams


@pytest.fixture(params=KINDS)
def short_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Stream, Stream]]:
    with stream_pair(request.param, tmp_path, SHORT) as streams:
        yield streams


@contextlib.contextmanager
def raw_pair(limits: Limits | None = None) -> Iterator[tuple[socket.socket, Stream]]:
    """A socket to write to by hand, and the stream at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
        sock, _ = listener.accept()
    with raw, contextlib.closing(Stream(sock, "the other", limits)) as stream:
        yield raw, stream


# --- what is sent arrives ----------------------------------------------------------------------------

def test_lines_and_bodies_arrive_in_order(pair: tuple[Stream, Stream]) -> None:
    left, right = pair
    small, large, records = b"s" * 1000, random.Random(1).randbytes(wire.MAX_BLOCK), b"R\r\n" * 30_000

    def send() -> None:
        left.send(b"A 1000\r\n", small)
        left.send(b"B\r\n")
        left.send(b"C\r\n", memoryview(large), small)
        left.send(records)

    task = Task(send)
    assert right.read_line(WAIT_S) == b"A 1000\r\n"
    assert right.read_body(1000) == small
    assert right.read_line(WAIT_S) == b"B\r\n"
    assert right.read_line(WAIT_S) == b"C\r\n"
    body = bytearray(len(large))
    right.read_into(memoryview(body))
    assert body == large
    right.skip(900)
    assert right.read_body(100) == small[:100]
    assert right.read_body(len(records)) == records
    task.result()
    assert left.read_body(0) == b""


LINES = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b""))


@given(
    messages=st.lists(st.tuples(LINES, st.binary(max_size=300)), max_size=8),
    cuts=st.lists(st.integers(1, 97), min_size=1, max_size=20),
)
def test_where_the_network_cuts_makes_no_difference(messages: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" + body for line, body in messages)
    stream = Stream(Script(data, cuts), "script")  # type: ignore[arg-type]
    for line, body in messages:
        assert stream.read_line(WAIT_S) == line + b"\n"
        assert stream.read_body(len(body)) == body
    assert stream.read_line(WAIT_S) == b""


@pytest.mark.skipif(not IS_GREEN, reason="native threads may not share a TLS stream")
def test_both_directions_at_once_by_tls(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(4 * wire.MAX_BLOCK)
    with stream_pair("tls", tmp_path) as (left, right):
        tasks = [Task(stream.send, b"", data) for stream in (left, right)]
        reads = [Task(stream.read_body, len(data)) for stream in (left, right)]
        assert [read.result() == data for read in reads] == [True, True]
        for task in tasks:
            task.result()


# --- what is wrong has its error ---------------------------------------------------------------------

def test_the_end_between_lines_is_no_error(pair: tuple[Stream, Stream]) -> None:
    left, right = pair
    left.send(b"A\r\n")
    left.close()
    left.close()
    assert right.read_line(WAIT_S) == b"A\r\n"
    assert right.read_line(WAIT_S) == b""


@pytest.mark.parametrize(("read", "what"), [
    (lambda stream: stream.read_line(WAIT_S), "in the middle of a line"),
    (lambda stream: stream.read_body(9), "6 bytes early"),
])
def test_the_end_in_a_line_or_body_is_one(read: Callable[[Stream], bytes], what: str) -> None:
    with raw_pair() as (raw, stream):
        raw.sendall(b"abc")
        raw.shutdown(socket.SHUT_WR)
        with pytest.raises(errors.Unreachable, match=f"the other closed the connection {what}"):
            read(stream)
        assert stream.is_gone


def test_a_reset_is_unreachable() -> None:
    with raw_pair() as (raw, stream):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        with pytest.raises(errors.Unreachable, match="the connection to the other broke"):
            stream.read_line(WAIT_S)
        with pytest.raises(errors.Unreachable, match="the connection to the other broke"):
            stream.send(b"A\r\n")


def test_a_line_has_its_limit() -> None:
    longest = b"x" * (wire.MAX_LINE - 2) + b"\r\n"
    with raw_pair() as (raw, stream):
        raw.sendall(longest + b"y" + longest)
        assert stream.read_line(WAIT_S) == longest
        with pytest.raises(errors.TooLong, match="8192"):
            stream.read_line(WAIT_S)


def test_a_line_without_end_is_not_gathered_for_ever() -> None:
    with raw_pair() as (raw, stream):
        raw.sendall(b"x" * (wire.MAX_LINE + 1))
        with pytest.raises(errors.TooLong):
            stream.read_line(WAIT_S)


# --- deadlines ---------------------------------------------------------------------------------------

def test_silence_ends_by_the_deadline(short_pair: tuple[Stream, Stream]) -> None:
    left, right = short_pair
    with pytest.raises(errors.DeadlinePassed, match=r"right did not send a line within 0\.01 s"):
        Stream.read_line(_renamed(left), 0.01)
    right.send(b"half a")
    with pytest.raises(errors.DeadlinePassed, match=r"a line within 0\.2 s"):
        left.read_line(1000.0)
    right.send(b" line\n abc")
    assert left.read_line(WAIT_S) == b"half a line\n"
    # What came behind the line before is the begin of this one already.
    with pytest.raises(errors.DeadlinePassed, match=r"a line within 0\.2 s"):
        left.read_line(1000.0)
    with pytest.raises(errors.DeadlinePassed, match="body of 5 bytes"):
        left.read_body(5)


def _renamed(stream: Stream) -> Stream:
    stream.peer_name = "right"
    return stream


def test_a_body_that_trickles_ends_by_its_deadline_as_a_whole() -> None:
    limits = Limits(progress_s=WAIT_S, body_s=0.2, bytes_per_s=1e12)
    with raw_pair(limits) as (raw, stream):
        def trickle() -> None:
            with contextlib.suppress(OSError):
                while True:
                    raw.send(b"x")

        task = Task(trickle)
        with pytest.raises(errors.DeadlinePassed, match="in time"):
            stream.read_into(memoryview(bytearray(64 * 1024 * 1024)))
        stream.close()
        task.result()


def test_who_does_not_read_is_given_up(short_pair: tuple[Stream, Stream]) -> None:
    left, _ = short_pair
    with pytest.raises(errors.DeadlinePassed, match="did not take"):
        left.send(b"A\r\n", bytes(64 * 1024 * 1024))
    assert left.is_gone


def test_a_large_body_may_take_longer() -> None:
    assert Limits().whole_body_s(0) == 10
    assert Limits().whole_body_s(1024 * 1024) == pytest.approx(20.24)


def test_closing_wakes_who_waits(pair: tuple[Stream, Stream]) -> None:
    left, right = pair
    task = Task(left.read_line, WAIT_S)
    right.send(b"half")
    end = time.monotonic() + WAIT_S
    while not left._buffer and time.monotonic() < end:
        time.sleep(0.001)
    left.close()
    with pytest.raises(errors.Unreachable):
        task.result()


def test_last_words_are_heard_in_spite_of_unread_bytes() -> None:
    with raw_pair(SHORT) as (raw, stream):
        raw.sendall(b"x" * 100_000)
        stream.send(b"ERR\r\n")
        task = Task(stream.linger)
        with raw.makefile("rb") as file:
            assert file.read() == b"ERR\r\n"
        raw.shutdown(socket.SHUT_WR)
        task.result()


# --- descriptors -------------------------------------------------------------------------------------

def test_descriptors_come_in_order_and_close_on_exec(tmp_path: Path) -> None:
    with stream_pair("unix", tmp_path) as (left, right), contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(4)]
        for number, file in enumerate(files):
            file.write(b"%d" % number)
            file.flush()
        left.send_with_descriptors(b"FD a\r\n", [files[0].fileno()])
        left.send_with_descriptors(b"FD b\r\n", [file.fileno() for file in files[1:3]])
        left.send(b"PART 3\r\n", b"abc")
        left.send_with_descriptors(b"FD c\r\n", [files[3].fileno()])
        assert [right.read_line(WAIT_S) for _ in range(3)] == [b"FD a\r\n", b"FD b\r\n", b"PART 3\r\n"]
        assert right.read_body(3) == b"abc"
        assert right.read_line(WAIT_S) == b"FD c\r\n"
        for number in range(4):
            fd = right.take_descriptor()
            assert os.pread(fd, 9, 0) == b"%d" % number and not os.get_inheritable(fd)
            os.close(fd)
        with pytest.raises(errors.ProtocolError, match="no descriptor came"):
            right.take_descriptor()


def test_descriptors_that_nobody_takes_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with stream_pair("unix", tmp_path) as (left, right), tempfile.TemporaryFile() as file:
        left.send_with_descriptors(b"A\r\n", [file.fileno()] * 100)
        right.read_line(WAIT_S)
        assert len(os.listdir("/proc/self/fd")) > before + 100
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_many_descriptors_are_an_error(tmp_path: Path) -> None:
    with stream_pair("unix", tmp_path) as (left, right), tempfile.TemporaryFile() as file:
        left.send_with_descriptors(b"A\r\n", [file.fileno()] * MAX_DESCRIPTORS)
        left.send_with_descriptors(b"B\r\n", [file.fileno()])
        assert right.read_line(WAIT_S) == b"A\r\n"
        with pytest.raises(errors.ProtocolError, match="more descriptors"):
            right.read_line(WAIT_S)
    with stream_pair("unix", tmp_path) as (left, right), tempfile.TemporaryFile() as file:
        left.send_with_descriptors(b"A\r\n", [file.fileno()] * (MAX_DESCRIPTORS + 1))
        with pytest.raises(errors.ProtocolError, match="more descriptors"):
            right.read_line(WAIT_S)
