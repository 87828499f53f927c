"""The answering side: listeners, one task for each connection, requests in order, handlers by verb.

How tasks are spawned is injected: greenlets in the daemon, threads in tests. A task takes its slot before it accepts,
so that a full node leaves connections in the kernel's queue and costs nobody memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable
from typing import Any, Protocol

from p2pfs import errors, metrics
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net.connection import split_address
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Peer, peer_of

log = logging.getLogger(__name__)

BACKLOG = 256
CONTROL_SLOTS = 128
"""Connections to the control socket; counted apart, so that an operator gets in when the node is full of peers."""
HANDSHAKES = 64
"""Handshakes at once; those who are not authenticated cannot take more."""
ACCEPT_PAUSE_S = 0.1
MAX_ACCEPT_PAUSE_S = 5.0


class Slots(Protocol):
    """A semaphore: how many may be in something at once; the next one waits."""

    def acquire(self) -> Any:
        """Take a slot."""

    def release(self) -> Any:
        """Give it back."""


Handler = Callable[["Session", Line], None]
Spawn = Callable[..., Any]


class Session:
    """One connection from somebody: what a handler sees of it."""

    def __init__(self, stream: Stream, peer: Peer) -> None:
        self._stream = stream
        self._unread = 0
        self._has_replied = False
        self.peer = peer
        self.is_busy = False
        """A request is being answered."""

    def _begin(self, line: Line) -> None:
        self._unread = line.length
        self._has_replied = False

    def body(self) -> bytes:
        """The request's message body."""
        length, self._unread = self._unread, 0
        return self._stream.read_body(length)

    def body_into(self, view: memoryview) -> None:
        """The request's body into a buffer of just its length."""
        self._unread -= len(view)
        self._stream.read_into(view)

    def next_record(self) -> Line:
        """The next record of a streaming request; read its body with `record_into` or `record_body`."""
        line = self._stream.read_line(self._stream.limits.record_s)
        if not line:
            raise errors.Unreachable(f"{self._stream.peer_name} went away in the middle of a request")
        return wire.parse_record(line)

    def record_into(self, view: memoryview) -> None:
        """Bytes of the last record's body."""
        self._stream.read_into(view)

    def record_body(self, record: Line) -> bytes:
        """The last record's whole body."""
        return self._stream.read_body(record.length)

    def take_descriptor(self) -> int:
        """The open regular file that came with the line; the caller closes it. Raises Refused, ProtocolError."""
        if self.peer.kind != "local":
            raise errors.ProtocolError("descriptors can only be passed over the control socket")
        fd = self._stream.take_descriptor()
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise errors.Refused("the descriptor is not that of a regular file")
        return fd

    def part(self, *pieces: bytes | memoryview) -> None:
        """Send one PART made of these pieces."""
        self._stream.send(wire.format_part(sum(map(len, pieces))), *pieces)

    def reply(self, data: bytes | memoryview = b"") -> None:
        """Send the last line: the request was done."""
        self._has_replied = True
        self._stream.send(wire.format_ok(len(data)), data)


class Server:
    """Listeners and the connections that they brought."""

    def __init__(
        self, spawn: Spawn, semaphore: Callable[[int], Slots], limits: Limits | None = None, max_connections: int = 512
    ) -> None:
        """`spawn(name, fn, *args)` starts a task; `semaphore(count)` makes one that fits such tasks."""
        self._spawn = spawn
        self._limits = limits or Limits()
        self._slots = {"tcp": semaphore(max_connections), "unix": semaphore(CONTROL_SLOTS)}
        self._handshakes = semaphore(HANDSHAKES)
        self._listeners: list[tuple[socket.socket, Callable[[], ssl.SSLContext] | None]] = []
        self._sessions: dict[Session, Stream] = {}
        self._handlers: dict[str, Handler] = {}
        self._is_draining = False
        self._is_closed = False
        self._paths: list[str] = []

    # --- listening -----------------------------------------------------------------------------------

    def listen_tcp(self, address: str, context: Callable[[], ssl.SSLContext]) -> str:
        """Bind HOST:PORT; returns the address with the port that it got. Raises Refused with what to do.

        `context` is asked for each connection, so that a renewed certificate counts at once.
        """
        host, port = split_address(address)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise errors.Refused(
                f"cannot listen on {address}: {error.strerror or error}; "
                "is a node running there already? Set [node] listen to another address"
            ) from None
        self._listeners.append((listener, context))
        bound = listener.getsockname()[1]
        return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    def listen_unix(self, path: str, mode: int) -> None:
        """Bind the control socket with a file mode. A stale file of a dead node is replaced. Raises Refused."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            _remove_stale(path)
            # Created closed, opened by chmod: at no moment may anybody connect whom the mode does not let.
            before = os.umask(0o777)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            os.chmod(path, mode)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise errors.Refused(
                f"cannot make the control socket {path}: {error.strerror or error}; see [node] control"
            ) from None
        self._paths.append(path)
        self._listeners.append((listener, None))

    def start(self, handlers: dict[str, Handler]) -> None:
        """Begin to accept."""
        self._handlers = handlers
        for listener, context in self._listeners:
            name = "unix" if context is None else "tcp"
            self._spawn(f"accept-{name}", self._accept, listener, context, self._slots[name])

    def _accept(
        self, listener: socket.socket, context: Callable[[], ssl.SSLContext] | None, slots: Slots
    ) -> None:
        pause_s = ACCEPT_PAUSE_S
        while not self._is_draining:
            slots.acquire()
            try:
                sock, address = listener.accept()
                pause_s = ACCEPT_PAUSE_S
            except OSError as error:
                slots.release()
                if self._is_draining:
                    return
                # Out of descriptors or memory: that passes; a loop that spins would not help it to.
                log.warning("cannot accept a connection: %s; trying again in %g s", error, pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_ACCEPT_PAUSE_S)
                continue
            self._spawn("connection", self._connection, sock, address, context, slots)

    # --- one connection ------------------------------------------------------------------------------

    def _connection(
        self, sock: socket.socket, address: Any, context: Callable[[], ssl.SSLContext] | None, slots: Slots
    ) -> None:
        stream = None
        try:
            peer = Peer(None, "local", "control socket")
            if context is not None:
                sock, peer = self._handshake(sock, address, context)
            stream = Stream(sock, f"{peer.kind} {peer.id or ''} at {peer.address}".replace("  ", " "), self._limits)
            session = Session(stream, peer)
            self._sessions[session] = stream
            metrics.CONNECTIONS.inc()
            try:
                self._serve(session, stream)
            finally:
                metrics.CONNECTIONS.dec()
                del self._sessions[session]
        except errors.IdentityRefused as error:
            log.warning("%s", error)
        except errors.P2pfsError as error:
            log.debug("a connection ended: %s", error)
        finally:
            if stream is not None:
                stream.close()
            sock.close()
            slots.release()

    def _handshake(
        self, sock: socket.socket, address: Any, context: Callable[[], ssl.SSLContext]
    ) -> tuple[socket.socket, Peer]:
        self._handshakes.acquire()
        try:
            sock.settimeout(self._limits.handshake_s)
            secure = context().wrap_socket(sock, server_side=True)
            return secure, peer_of(secure)
        except (OSError, ValueError) as error:
            raise errors.IdentityRefused(
                f"no TLS handshake with {address[0]}:{address[1]}: {getattr(error, 'reason', None) or error}; "
                "a stranger, or a node with another cluster secret"
            ) from None
        finally:
            self._handshakes.release()

    def _serve(self, session: Session, stream: Stream) -> None:
        while not self._is_draining:
            line = stream.read_line(self._limits.idle_s)
            if not line:
                return
            session.is_busy = True
            if not self._answer(session, stream, line):
                return
            session.is_busy = False

    def _answer(self, session: Session, stream: Stream, text: bytes) -> bool:
        """Answer one request; False when the connection is out of step afterwards and has to be closed."""
        verb, outcome = "?", "OK"
        try:
            line = wire.parse_request(text)
            verb = line.verb.name
            self._check_door(session, line)
            session._begin(line)
            self._handlers[verb](session, line)
            if not session._has_replied:
                raise errors.InternalError(f"{verb} gave no answer")
            return True
        except errors.P2pfsError as error:
            outcome = error.token
            return self._refuse(session, stream, error, verb)
        except Exception as error:
            outcome = "INTERNAL"
            log.exception("%s from %s failed", verb, stream.peer_name)
            bug = errors.InternalError(f"{verb} failed: {error!r}; see the node's log")
            return self._refuse(session, stream, bug, verb)
        finally:
            metrics.REQUESTS.labels(verb, outcome).inc()

    def _refuse(self, session: Session, stream: Stream, error: errors.P2pfsError, verb: str) -> bool:
        """Send an ERR line. What the client still had to say in this request is only skipped if it is little."""
        log.debug("%s from %s: %s: %s", verb, stream.peer_name, error.token, error)
        if session._has_replied or isinstance(error, errors.Unreachable):
            return False
        stream.send(wire.format_error(error))
        line_is_over = not error.is_fatal and not wire.VERBS[verb].streams_in
        if not line_is_over:
            # Closed with unread bytes, TCP would take the ERR line away from the client again.
            stream.linger()
            return False
        if session._unread:
            stream.read_body(session._unread)
            session._unread = 0
        return True

    def _check_door(self, session: Session, line: Line) -> None:
        verb, kind = line.verb, session.peer.kind
        if not verb.is_for_users and kind != "member":
            raise errors.UnknownVerb(f"{verb.name} is for members of the cluster only")
        if verb.takes_descriptor and kind != "local":
            raise errors.UnknownVerb(f"{verb.name} needs the control socket of a node on this machine")

    # --- the end -------------------------------------------------------------------------------------

    def drain(self, grace_s: float) -> None:
        """Accept nothing more, close idle connections, and wait until the others have answered."""
        self._stop_accepting()
        end = time.monotonic() + grace_s
        while self._sessions and time.monotonic() < end:
            for session, stream in list(self._sessions.items()):
                if not session.is_busy:
                    stream.close()
            time.sleep(0.05)

    def _stop_accepting(self) -> None:
        self._is_draining = True
        for listener, _ in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._listeners, self._paths = [], []

    def close(self) -> None:
        """Close everything at once."""
        self._stop_accepting()
        for stream in list(self._sessions.values()):
            stream.close()


def _remove_stale(path: str) -> None:
    """Remove the socket file of a node that is gone; leave one that somebody listens on. Raises OSError."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(17, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise FileExistsError(17, "another process listens there")
