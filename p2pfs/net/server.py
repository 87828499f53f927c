"""The answering side: listeners, and one task for each connection; what is asked there goes to `net/dispatch.py`.

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
from p2pfs.core import rights, wire
from p2pfs.core.rights import Right
from p2pfs.net import listen, tls
from p2pfs.net.dispatch import Dispatcher, Handler
from p2pfs.net.doorman import Doorman, Stranger
from p2pfs.net.session import Session
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Party, Refusal

__all__ = ["Server", "Session"]

log = logging.getLogger(__name__)

CONTROL_SLOTS = 128
"""Connections to the control socket; counted apart, so that an operator gets in when the node is full of peers."""
ACCEPT_PAUSE_S = 0.1
MAX_ACCEPT_PAUSE_S = 5.0
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
        self, spawn: Spawn, semaphore: Callable[[int], Slots], limits: Limits | None = None, max_connections: int = 512,
        refusal: Refusal = lambda party: None,
    ) -> None:
        """`spawn(name, fn, *args)` starts a task; `semaphore(count)` makes one that fits such tasks.

        `refusal` is asked before each request: who was let in once need not be welcome for ever. See `retire`.
        """
        self._spawn = spawn
        self._limits = limits or Limits()
        self._refusal = refusal
        self._control_slots = semaphore(CONTROL_SLOTS)
        self._doorman = Doorman(max_connections)
        self._doors: list[_Door] = []
        self._sessions: dict[Session, Stream] = {}
        self.handlers: dict[str, Handler] = {}
        """By verb."""
        self._dispatcher = Dispatcher(self.handlers, self._doorman, self._limits)
        self._is_draining = False
        self._control_role: Callable[[], str] = lambda: "read"

    # --- listening -----------------------------------------------------------------------------------

    def listen_tcp(self, address: str, context: Context) -> str:
        """Bind HOST:PORT; returns the address with the port that it got. Raises UsageError, Refused with what to do.

        `context` is asked for each connection, so that a renewed certificate counts at once.
        """
        listener, bound = listen.listen_tcp(address)
        self._doors.append(_Door(listener, context))
        return bound

    def listen_unix(self, path: str, mode: int, role: Callable[[], str] = lambda: "admin") -> None:
        """Bind the control socket with a file mode. A stale file of a dead node is replaced. Raises Refused.

        `role` is asked for the role of each user whom the mode lets in, but for our own and root: they have all rights.
        """
        self._control_role = role
        listener = listen.listen_unix(path, mode)
        self._doors.append(_Door(listener, None, path))

    def start(self, handlers: dict[str, Handler]) -> None:
        """Begin to accept."""
        self.handlers.update(handlers)
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
            if self._let_in(context, *accepted):
                continue
            refused_s += time.monotonic() - begin
            if refused_s > REFUSING_S:
                time.sleep(2 * refused_s)
                refused_s = 0.0

    def _let_in(self, context: Context, sock: socket.socket, address: Any) -> bool:
        """False when it was closed. Nothing is raised: a node that accepts no more looks alive for long."""
        try:
            stranger = self._doorman.admit(sock, address[0])
        except Exception:
            metrics.GREENLET_FAILURES.inc()
            log.exception("a connection from %s could not be taken in", address[0])
            stranger = None
        if stranger is None:
            sock.close()
            return False
        self._spawn("connection", self._connection, context, stranger, address)
        return True

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
        try:
            uid = listen.peer_uid(sock)
            is_own = uid in (0, os.geteuid())
            role = "admin" if is_own else self._control_role()
            party = Party(
                None, "local", f"the control socket, user {uid}", rights.ROLES[role] | Right.LOCAL,
                "" if is_own else role,
            )
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
            stream = Stream(secure, f"{party.kind} {party.id} at {party.address}", self._patience(party))
            try:
                self._check_welcome(party, address[0])
                with self._doorman.seat(party):
                    self._serve(stream, party)
            except (errors.Busy, errors.IdentityRefused) as error:
                self._turn_away(stream, error)
        except errors.IdentityRefused as error:
            self._doorman.refuse("handshake", address[0], str(error))
        except OSError as error:
            log.debug("%s was gone before it was served: %s", address, error)
        finally:
            stranger.sock.close()

    def _authenticate(self, context: Context, stranger: Stranger, address: Any) -> tuple[ssl.SSLSocket, Party]:
        secure = stranger.put_in(lambda plain: tls.prepare(plain, context()))
        tls.accept(secure, f"{address[0]}:{address[1]}", self._limits.handshake_s)
        return secure, tls.party_of(secure)

    def _check_welcome(self, party: Party, host: str) -> None:
        if (why := self._refusal(party)) is not None:
            self._doorman.refuse("unwelcome", host, why)
            raise errors.IdentityRefused(why)

    def _why_not(self, party: Party) -> str | None:
        """Why somebody who was let in gets no request more."""
        if party.kind == "local" and party.issuer not in ("", self._control_role()):
            return "users of the control socket have another role now"
        return self._refusal(party)

    @staticmethod
    def _turn_away(stream: Stream, error: errors.P2pfsError) -> None:
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
            while not self._is_draining and self._why_not(party) is None:
                if not self._dispatcher.serve_one(session, stream):
                    break
        except errors.P2pfsError as error:
            log.debug("the connection ended: %s", error)
        finally:
            metrics.CONNECTIONS.dec()
            del self._sessions[session]
            stream.close()

    # --- the end -------------------------------------------------------------------------------------

    def retire(self, at_once: bool = False) -> int:
        """After `refusal`, or the role of local users, changed: end the connections of those that it does not fit.

        How many there are. Idle ones are closed; who is being answered gets his answer before, unless `at_once`.
        """
        count = 0
        for session, stream in list(self._sessions.items()):
            if (why := self._why_not(session.party)) is not None:
                log.info("%s is not served any more: %s", stream.peer_name, why)
                count += 1
                if at_once or not session.is_busy:
                    stream.close()
        return count

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
