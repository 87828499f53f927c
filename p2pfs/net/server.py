"""The answering side: listeners, one task for each connection, requests in order, handlers by verb.

How tasks are spawned is injected: greenlets in the daemon, threads in tests. The accept loop takes a slot before it
accepts, so that a full node leaves connections in the kernel's queue and costs nobody memory.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from p2pfs import errors, metrics
from p2pfs.core import rights, wire
from p2pfs.core.rights import Right
from p2pfs.core.wire import Line
from p2pfs.net import listen, tls
from p2pfs.net.session import Session
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Party, Refusal

__all__ = ["Server", "Session"]

log = logging.getLogger(__name__)

CONTROL_SLOTS = 128
"""Connections to the control socket; counted apart, so that an operator gets in when the node is full of peers."""
HANDSHAKES = 64
"""TLS handshakes at once."""
STRANGERS_PER_HOST = 32
"""Connections from one address that are not authenticated yet; the next one is closed at once, so that one host
cannot keep all others waiting for a handshake."""
ACCEPT_PAUSE_S = 0.1
MAX_ACCEPT_PAUSE_S = 5.0
DRAIN_STEP_S = 0.05


class Slots(Protocol):
    """A semaphore: how many may be in something at once; the next one waits."""

    def acquire(self) -> Any:
        """Take a slot."""

    def release(self) -> Any:
        """Give it back."""


Handler = Callable[[Session, Line], None]
Spawn = Callable[..., Any]
Context = Callable[[], ssl.SSLContext]


class _Door(NamedTuple):
    """One way in."""

    listener: socket.socket
    slots: Slots
    context: Context | None
    """None: the control socket."""
    path: str = ""


class Server:
    """Listeners and the connections that they brought."""

    def __init__(
        self, spawn: Spawn, semaphore: Callable[[int], Slots], limits: Limits | None = None, max_connections: int = 512,
        refusal: Refusal = lambda party: None,
    ) -> None:
        """`spawn(name, fn, *args)` starts a task; `semaphore(count)` makes one that fits such tasks.

        `refusal` is asked before each request: who was let in once need not be welcome for ever. See `retire`.
        """
        self._spawn = spawn
        self._semaphore = semaphore
        self._limits = limits or Limits()
        self._max_connections = max_connections
        self._refusal = refusal
        self._handshakes = semaphore(HANDSHAKES)
        self._strangers = _Strangers()
        self._doors: list[_Door] = []
        self._sessions: dict[Session, Stream] = {}
        self._handlers: dict[str, Handler] = {}
        self._is_draining = False
        self._control_role: Callable[[], str] = lambda: "read"

    # --- listening -----------------------------------------------------------------------------------

    def listen_tcp(self, address: str, context: Context) -> str:
        """Bind HOST:PORT; returns the address with the port that it got. Raises UsageError, Refused with what to do.

        `context` is asked for each connection, so that a renewed certificate counts at once.
        """
        listener, bound = listen.listen_tcp(address)
        self._doors.append(_Door(listener, self._semaphore(self._max_connections), context))
        return bound

    def listen_unix(self, path: str, mode: int, role: Callable[[], str] = lambda: "admin") -> None:
        """Bind the control socket with a file mode. A stale file of a dead node is replaced. Raises Refused.

        `role` is asked for the role of each user whom the mode lets in, but for our own and root: they have all rights.
        """
        self._control_role = role
        listener = listen.listen_unix(path, mode)
        self._doors.append(_Door(listener, self._semaphore(CONTROL_SLOTS), None, path))

    def start(self, handlers: dict[str, Handler]) -> None:
        """Begin to accept."""
        self._handlers = handlers
        for door in self._doors:
            self._spawn("accept-control" if door.context is None else "accept-tcp", self._accept, door)

    def _accept(self, door: _Door) -> None:
        pause_s = ACCEPT_PAUSE_S
        while not self._is_draining:
            door.slots.acquire()
            try:
                sock, address = door.listener.accept()
            except OSError as error:
                door.slots.release()
                if self._is_draining:
                    return
                # Out of descriptors or memory: that passes; a loop that spins would not help it to.
                log.warning("cannot accept a connection: %s; trying again in %g s", error, pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_ACCEPT_PAUSE_S)
                continue
            pause_s = ACCEPT_PAUSE_S
            if door.context is None:
                self._spawn("control", self._control, door, sock)
            elif self._strangers.admit(address[0]):
                self._spawn("connection", self._connection, door, door.context, sock, address)
            else:
                log.info("closed a connection from %s: it has %d that are not authenticated", address[0],
                         STRANGERS_PER_HOST)
                sock.close()
                door.slots.release()

    # --- one connection ------------------------------------------------------------------------------

    def _control(self, door: _Door, sock: socket.socket) -> None:
        try:
            uid = listen.peer_uid(sock)
            is_own = uid in (0, os.geteuid())
            role = "admin" if is_own else self._control_role()
            party = Party(None, "local", f"the control socket, user {uid}", rights.ROLES[role] | Right.LOCAL)
            stream = Stream(sock, "a client at the control socket", self._patience(party), takes_descriptors=True)
            self._serve(stream, party)
        finally:
            door.slots.release()

    def _patience(self, party: Party) -> Limits:
        """A user's reader may pause (`cat | less`); a member that does is not well."""
        return self._limits if party.kind == "member" else self._limits._replace(taking_s=self._limits.idle_s)

    def _connection(self, door: _Door, context: Context, sock: socket.socket, address: Any) -> None:
        try:
            try:
                secure, party = self._authenticate(context, sock, address)
            finally:
                self._strangers.forget(address[0])
            who = f"{party.kind} {party.id} at {party.address}"
            self._serve(Stream(secure, who, self._patience(party)), party)
        except errors.IdentityRefused as error:
            log.warning("%s", error)
        except OSError as error:
            log.debug("%s was gone before it was served: %s", address, error)
        finally:
            sock.close()
            door.slots.release()

    def _authenticate(self, context: Context, sock: socket.socket, address: Any) -> tuple[ssl.SSLSocket, Party]:
        self._handshakes.acquire()
        try:
            secure = tls.accept(sock, context(), f"{address[0]}:{address[1]}", self._limits.handshake_s)
        finally:
            self._handshakes.release()
        try:
            return secure, tls.party_of(secure)
        except BaseException:
            secure.close()
            raise

    def _serve(self, stream: Stream, party: Party) -> None:
        session = Session(stream, party)
        self._sessions[session] = stream
        metrics.CONNECTIONS.inc()
        try:
            # After the session is on the list: who is refused from now on, `retire` finds there.
            if (why := self._refusal(party)) is not None:
                log.warning("%s is not served: %s", stream.peer_name, why)
                stream.send(wire.format_error(errors.IdentityRefused(why)))
                stream.linger()
                return
            while not self._is_draining and self._refusal(party) is None and self._serve_one(session, stream):
                pass
        except errors.P2pfsError as error:
            log.debug("the connection ended: %s", error)
        finally:
            metrics.CONNECTIONS.dec()
            del self._sessions[session]
            stream.close()

    def _serve_one(self, session: Session, stream: Stream) -> bool:
        """Answer one request; False when the connection is over: ended by the client, or out of step."""
        verb, outcome = "?", "OK"
        session.begin()
        try:
            text = stream.read_line(self._limits.idle_s)
            if not text:
                return False
            session.is_busy = True
            line = wire.parse_request(text)
            verb = line.verb.name
            session.unread_bytes = line.length
            self._check_rights(session, line)
            self._handlers[verb](session, line)
            if not session.has_replied:
                raise RuntimeError(f"the handler of {verb} gave no answer")
            return not session.unread_bytes
        except errors.P2pfsError as error:
            outcome = error.token
            return self._refuse(session, stream, error, verb)
        except Exception as error:
            outcome = errors.InternalError.token
            log.exception("%s from %s failed", verb, stream.peer_name)
            failure = errors.InternalError(f"{verb} failed: {error!r}; see the node's log")
            return self._refuse(session, stream, failure, verb)
        finally:
            if session.is_busy:
                session.is_busy = False
                metrics.REQUESTS.labels(verb, outcome).inc()

    def _refuse(self, session: Session, stream: Stream, error: errors.P2pfsError, verb: str) -> bool:
        """Send an ERR line; False when the connection cannot go on after it."""
        log.debug("%s from %s: %s: %s", verb, stream.peer_name, error.token, error)
        if session.has_replied or stream.is_gone:
            return False
        if isinstance(error, errors.DeadlinePassed) and not session.is_busy:
            return False  # an idle connection, or half a line
        stream.send(wire.format_error(error))
        if error.is_fatal or wire.VERBS[verb].streams_in:
            stream.linger()
            return False
        stream.skip(session.unread_bytes)
        return True

    def _check_rights(self, session: Session, line: Line) -> None:
        refusal = rights.refusal(line.verb.needs, session.party.rights)
        if refusal is not None:
            raise errors.Forbidden(f"{line.verb.name} {refusal}")

    def retire(self, at_once: bool = False) -> int:
        """After `refusal` changed: end the connections of those that it refuses now; how many there are.

        Idle ones are closed; who is being answered gets his answer before, unless `at_once`.
        """
        count = 0
        for session, stream in list(self._sessions.items()):
            if (why := self._refusal(session.party)) is not None:
                log.info("%s is not served any more: %s", stream.peer_name, why)
                count += 1
                if at_once or not session.is_busy:
                    stream.close()
        return count

    # --- the end -------------------------------------------------------------------------------------

    def drain(self, grace_s: float) -> None:
        """Accept nothing more, close idle connections, let the others answer what they were asked, then close."""
        self._stop_accepting()
        end = time.monotonic() + grace_s
        while self._sessions and time.monotonic() < end:
            for session, stream in list(self._sessions.items()):
                if not session.is_busy:
                    stream.close()
            time.sleep(DRAIN_STEP_S)
        self.close()

    def _stop_accepting(self) -> None:
        self._is_draining = True
        doors, self._doors = self._doors, []
        for door in doors:
            # Only this wakes a thread that waits in accept.
            with contextlib.suppress(OSError):
                door.listener.shutdown(socket.SHUT_RDWR)
            door.listener.close()
            if door.path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(door.path)

    def close(self) -> None:
        """Close everything at once."""
        self._stop_accepting()
        for stream in list(self._sessions.values()):
            stream.close()


class _Strangers:
    """How many connections of each address are not authenticated yet."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._guard = threading.Lock()  # held for a moment and over no wait

    def admit(self, host: str) -> bool:
        """Count one more, unless there are too many."""
        with self._guard:
            if self._counts[host] >= STRANGERS_PER_HOST:
                return False
            self._counts[host] += 1
            return True

    def forget(self, host: str) -> None:
        """One of them was authenticated, or refused."""
        with self._guard:
            self._counts[host] -= 1
            if not self._counts[host]:
                del self._counts[host]
