"""The answering side: listeners, one task for each connection, requests in order, handlers by verb.

How tasks are spawned is injected: greenlets in the daemon, threads in tests. Who may connect how often is
`net/doorman.py`. At the control socket the accept loop takes a slot before it accepts, so that who is too many waits
in the kernel's queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from p2pfs import errors, metrics
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net import doorman, listen, tls
from p2pfs.net.doorman import Doorman, Stranger
from p2pfs.net.session import Session
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Party

__all__ = ["Server", "Session"]

log = logging.getLogger(__name__)

CONTROL_SLOTS = 128
"""Connections to the control socket; counted apart, so that an operator gets in when the node is full of peers."""
ACCEPT_PAUSE_S = 0.1
MAX_ACCEPT_PAUSE_S = 5.0
MESSAGE_WEIGHTS = {"HAVE": 1 / 3, "DISCARD": 1.0, "PIN": 2.0}
"""What a byte of a message counts for (`doorman.MESSAGES_PER_S`), by what it costs; of another control verb 1,
of any other verb nothing."""
ANSWER_WEIGHT = 1 / 4
"""The same, for the answer to a message."""
PROBES = ("HELLO", "PING", "PINGREQ", "MEMBERS")
"""Messages that do not wait behind others: who answers a probe late is taken for dead."""
REFUSING_S = 0.002
"""How long connections are refused without a pause; then for twice as long nothing is: a flood costs a third of a
core at most, and what is refused slower fills the queue in which friends wait, too."""
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
    context: Context | None
    """None: the control socket."""
    path: str = ""


class Server:
    """Listeners and the connections that they brought."""

    def __init__(
        self, spawn: Spawn, semaphore: Callable[[int], Slots], limits: Limits | None = None, max_connections: int = 512
    ) -> None:
        """`spawn(name, fn, *args)` starts a task; `semaphore(count)` makes one that fits such tasks."""
        self._spawn = spawn
        self._limits = limits or Limits()
        self._control_slots = semaphore(CONTROL_SLOTS)
        self._doorman = Doorman(max_connections)
        self._doors: list[_Door] = []
        self._sessions: dict[Session, Stream] = {}
        self._handlers: dict[str, Handler] = {}
        self._is_draining = False

    # --- listening -----------------------------------------------------------------------------------

    def listen_tcp(self, address: str, context: Context) -> str:
        """Bind HOST:PORT; returns the address with the port that it got. Raises UsageError, Refused with what to do.

        `context` is asked for each connection, so that a renewed certificate counts at once.
        """
        listener, bound = listen.listen_tcp(address)
        self._doors.append(_Door(listener, context))
        return bound

    def listen_unix(self, path: str, mode: int) -> None:
        """Bind the control socket with a file mode. A stale file of a dead node is replaced. Raises Refused."""
        listener = listen.listen_unix(path, mode)
        self._doors.append(_Door(listener, None, path))

    def start(self, handlers: dict[str, Handler]) -> None:
        """Begin to accept."""
        self._handlers = handlers
        for door in self._doors:
            if door.context is None:
                self._spawn("accept-control", self._accept_control, door)
            else:
                self._spawn("accept-tcp", self._accept_tcp, door, door.context)

    def _accept_control(self, door: _Door) -> None:
        while not self._is_draining:
            self._control_slots.acquire()
            accepted = self._accept(door)
            if accepted is None:
                self._control_slots.release()
                return
            self._spawn("control", self._control, accepted[0])

    def _accept_tcp(self, door: _Door, context: Context) -> None:
        refused_s = 0.0
        while not self._is_draining and (accepted := self._accept(door)) is not None:
            begin = time.monotonic()
            sock, address = accepted
            stranger = self._doorman.admit(sock, address[0])
            if stranger is not None:
                self._spawn("connection", self._connection, context, stranger, address)
                continue
            sock.close()
            refused_s += time.monotonic() - begin
            if refused_s > REFUSING_S:
                time.sleep(2 * refused_s)
                refused_s = 0.0

    def _accept(self, door: _Door) -> tuple[socket.socket, Any] | None:
        """The next connection; None when no more are wanted."""
        pause_s = ACCEPT_PAUSE_S
        while True:
            try:
                return door.listener.accept()
            except OSError as error:
                if self._is_draining:
                    return None
                # Out of descriptors or memory: that passes; a loop that spins would not help it to.
                log.warning("cannot accept a connection: %s; trying again in %g s", error, pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_ACCEPT_PAUSE_S)

    # --- one connection ------------------------------------------------------------------------------

    def _control(self, sock: socket.socket) -> None:
        party = Party(None, "local", "the control socket")
        try:
            stream = Stream(sock, "a client at the control socket", self._patience(party), takes_descriptors=True)
            self._serve(stream, party)
        finally:
            self._control_slots.release()

    def _patience(self, party: Party) -> Limits:
        """A user's reader may pause (`cat | less`); a member that does is not well."""
        return self._limits if party.kind == "member" else self._limits._replace(taking_s=self._limits.idle_s)

    def _connection(self, context: Context, stranger: Stranger, address: Any) -> None:
        try:
            try:
                secure, party = self._authenticate(context, stranger, address)
            finally:
                self._doorman.forget(stranger)
            who = f"member {party.id}" if party.id else "a client"
            stream = Stream(secure, f"{who} at {party.address}", self._patience(party))
            try:
                with self._doorman.seat(party):
                    self._serve(stream, party)
            except errors.Busy as error:
                self._turn_away(stream, error)
        except errors.IdentityRefused as error:
            self._doorman.refuse("handshake", address[0], str(error))
        except OSError as error:
            log.debug("%s was gone before it was served: %s", address, error)
        finally:
            stranger.sock.close()

    def _authenticate(self, context: Context, stranger: Stranger, address: Any) -> tuple[ssl.SSLSocket, Party]:
        secure = stranger.sock = tls.prepare(stranger.sock, context())
        tls.accept(secure, f"{address[0]}:{address[1]}", self._limits.handshake_s)
        return secure, tls.party_of(secure)

    @staticmethod
    def _turn_away(stream: Stream, error: errors.Busy) -> None:
        """Say why, and close."""
        with contextlib.suppress(errors.P2pfsError):
            stream.send(wire.format_error(error))
        stream.linger()
        stream.close()

    def _serve(self, stream: Stream, party: Party) -> None:
        session = Session(stream, party)
        self._sessions[session] = stream
        metrics.CONNECTIONS.inc()
        try:
            while not self._is_draining and self._serve_one(session, stream):
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
            self._check_door(session, line)
            self._handle(session, line)
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

    def _handle(self, session: Session, line: Line) -> None:
        """Have the request answered; a message that comes too fast after others of the same member waits before."""
        party, name = session.party, line.verb.name
        weight = MESSAGE_WEIGHTS.get(name, float(line.verb.is_control)) if party.kind == "member" else 0.0
        kind, size = "probes" if name in PROBES else "messages", doorman.REQUEST_BYTES + weight * line.length
        if weight and (wait_s := self._doorman.charge(party, kind, size)) > 0:
            time.sleep(wait_s)
        self._handlers[name](session, line)
        if weight:
            self._doorman.charge(party, kind, ANSWER_WEIGHT * session.sent_bytes)

    def _check_door(self, session: Session, line: Line) -> None:
        verb, kind = line.verb, session.party.kind
        if not verb.is_for_users and kind != "member":
            raise errors.UnknownVerb(f"{verb.name} is for members of the cluster only")
        if verb.takes_descriptor and kind != "local":
            raise errors.UnknownVerb(f"{verb.name} needs the control socket of a node on the same machine")

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
