"""The asking side of a connection: requests out, answers in, in order."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.net.stream import Limits, Stream

if TYPE_CHECKING:
    import ssl

    from p2pfs.net.tls import Refusal

Buffer = bytes | memoryview


class Connection:
    """One request at a time. After any fatal error it `is_broken`: out of step, only good for closing."""

    def __init__(self, stream: Stream, secure: ssl.SSLSocket | None = None) -> None:
        self._stream = stream
        self._secure = secure
        self.is_broken = False
        self.is_answering = False
        """A streaming answer was not read to its end: the next one to be read would be the rest of it."""

    def fileno(self) -> int:
        """For `poll`."""
        return self._stream.fileno()

    def peer_id(self) -> str | None:
        """The node id that the other end's certificate proves; None when there is none. Raises IdentityRefused."""
        from p2pfs.net import tls  # here, so that a client of the control socket does not load ssl

        return tls.party_of(self._secure).id if self._secure is not None else None

    def request(self, name: str, *args: Any, body: Buffer | None = None, first_byte_s: float | None = None) -> bytes:
        """Ask, and the whole answer of a verb without parts. Raises the error that it answered with.

        `first_byte_s` is how long the answer may take to begin; None: as long as docs/PROTOCOL.md gives the verb.
        """
        with _Watch(self):
            self._send(wire.VERBS[name], args, body, ())
            return self._stream.read_body(self._last(name, first_byte_s).length)

    def request_into(self, view: memoryview, name: str, *args: Any, first_byte_s: float | None = None) -> int:
        """Ask, and put the answer into a buffer; returns its length. An answer that is longer is a ProtocolError."""
        with _Watch(self):
            self._send(wire.VERBS[name], args, None, ())
            length = self._last(name, first_byte_s, max_body=len(view)).length
            self._stream.read_into(view[:length])
            return length

    def stream(self, name: str, *args: Any, body: Buffer | None = None, fds: tuple[int, ...] = ()) -> Answer:
        """Ask; the request is sent before this returns, its answer is read by iterating."""
        with _Watch(self):
            self._send(wire.VERBS[name], args, body, fds)
        self.is_answering = True
        return Answer(self, self._stream, wire.VERBS[name])

    def send_record(self, name: str, *args: Any, body: Buffer | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send a record inside a streaming request.

        When this fails the other end may have refused before it hung up: see `Answer.last_words`.
        """
        with _Watch(self):
            self._send(wire.RECORDS[name], args, body, fds)

    def send_records(self, lines: bytes) -> None:
        """Send whole records that `wire.format_record` made; see `send_record`."""
        with _Watch(self):
            self._stream.send(lines)

    def _send(self, verb: wire.Verb, args: tuple[Any, ...], body: Buffer | None, fds: tuple[int, ...]) -> None:
        line = wire.format_line(verb, *args, length=None if body is None else len(body))
        if fds:
            self._stream.send_with_descriptors(line, fds)
            line = b""
        if line or body:
            self._stream.send(line, *(() if body is None else (body,)))

    def _last(self, name: str, first_byte_s: float | None, max_body: int = wire.MAX_BLOCK) -> wire.Reply:
        wait_s = _answer_s(name, self._stream.limits) if first_byte_s is None else first_byte_s
        reply = _read_reply(self._stream, wait_s, max_body)
        if not reply.is_last:
            raise errors.ProtocolError(f"{self._stream.peer_name} answered {name} in parts, which it should not")
        return reply

    def close(self) -> None:
        """Close it; nothing may follow."""
        self.is_broken = True
        self._stream.close()

    def cut(self) -> None:
        """Have whoever waits for it in another thread meet its end."""
        self._stream.cut()

    def drop(self) -> None:
        """Have no more of it here; it goes on for another process that has it."""
        self.is_broken = True
        self._stream.drop()


class Answer(Iterator[bytes]):
    """The parts of a streaming answer; afterwards `result` is the body of the last line."""

    def __init__(self, connection: Connection, stream: Stream, verb: wire.Verb) -> None:
        self._connection = connection
        self._stream = stream
        self._verb = verb
        self._has_begun = False
        self._error: BaseException | None = None
        self._is_over = False
        self.result = b""

    def __next__(self) -> bytes:
        if self._error is not None:
            raise self._error
        if self._is_over:
            raise StopIteration
        try:
            limits = self._stream.limits
            reply = _read_reply(self._stream, limits.part_s if self._has_begun else _answer_s(self._verb.name, limits))
            body = self._stream.read_body(reply.length)
        except BaseException as error:
            self._error = error
            self._connection.is_answering = False
            _mark(self._connection, error)
            # A request that was refused while it streamed in is out of step, whatever the reason.
            self._connection.is_broken |= self._verb.streams_in
            raise
        self._has_begun = True
        if reply.is_last:
            self._is_over = True
            self._connection.is_answering = False
            self.result = body
            raise StopIteration
        return body

    def last_words(self) -> errors.P2pfsError | None:
        """After a record could not be sent: why the other end refused before it hung up, if it said so.

        The connection stays broken. Parts that came before the refusal are dropped.
        """
        with contextlib.suppress(errors.P2pfsError):
            while line := self._stream.read_line(self._stream.limits.linger_s):
                try:
                    reply = wire.parse_reply(line)
                except errors.P2pfsError as refusal:
                    return refusal
                self._stream.skip(reply.length)
        return None


class _Watch:
    """Marks the connection as broken when anything but an ordinary refusal passes through."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        if self._connection.is_broken:
            raise errors.Unreachable(f"the connection to {self._connection._stream.peer_name} is closed")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            _mark(self._connection, error)


def _mark(connection: Connection, error: BaseException) -> None:
    # A refusal that is not fatal leaves the connection in step.
    if not isinstance(error, errors.P2pfsError) or error.is_fatal:
        connection.is_broken = True


def _answer_s(name: str, limits: Limits) -> float:
    return limits.control_answer_s if wire.VERBS[name].is_control else limits.bulk_answer_s


def _read_reply(stream: Stream, first_byte_s: float, max_body: int = wire.MAX_BLOCK) -> wire.Reply:
    line = stream.read_line(first_byte_s)
    if not line:
        raise errors.Unreachable(f"{stream.peer_name} closed the connection instead of answering")
    return wire.parse_reply(line, max_body)


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isdigit() or not port.isascii() or int(port) > 65535:
        raise errors.UsageError(f"{address!r} is no address; write HOST:PORT, or [V6]:PORT")
    return host, int(port)


def connect(
    address: str, context: ssl.SSLContext | None, deadline_s: float, expect_id: str | None,
    limits: Limits | None = None, name: str | None = None, refusal: Refusal | None = None,
) -> Connection:
    """Connect to HOST:PORT by TLS or, without a `context`, to the unix socket of that path.

    With `expect_id`, who is there must be that node; `refusal` may refuse whoever is there; `name` is what it is called
    in TLS. HELLO is the caller's to say.
    Raises UsageError, Unreachable, DeadlinePassed, IdentityRefused, and NotFound for a name that it does not have.
    """
    if context is None:
        return Connection(Stream(_connect_unix(address, deadline_s), address, limits))
    from p2pfs.net import tls  # here, so that a client of the control socket does not load ssl

    secure = tls.connect(_connect_tcp(address, deadline_s), context, address, deadline_s, name)
    try:
        _check(secure, address, expect_id, refusal)
    except errors.IdentityRefused:
        secure.close()
        raise
    return Connection(Stream(secure, address, limits), secure)


def _check(secure: ssl.SSLSocket, address: str, expect_id: str | None, refusal: Refusal | None) -> None:
    """Raises IdentityRefused."""
    if expect_id is None and refusal is None:
        return
    from p2pfs.net import tls

    party = tls.party_of(secure)
    if expect_id is not None and (party.id, party.kind) != (expect_id, "member"):
        raise errors.IdentityRefused(f"{address} is not the node {expect_id} but the {party.kind} {party.id}")
    if refusal is not None and (why := refusal(party)) is not None:
        raise errors.IdentityRefused(f"{address}: {why}")


def _connect_tcp(address: str, deadline_s: float) -> socket.socket:
    try:
        return socket.create_connection(split_address(address), timeout=deadline_s)
    except TimeoutError:
        raise errors.Unreachable(f"{address} does not answer within {deadline_s:g} s") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS cannot have
        raise errors.Unreachable(f"{address} cannot be reached: {getattr(error, 'strerror', None) or error}") from error


def _connect_unix(path: str, deadline_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(deadline_s)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise errors.Unreachable(f"{path}: {error.strerror or error}") from error
    return sock
