"""The asking side when something goes wrong, and the server when it cannot accept."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net import certificates, listen, tls
from p2pfs.net import server as server_module
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Session
from p2pfs.net.stream import Limits, Stream
from tests.sockets import SHORT, Running, Script, Signal, Task, material, read_all, running, semaphore, spawn

PIECE = bytes(wire.MAX_PART)


def refuse_store(session: Session, line: Line) -> None:
    session.body()
    session.part(b'{"bytes":0,"new_bytes":0}')
    session.next_record()
    # Any refusal there is, also one that would be our own connection's if it came from nearer.
    raise errors.Unreachable("the last holder went away")


def hang_up(session: Session, line: Line) -> None:
    session._stream.close()
    raise errors.Unreachable("nobody hears this")


def status(session: Session, line: Line) -> None:
    session.reply(session.party.kind.encode())


def send_until_it_fails(connection: Connection) -> None:
    def send() -> None:
        for _ in range(10_000):
            connection.send_record("PART", body=PIECE)

    with pytest.raises(errors.Unreachable):
        send()


# --- last words --------------------------------------------------------------------------------------

def ask(node: Running, kind: str, folder: Path) -> Connection:
    return node.local() if kind == "local" else node.member(folder)


@pytest.mark.parametrize("kind", ["local", "member"])
def test_why_a_stream_was_refused_is_read_after_sending_failed(tmp_path: Path, kind: str) -> None:
    with running(tmp_path, {"STORE": refuse_store}, Limits(linger_s=0.02)) as node, \
            contextlib.closing(ask(node, kind, tmp_path / "m")) as connection:
        answer = connection.stream("STORE", body=b"{}")
        send_until_it_fails(connection)
        refusal = answer.last_words()
        assert isinstance(refusal, errors.Unreachable) and str(refusal) == "the last holder went away"
        assert connection.is_broken
        with pytest.raises(errors.Unreachable, match="is closed"):
            connection.request("STATUS")


def test_who_hangs_up_without_a_word_has_no_last_words(tmp_path: Path) -> None:
    with running(tmp_path, {"STORE": hang_up}) as node, contextlib.closing(node.local()) as connection:
        answer = connection.stream("STORE", body=b"{}")
        send_until_it_fails(connection)
        assert answer.last_words() is None
        assert connection.is_broken


@pytest.mark.parametrize("left", [b"", b"PART 3\r\nab", b"PART 3\r\nabcERR NO_SP", b"PART 0\r\nOK 0\r\n"])
def test_half_a_last_word_is_none(left: bytes) -> None:
    connection = Connection(Stream(Sent(left), "script"))  # type: ignore[arg-type]
    assert connection.stream("STORE", body=b"{}").last_words() is None


class Sent(Script):
    """A socket that takes everything, and gives its bytes one by one."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, [1])

    def send(self, data: bytes) -> int:
        return len(data)


# --- waits -------------------------------------------------------------------------------------------

class Asked(Limits):
    """Limits that note which of them were asked for, as a client's deadline does."""

    asked: list[str]

    @property
    def control_answer_s(self) -> float:
        self.asked.append("control")
        return 10.0

    @property
    def bulk_answer_s(self) -> float:
        self.asked.append("bulk")
        return 10.0

    @property
    def part_s(self) -> float:
        self.asked.append("part")
        return 10.0


def test_each_wait_asks_for_its_limit_when_it_begins() -> None:
    limits = Asked()
    limits.asked = []
    connection = Connection(Stream(Sent(b"PART 1\r\naPART 1\r\nbOK 0\r\nOK 0\r\n"), "script", limits))  # type: ignore[arg-type]
    answer = connection.stream("READ", "x", 0, None)
    assert limits.asked == []
    assert next(answer) == b"a" and limits.asked == ["bulk"]
    assert next(answer) == b"b" and limits.asked == ["bulk", "part"]
    assert list(answer) == [] and limits.asked == ["bulk", "part", "part"]
    connection.request("DIGESTS")
    assert limits.asked[3:] == ["control"]


# --- accepting ---------------------------------------------------------------------------------------

class OutOfDescriptors:
    """The listener of a process that can open nothing more for a while."""

    def __init__(self, listener: socket.socket, pauses: list[float]) -> None:
        self._listener = listener
        self._pauses = pauses
        self.shutdown = listener.shutdown
        self.close = listener.close

    def accept(self) -> tuple[socket.socket, object]:
        if len(self._pauses) < 8:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


def test_a_server_that_cannot_accept_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(server_module.time, "sleep", pauses.append)
    monkeypatch.setattr(server_module, "CONTROL_SLOTS", 1)  # a failure may not cost one
    server = server_module.Server(spawn, semaphore)
    server.listen_unix(str(tmp_path / "control.sock"), 0o600)
    door = server._doors.pop()
    server._doors.append(door._replace(listener=OutOfDescriptors(door.listener, pauses)))  # type: ignore[arg-type]
    server.start({"STATUS": status})
    with contextlib.closing(connect(str(tmp_path / "control.sock"), None, 10.0, None)) as connection:
        assert connection.request("STATUS") == b"local"
    server.close()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert "Too many open files; trying again in 0.1 s" in caplog.text


def test_nobody_connects_to_the_control_socket_before_it_has_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = str(tmp_path / "control.sock"), []
    chmod = os.chmod

    def spy(name: str, mode: int) -> None:
        before.append(stat.S_IMODE(os.stat(name).st_mode) & 0o077)
        chmod(name, mode)

    monkeypatch.setattr(listen.os, "chmod", spy)
    umask = os.umask(0)
    try:
        listen.listen_unix(path, 0o660).close()
    finally:
        os.umask(umask)
    assert before == [0]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_who_finds_the_node_full_is_served_when_somebody_has_left(tmp_path: Path) -> None:
    with running(tmp_path, {"STATUS": status}, max_connections=1) as node:
        with contextlib.closing(node.member(tmp_path / "a")) as first:
            assert first.request("STATUS") == b"member"
            with contextlib.closing(node.member(tmp_path / "b")) as second, pytest.raises(errors.Busy):
                second.request("STATUS")
            with contextlib.closing(node.local()) as operator:
                assert operator.request("STATUS") == b"local"
        node.join()
        with contextlib.closing(node.member(tmp_path / "b")) as second:
            assert second.request("STATUS") == b"member"


def test_a_node_that_stops_answers_what_it_was_asked_and_no_more(tmp_path: Path) -> None:
    begun, goes_on = Signal(), Signal()

    def slow(session: Session, line: Line) -> None:
        begun.set()
        goes_on.wait()
        session.reply(b"done")

    with running(tmp_path, {"STATUS": slow}) as node, node.raw_local() as sock, node.raw_local() as idle:
        sock.sendall(b"STATUS\r\nSTATUS\r\n")
        begun.wait()
        drained = Task(node.server.drain, 10.0)
        assert read_all(idle) == b""
        goes_on.set()
        assert read_all(sock) == b"OK 4\r\ndone"
        drained.result()


def test_half_open_connections_end_in_their_time(tmp_path: Path) -> None:
    # As long as the handshake of a friend takes on any machine.
    with running(tmp_path, {"STATUS": status}, SHORT._replace(handshake_s=2.0), max_connections=1) as node:
        silent = [node.raw() for _ in range(3)]
        assert [read_all(sock) for sock in silent] == [b""] * 3
        for sock in silent:
            sock.close()
        with contextlib.closing(node.member(tmp_path / "m")) as friend:
            assert friend.request("STATUS") == b"member"


# --- strangers ---------------------------------------------------------------------------------------

def test_a_self_signed_certificate_is_not_served(tmp_path: Path) -> None:
    stranger = material(tmp_path / "stranger")
    key = certificates.load_key(Path(stranger.key).read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    # The name of the true authority: what is checked is the signature.
    issuer = certificates.derive_authority("one").certificate.subject
    pem = (
        x509.CertificateBuilder().subject_name(issuer).issuer_name(issuer).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - day).not_valid_after(now + day).sign(key, None)
    ).public_bytes(Encoding.PEM)
    assert issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    Path(stranger.cert).write_bytes(pem)
    with running(tmp_path, {"STATUS": status}) as node, node.raw() as plain:
        secure = tls.connect(plain, tls.client_context(*stranger.files), "node", 10.0)
        secure.settimeout(10.0)
        with secure:
            secure.sendall(b"STATUS\r\n")
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                secure.recv(100)
        node.join()
        assert not node.server._sessions
