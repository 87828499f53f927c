"""The asking side of a connection: requests out, answers in, in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.net.stream import Limits, Stream

if TYPE_CHECKING:
    import ssl


class Connection:
    """One request at a time. After any fatal error it `is_broken`: out of step, only good for closing."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.is_broken = False

    def fileno(self) -> int:
        """For `poll`."""
        return self._stream.fileno()

    def request(
        self, name: str, *args: Any, body: bytes | memoryview | None = None, first_byte_s: float | None = None
    ) -> bytes:
        """Ask, and the whole answer of a verb without parts. Raises the error that it answered with."""
        with _Watch(self):
            self._send(name, args, body, ())
            reply = self._last(first_byte_s)
            return self._stream.read_body(reply.length)

    def request_into(self, view: memoryview, name: str, *args: Any) -> int:
        """Ask, and put the answer into a buffer; returns its length."""
        with _Watch(self):
            self._send(name, args, None, ())
            reply = self._last(None)
            self._stream.read_into(view[: reply.length])
            return reply.length

    def _last(self, first_byte_s: float | None) -> wire.Reply:
        reply = self._reply(first_byte_s)
        if not reply.is_last:
            raise errors.ProtocolError(f"{self._stream.peer_name} answered in parts where it should not")
        return reply

    def stream(
        self, name: str, *args: Any, body: bytes | memoryview | None = None, fds: tuple[int, ...] = ()
    ) -> Answer:
        """Ask; the request is sent before this returns, its answer is read by iterating."""
        with _Watch(self):
            self._send(name, args, body, fds)
        return Answer(self)

    def send_record(
        self, name: str, *args: Any, body: bytes | memoryview | None = None, fds: tuple[int, ...] = ()
    ) -> None:
        """Send a record inside a streaming request."""
        with _Watch(self):
            self._send_line(wire.RECORDS[name], args, body, fds)

    def _send(self, name: str, args: tuple[Any, ...], body: bytes | memoryview | None, fds: tuple[int, ...]) -> None:
        self._send_line(wire.VERBS[name], args, body, fds)

    def _send_line(
        self, verb: wire.Verb, args: tuple[Any, ...], body: bytes | memoryview | None, fds: tuple[int, ...]
    ) -> None:
        line = wire.format_line(verb, *args, length=None if body is None else len(body))
        if fds:
            self._stream.send_with_descriptors(line, fds)
        elif body is not None:
            self._stream.send(line, body)
        else:
            self._stream.send(line)

    def _reply(self, first_byte_s: float | None) -> wire.Reply:
        line = self._stream.read_line(self._stream.limits.answer_s if first_byte_s is None else first_byte_s)
        if not line:
            raise errors.Unreachable(f"{self._stream.peer_name} closed the connection instead of answering")
        return wire.parse_reply(line)

    def close(self) -> None:
        """Close it; nothing may follow."""
        self.is_broken = True
        self._stream.close()


class Answer(Iterator[bytes]):
    """The parts of a streaming answer; afterwards `result` is the body of the last line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.result = b""

    def __next__(self) -> bytes:
        with _Watch(self._connection):
            reply = self._connection._reply(None)
            body = self._connection._stream.read_body(reply.length)
        if reply.is_last:
            self.result = body
            raise StopIteration
        return body


class _Watch:
    """Marks the connection as broken when anything but an ordinary refusal passes through."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        if self._connection.is_broken:
            raise errors.Unreachable(f"the connection to {self._connection._stream.peer_name} is closed")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        if not isinstance(error, errors.P2pfsError) or error.is_fatal:
            self._connection.is_broken = True


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise errors.UsageError(f"{address!r} is no address; write HOST:PORT")
    return host.strip("[]"), int(port)


def connect(
    address: str, context: ssl.SSLContext | None, deadline_s: float, expect_id: str | None,
    limits: Limits | None = None,
) -> Connection:
    """Connect to a unix socket (a path: it has a slash) or, by TLS, to HOST:PORT; who is there must have `expect_id`.

    Raises Unreachable, DeadlinePassed, IdentityRefused; HELLO is the caller's to say.
    """
    if context is None:
        return Connection(Stream(_connect_unix(address, deadline_s), address, limits))
    from p2pfs.net import tls  # here, so that a client of the control socket does not load ssl

    host, port = split_address(address)
    try:
        plain = socket.create_connection((host, port), timeout=deadline_s)
    except OSError as error:
        raise errors.Unreachable(f"{address} cannot be reached: {error.strerror or error}") from None
    secure = tls.connect(plain, context, address, deadline_s)
    if expect_id is not None and tls.peer_of(secure).id != expect_id:
        secure.close()
        raise errors.IdentityRefused(f"{address} is not the node {expect_id} but {tls.peer_of(secure).id}")
    return Connection(Stream(secure, address, limits))


def _connect_unix(path: str, deadline_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(deadline_s)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise errors.Unreachable(f"{path}: {error.strerror or error}") from None
    return sock
