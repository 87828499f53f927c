"""A server over real sockets and TLS: who gets in, what is refused and how, and what each end is told."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID
from p2pfs.core.wire import Line
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect, split_address
from p2pfs.net.server import Server, Session
from p2pfs.net.stream import MAX_DESCRIPTORS, Limits
from tests.sockets import SHORT, Running, Signal, Task, material, read_all, running, semaphore, spawn

BLOCK = CID(0x55, b"\x12\x20" + bytes(32))
LARGE = os.urandom(wire.MAX_BLOCK)


# --- handlers of the tests ---------------------------------------------------------------------------

def status(session: Session, line: Line) -> None:
    session.reply(f"{session.party.kind} {session.party.id}".encode())


def put(session: Session, line: Line) -> None:
    body = bytearray(line.length)
    session.body_into(memoryview(body))
    session.reply(b"new" if body == LARGE[: len(body)] else b"other")


def get(session: Session, line: Line) -> None:
    session.reply(memoryview(LARGE))


def unpin(session: Session, line: Line) -> None:
    raise errors.NotFound(f"no pin {line.args[0]}")


def have(session: Session, line: Line) -> None:
    raise errors.NoSpace("before the body is read")


def stat_bug(session: Session, line: Line) -> None:
    raise ZeroDivisionError("a bug")


def pins(session: Session, line: Line) -> None:
    for number in range(3):
        session.part(b"%d" % number, b"!")
    session.reply(b"end")


def listing(session: Session, line: Line) -> None:
    session.part(b"one")
    raise errors.Corrupt("the rest is bad")


def store(session: Session, line: Line) -> None:
    session.body()
    total = 0
    while (record := session.next_record()).verb.name != "END":
        if record.verb.name == "FD":
            fd = session.take_descriptor()
            total += os.fstat(fd).st_size
            os.close(fd)
        else:
            total += len(session.record_body(record))
        if total > wire.MAX_PART:
            raise errors.NoSpace("that is too much")
        session.part(b"%d" % total)
    session.reply(b"%d" % total)


def fetch(session: Session, line: Line) -> None:
    fd = session.take_descriptor()
    os.write(fd, b"fetched")
    os.close(fd)
    session.reply()


HANDLERS: dict[str, Callable[[Session, Line], None]] = {
    "STATUS": status, "PUT": put, "GET": get, "UNPIN": unpin, "HAVE": have, "STAT": stat_bug, "PINS": pins,
    "LIST": listing, "STORE": store, "FETCH": fetch,
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, HANDLERS) as started:
        yield started


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Running]:
    """A node with short deadlines."""
    with running(tmp_path, HANDLERS, SHORT) as started:
        yield started


@pytest.fixture
def member(node: Running, tmp_path: Path) -> Iterator[Connection]:
    with contextlib.closing(node.member(tmp_path / "member")) as connection:
        yield connection


@pytest.fixture
def local(node: Running) -> Iterator[Connection]:
    with contextlib.closing(node.local()) as connection:
        yield connection


# --- requests and answers ----------------------------------------------------------------------------

def test_blocks_go_both_ways(member: Connection) -> None:
    assert member.request("PUT", BLOCK, body=memoryview(LARGE)) == b"new"
    view = memoryview(bytearray(wire.MAX_BLOCK))
    assert member.request_into(view, "GET", BLOCK) == len(LARGE)
    assert view == LARGE
    assert member.request("GET", BLOCK) == LARGE


def test_an_answer_larger_than_the_buffer_is_refused(member: Connection) -> None:
    with pytest.raises(errors.TooBig):
        member.request_into(memoryview(bytearray(100)), "GET", BLOCK)
    assert member.is_broken
    with pytest.raises(errors.Unreachable, match="is closed"):
        member.request("STATUS")


def test_a_refusal_leaves_the_connection_in_step(member: Connection) -> None:
    with pytest.raises(errors.NotFound, match="no pin x y"):
        member.request("UNPIN", "x y")
    with pytest.raises(errors.NoSpace):
        member.request("HAVE", "check", body=bytes(1000_000))
    assert not member.is_broken
    assert member.request("STATUS").startswith(b"member ")


def test_a_bug_is_told_and_ends_the_connection(local: Connection, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.InternalError, match="ZeroDivisionError"):
        local.request("STAT", "x")
    assert local.is_broken
    assert "Traceback" in caplog.text


def test_parts_come_one_by_one(local: Connection) -> None:
    answer = local.stream("PINS")
    assert list(answer) == [b"0!", b"1!", b"2!"]
    assert answer.result == b"end"
    assert list(answer) == []
    broken = local.stream("LIST", "x")
    assert next(broken) == b"one"
    for _ in range(2):
        with pytest.raises(errors.Corrupt, match="the rest is bad"):
            next(broken)
    assert local.request("STATUS") == b"local None"


def test_parts_where_none_are_allowed(local: Connection) -> None:
    with pytest.raises(errors.ProtocolError, match="in parts"):
        local.request("PINS")
    assert local.is_broken


def test_a_request_streams_in(local: Connection) -> None:
    answer = local.stream("STORE", body=b"{}")
    local.send_record("PART", body=b"")
    local.send_record("PART", body=b"abc")
    with tempfile.TemporaryFile() as file:
        file.write(b"12345")
        file.flush()
        local.send_record("FD", b"-", fds=(file.fileno(),))
    local.send_record("END")
    assert list(answer) == [b"0", b"3", b"8"]
    assert answer.result == b"8"


@pytest.mark.parametrize("kind", ["local", "member"])
@pytest.mark.parametrize("linger_s", [0.02, 5.0])
def test_who_is_refused_while_sending_hears_why(tmp_path: Path, kind: str, linger_s: float) -> None:
    """Whether the node still reads what comes, or has hung up and sending fails: its reason can be read."""
    with running(tmp_path, HANDLERS, Limits(linger_s=linger_s)) as node, \
            contextlib.closing(node.local() if kind == "local" else node.member(tmp_path / "m")) as connection:
        answer = connection.stream("STORE", body=b"{}")
        with contextlib.nullcontext() if linger_s > 1 else contextlib.suppress(errors.Unreachable):
            for _ in range(20 if linger_s > 1 else 10_000):
                connection.send_record("PART", body=LARGE[: wire.MAX_PART])
        with pytest.raises(errors.NoSpace, match="too much"):
            list(answer)
        assert connection.is_broken


def test_requests_may_be_pipelined(node: Running) -> None:
    with node.raw_local() as sock:
        sock.sendall(b"STATUS\r\nUNPIN x\r\nSTATUS\r\nFROB\r\nSTATUS\r\n")
        sock.shutdown(socket.SHUT_WR)
        done, refused = b"OK 10\r\nlocal None", b"ERR NOT_FOUND no pin x\r\n"
        assert read_all(sock).startswith(done + refused + done + b"ERR UNKNOWN_VERB 'FROB' is not one of")


# --- what is wrong -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("sent", "token"), [
    (b"FROB\r\n", b"UNKNOWN_VERB"),
    (b"x" * 9000, b"TOO_LONG"),
    (b"STORE -5\r\n", b"BAD_LINE"),
    (b"STORE 9999999999\r\n", b"TOO_BIG"),
    (b"\x00\xff\r\n", b"BAD_LINE"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"BAD_LINE"),
    (b"STORE 2\r\n{}FROB\r\n", b"UNKNOWN_VERB"),
    (b"STORE 2\r\n{}PART 1048577\r\n", b"TOO_BIG"),
])
def test_garbage_is_told_and_ends_the_connection(node: Running, sent: bytes, token: bytes) -> None:
    with node.raw_local() as sock:
        sock.sendall(sent + b"STATUS\r\n")
        heard = read_all(sock)
    assert heard.startswith(b"ERR " + token)
    assert heard.count(b"\r\n") == 1
    assert b"OK " not in heard


@pytest.mark.parametrize("sent", [b"STA", b"STORE 10\r\n{", b"STORE 2\r\n{}PART 5\r\nab"])
def test_who_hangs_up_in_the_middle_costs_nothing(node: Running, sent: bytes) -> None:
    with node.raw_local() as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""


@pytest.mark.parametrize(("sent", "heard"), [
    (b"", b""),
    (b"STA", b""),
    (b"STORE 10\r\n{", b"ERR DEADLINE"),
    (b"STORE 2\r\n{}", b"ERR DEADLINE"),
    (b"STORE 2\r\n{}PART 5\r\nab", b"ERR DEADLINE"),
])
def test_who_falls_silent_is_let_go(hasty: Running, sent: bytes, heard: bytes) -> None:
    with hasty.raw_local() as sock:
        sock.sendall(sent)
        assert read_all(sock).startswith(heard)


def test_who_does_not_read_is_let_go(hasty: Running) -> None:
    ends: list[BaseException] = []

    def flood(session: Session, line: Line) -> None:
        try:
            while True:
                session.part(LARGE[: wire.MAX_PART])
        except errors.P2pfsError as error:
            ends.append(error)
            raise

    hasty.server.handlers["PINS"] = flood
    with hasty.raw_local() as sock:
        sock.sendall(b"PINS\r\n")
        sock.recv(1)
        hasty.join()
    assert isinstance(ends[0], errors.DeadlinePassed)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with contextlib.closing(connect(path, None, 1.0, None, SHORT)) as connection:
            with pytest.raises(errors.DeadlinePassed, match=r"silent\.sock did not send a line within 0\.2 s"):
                connection.request("STATUS")
            assert connection.is_broken


# --- who gets in -------------------------------------------------------------------------------------

def test_kinds_of_peers(node: Running, tmp_path: Path) -> None:
    friend = material(tmp_path / "friend")
    user = material(tmp_path / "user", role="admin")
    for who, said in ((friend, f"member {friend.id}"), (user, f"client {user.id}")):
        context = tls.client_context(*who.files)
        with contextlib.closing(connect(node.address, context, 10.0, node.node.id)) as connection:
            assert connection.request("STATUS").decode() == said


def test_member_verbs_are_for_members(node: Running, local: Connection, tmp_path: Path) -> None:
    user = tls.client_context(*material(tmp_path / "user", role="admin").files)
    for connection in (local, connect(node.address, user, 10.0, None)):
        with contextlib.closing(connection), pytest.raises(errors.Forbidden, match="for members"):
            connection.request("GET", BLOCK)


@pytest.mark.parametrize(("sent", "refusal", "why"), [
    (b"FETCH x\r\n", errors.Forbidden, "FETCH needs the control socket"),
    (b"STORE 2\r\n{}FD x\r\n", errors.ProtocolError, "descriptors can only be passed over the control socket"),
])
def test_no_descriptor_over_tcp(
    node: Running, tmp_path: Path, sent: bytes, refusal: type[errors.P2pfsError], why: str
) -> None:
    with contextlib.closing(node.member(tmp_path / "m")) as connection:
        connection._stream.send(sent)
        with pytest.raises(refusal, match=why):
            connection.request("STATUS")


STRANGERS: dict[str, tuple[dict[str, object], str]] = {
    "another secret": ({"secret": "two", "accepts": ("one",)}, "does not accept our certificate"),
    "another secret, foreign to each other": ({"secret": "two"}, "a certificate that we do not accept"),
    "expired": ({"age_days": 40}, "does not accept our certificate .*expired"),
    "of tomorrow": ({"age_days": -3}, "does not accept our certificate"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_gets_nothing_but_the_reason(node: Running, tmp_path: Path, stranger: str) -> None:
    how, reason = STRANGERS[stranger]
    context = tls.client_context(*material(tmp_path / "stranger", **how).files)  # type: ignore[arg-type]

    def ask() -> bytes:
        with contextlib.closing(connect(node.address, context, 10.0, None)) as connection:
            return connection.request("STATUS")

    with pytest.raises(errors.IdentityRefused, match=reason):
        ask()
    assert not node.server._sessions


def test_no_certificate_no_byte(node: Running) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with node.raw() as plain, context.wrap_socket(plain) as secure:
        secure.sendall(b"STATUS\r\n")
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            secure.recv(100)


def test_an_older_tls_is_refused(node: Running, tmp_path: Path) -> None:
    files = material(tmp_path / "old").files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.maximum_version = False, ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(files[0])
    context.load_cert_chain(*files[1:])
    with node.raw() as plain, pytest.raises(ssl.SSLError, match=r"(?i)version"):
        context.wrap_socket(plain)


@pytest.mark.parametrize("sent", [
    b"STATUS\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01" + b"\x00" * 500, b"",
])
def test_plain_bytes_get_no_answer(hasty: Running, sent: bytes) -> None:
    with hasty.raw() as sock:
        sock.sendall(sent)
        heard = read_all(sock)
    assert heard == b"" or heard[:1] == b"\x15"  # nothing, or a TLS alert


def test_a_handshake_that_trickles_ends_in_its_time(tmp_path: Path) -> None:
    limits = Limits(handshake_s=0.3)
    with running(tmp_path, HANDLERS, limits) as node, node.raw() as sock:
        def trickle() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(b"\x16\x03\x01\x3f\xff\x01")
                while True:
                    sock.send(b"\x00")
                    time.sleep(0.01)

        task = Task(trickle)
        assert read_all(sock) == b""
        with contextlib.suppress(OSError):  # after a reset there is nothing to shut down
            sock.shutdown(socket.SHUT_RDWR)
        task.result()


def test_two_secrets_during_a_rotation(tmp_path: Path) -> None:
    keeper = material(tmp_path / "keeper", "old", accepts=("new",))
    with running(tmp_path, HANDLERS, node=keeper) as node:
        for secret, other in (("old", "new"), ("new", "old")):
            files = material(tmp_path / secret, secret, accepts=(other,)).files
            with contextlib.closing(connect(node.address, tls.client_context(*files), 10.0, keeper.id)) as connection:
                assert connection.request("STATUS").startswith(b"member")


def test_another_node_at_the_address_is_refused(node: Running, tmp_path: Path) -> None:
    context = tls.client_context(*material(tmp_path / "m").files)
    with pytest.raises(errors.IdentityRefused, match=f"is not the node {'a' * 32} but the member {node.node.id}"):
        connect(node.address, context, 10.0, "a" * 32)


def test_nobody_there_has_the_address_and_the_reason(tmp_path: Path) -> None:
    context = tls.client_context(*material(tmp_path).files)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(errors.Unreachable, match=f"127.0.0.1:{port} cannot be reached: .*refused"):
        connect(f"127.0.0.1:{port}", context, 10.0, None)
    with pytest.raises(errors.Unreachable, match=r"none\.sock: No such file"):
        connect(str(tmp_path / "none.sock"), None, 10.0, None)


def test_who_is_no_p2pfs_is_named(tmp_path: Path) -> None:
    context = tls.client_context(*material(tmp_path).files)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                read_all(sock)

        task = Task(answer)
        with pytest.raises(errors.Unreachable, match=r"no TLS 1\.3 with .*is it p2pfs"):
            connect(f"127.0.0.1:{listener.getsockname()[1]}", context, 10.0, None)
        task.result()
        with pytest.raises(errors.DeadlinePassed, match="did not finish a TLS handshake"):
            connect(f"127.0.0.1:{listener.getsockname()[1]}", context, 0.2, None)


# --- descriptors -------------------------------------------------------------------------------------

def test_a_file_is_fetched_into_its_descriptor(local: Connection, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert list(local.stream("FETCH", "x", fds=(file.fileno(),))) == []
    assert (tmp_path / "file").read_bytes() == b"fetched"


def test_only_regular_files(local: Connection) -> None:
    reader, writer = os.pipe()
    with pytest.raises(errors.Refused, match="regular file"):
        list(local.stream("FETCH", "x", fds=(writer,)))
    os.close(writer)
    assert local.request("STATUS") == b"local None"
    assert os.read(reader, 10) == b""  # no copy of the other end is left open
    os.close(reader)


def test_a_line_that_comes_without_its_descriptor(local: Connection) -> None:
    with pytest.raises(errors.ProtocolError, match="no descriptor came"):
        list(local.stream("FETCH", "x"))


def test_descriptors_have_their_limit(node: Running) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with node.raw_local() as sock, tempfile.TemporaryFile() as file:
        for _ in range(3):
            socket.send_fds(sock, [b"S"], [file.fileno()] * (MAX_DESCRIPTORS // 2))
        assert read_all(sock).startswith(b"ERR BAD_LINE")
    node.join()
    assert len(os.listdir("/proc/self/fd")) == before


# --- room and stopping -------------------------------------------------------------------------------

def test_a_full_node_lets_the_operator_in(tmp_path: Path) -> None:
    with running(tmp_path, HANDLERS, max_connections=1) as node:
        with contextlib.closing(node.member(tmp_path / "a")) as first:
            first.request("STATUS")
            with contextlib.closing(node.local()) as operator:
                assert operator.request("STATUS") == b"local None"
            with contextlib.closing(node.member(tmp_path / "late")) as late, \
                    pytest.raises(errors.Busy, match=r"this node has 1 connections"):
                late.request("STATUS")
            assert first.request("STATUS").startswith(b"member")
        node.join()
        with contextlib.closing(node.member(tmp_path / "b")) as second:
            assert second.request("STATUS").startswith(b"member")


def test_a_taken_port_is_told(node: Running) -> None:
    server = Server(spawn, semaphore)
    with pytest.raises(errors.Refused, match=r"the port is in use; is a node running there"):
        server.listen_tcp(node.address, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_the_control_socket_has_its_mode_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server(spawn, semaphore)
    server.listen_unix(str(path), 0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(errors.Refused, match="another node listens there"):
        Server(spawn, semaphore).listen_unix(str(path), 0o600)
    server.close()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(errors.Refused, match="no socket"):
        Server(spawn, semaphore).listen_unix(str(path), 0o600)
    assert path.read_text() == "mine"


def test_draining_lets_the_running_request_end(node: Running, tmp_path: Path) -> None:
    begun, goes_on = Signal(), Signal()

    def slow(session: Session, line: Line) -> None:
        begun.set()
        goes_on.wait()
        session.reply(b"done")

    node.server.handlers["STATUS"] = slow
    with contextlib.closing(node.local()) as busy, contextlib.closing(node.member(tmp_path / "m")) as idle:
        answer = Task(busy.request, "STATUS")
        begun.wait()
        drained = Task(node.server.drain, 10.0)
        assert idle._stream.read_line(10.0) == b""
        with pytest.raises(errors.Unreachable):
            node.local()
        goes_on.set()
        assert answer.result() == b"done"
        drained.result()
    assert not node.server._sessions


def test_draining_ends_with_its_grace(node: Running) -> None:
    begun, never = Signal(), Signal()

    def stuck(session: Session, line: Line) -> None:
        begun.set()
        never.wait()

    node.server.handlers["STATUS"] = stuck
    with contextlib.closing(node.local()) as busy:
        answer = Task(busy.request, "STATUS")
        begun.wait()
        node.server.drain(0.1)
        with pytest.raises(errors.Unreachable):
            answer.result()
    never.set()


@pytest.mark.parametrize(("address", "parsed"), [
    ("host:1", ("host", 1)), ("[::1]:4801", ("::1", 4801)), ("10.0.0.1:0", ("10.0.0.1", 0)),
])
def test_addresses(address: str, parsed: tuple[str, int]) -> None:
    assert split_address(address) == parsed


@pytest.mark.parametrize("address", [
    "", "host", ":1", "host:", "host:x", "::1:4801", "host:65536", "host:-1", "[]:1", "h:\u0661",
])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(errors.UsageError, match="HOST:PORT"):
        split_address(address)
