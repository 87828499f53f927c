"""One connection as lines and bodies, with a deadline on every wait. Blocking sockets; knows no verbs.

Bodies go from the socket straight into the caller's buffer. One reader and one writer may be different greenlets,
never two of a kind at once; native threads may not share a TLS stream (OpenSSL's object has no lock).
"""

from __future__ import annotations

import _socket
import array
import collections
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import wire

READ_BYTES = 64 * 1024
"""What is asked of the socket when a line is wanted."""
COALESCE_BYTES = 64 * 1024
"""A line and a body that are up to this size together leave in one send."""
RECORD_BYTES = 16 * 1024
"""The most that TLS puts into one record."""
MAX_DESCRIPTORS = 200
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * _FD_BYTES)
_SKIP_BYTES = 256 * 1024


class Limits(NamedTuple):
    """Deadlines in seconds (docs/PROTOCOL.md section 3)."""

    handshake_s: float = 10.0
    line_s: float = 10.0
    """The rest of a line, once it began."""
    progress_s: float = 10.0
    """Some progress of a body that comes."""
    taking_s: float = 10.0
    """Some progress of what we send; a client may pause for longer, its reader may be a person."""
    body_s: float = 10.0
    """A body as a whole, and one second more for each `bytes_per_s`."""
    bytes_per_s: float = 100 * 1024.0
    control_answer_s: float = 10.0
    """The first byte of an answer to a control verb, where the caller names no other."""
    bulk_answer_s: float = 30.0
    """The first byte of an answer to a bulk verb."""
    part_s: float = 60.0
    """Between the parts of a streaming answer."""
    idle_s: float = 300.0
    """Between requests."""
    record_s: float = 60.0
    """Between the records of a streaming request."""
    linger_s: float = 2.0
    """How long a refused peer may take to hear why, before its connection is closed."""

    def whole_body_s(self, length: int) -> float:
        """How long a body of that length may take."""
        return self.body_s + length / self.bytes_per_s


class Stream:
    """A connected socket, plain or TLS."""

    def __init__(
        self, sock: socket.socket, peer_name: str, limits: Limits | None = None, takes_descriptors: bool = False
    ) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._descriptors: collections.deque[int] = collections.deque()
        self._takes_descriptors = takes_descriptors
        self._is_ready_tls = hasattr(sock, "_sslobj") and not isinstance(sock, _socket.socket)
        """A socket of gevent's by TLS: what it wraps never waits. That of the standard library does."""
        self.limits = limits or Limits()
        self.peer_name = peer_name
        """For messages: who is at the other end."""
        self.is_gone = False
        """The other end is: nothing that is sent can arrive."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For `poll`; -1 when closed."""
        return self._sock.fileno()

    # --- reading -------------------------------------------------------------------------------------

    def read_line(self, first_byte_s: float) -> bytes:
        """The next line with its line end; empty when the other end closed between lines.

        Raises TooLong, DeadlinePassed, Unreachable (closed in the middle).
        """
        buffer = self._buffer
        seconds = self.limits.line_s if buffer else first_byte_s
        end = time.monotonic() + seconds
        searched = 0
        while (found := buffer.find(b"\n", searched, wire.MAX_LINE)) < 0:
            searched = len(buffer)
            if searched >= wire.MAX_LINE:
                raise errors.TooLong(f"{self.peer_name} sent a line over {wire.MAX_LINE} bytes")
            try:
                self._sock.settimeout(_time_left_s(end))
                data = self._receive()
            except (OSError, ValueError) as error:
                raise self._broken(error, f"did not send a line within {seconds:g} s") from None
            if not data:
                if not searched:
                    return b""
                self.is_gone = True
                raise errors.Unreachable(f"{self.peer_name} closed the connection in the middle of a line")
            if not searched:
                seconds = self.limits.line_s
                end = time.monotonic() + seconds
            buffer += data
        line = bytes(buffer[: found + 1])
        del buffer[: found + 1]
        return line

    def _receive(self) -> bytes:
        if not self._takes_descriptors:
            return self._sock.recv(READ_BYTES)
        data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        self._keep_descriptors(ancillary, flags)
        return data

    def read_into(self, view: memoryview) -> None:
        """Fill the view. Raises DeadlinePassed, Unreachable."""
        size = len(view)
        done = min(size, len(self._buffer))
        if done:
            view[:done] = self._buffer[:done]
            del self._buffer[:done]
        if done == size:
            return
        limits = self.limits
        end = time.monotonic() + limits.whole_body_s(size)
        try:
            progress_s = limits.progress_s
            self._sock.settimeout(progress_s)
            while (done := done + self._read_ready(view[done:])) < size:
                count = self._read(view[done:])
                if not count:
                    self.is_gone = True
                    raise errors.Unreachable(f"{self.peer_name} closed the connection {size - done} bytes early")
                done += count
                left_s = end - time.monotonic()
                if left_s < progress_s:
                    if left_s <= 0:
                        raise TimeoutError
                    self._sock.settimeout(left_s)
        except (OSError, ValueError) as error:
            raise self._broken(error, f"did not send a body of {size} bytes in time") from None

    def _read_ready(self, view: memoryview) -> int:
        """What of a body has come by TLS already, without a wait; how many bytes.

        The hot path: TLS gives at most 16 KiB a call, 64 calls for a block of 1 MiB, so these go straight to OpenSSL.
        Whatever is not bytes (nothing there yet, the end, an error) is for the ordinary read that follows to meet.
        """
        tls = self._sock._sslobj if self._is_ready_tls else None  # type: ignore[attr-defined]
        done, size = 0, len(view)
        if tls is not None:
            with contextlib.suppress(OSError):
                while done < size and (count := tls.read(size - done, view[done:])):
                    done += count
        return done

    def _read(self, view: memoryview) -> int:
        if not self._takes_descriptors:
            return self._sock.recv_into(view)
        count, ancillary, flags, _ = self._sock.recvmsg_into([view], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        self._keep_descriptors(ancillary, flags)
        return count

    def read_body(self, length: int) -> bytes:
        """A message of that length."""
        body = bytearray(length)
        self.read_into(memoryview(body))
        return bytes(body)

    def skip(self, length: int) -> None:
        """Read a body that nobody wants."""
        scratch = memoryview(bytearray(min(length, _SKIP_BYTES)))
        while length:
            count = min(length, len(scratch))
            self.read_into(scratch[:count])
            length -= count

    # --- descriptors ---------------------------------------------------------------------------------

    def _keep_descriptors(self, ancillary: Sequence[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
                self._descriptors.extend(fds)
        if len(self._descriptors) > MAX_DESCRIPTORS or flags & socket.MSG_CTRUNC:
            raise errors.ProtocolError(
                f"{self.peer_name} sent more descriptors than may wait ({MAX_DESCRIPTORS}), or than this process may "
                "open (LimitNOFILE)"
            )

    def take_descriptor(self) -> int:
        """The descriptor that came first of those not taken; the caller closes it. Raises ProtocolError."""
        if not self._descriptors:
            raise errors.ProtocolError("no descriptor came with the line")
        return self._descriptors.popleft()

    # --- writing -------------------------------------------------------------------------------------

    def send(self, line: bytes, *bodies: bytes | memoryview) -> None:
        """Send a line and its body; a large body is hardly copied. Raises DeadlinePassed, Unreachable."""
        size = len(line) + sum(map(len, bodies))
        pieces = _pieces(line, bodies) if size > COALESCE_BYTES else [b"".join((line, *bodies))]
        end = time.monotonic() + self.limits.taking_s + self.limits.whole_body_s(size)
        try:
            self._sock.settimeout(self.limits.taking_s)
            for piece in pieces:
                self._send_all(piece, end)
        except (OSError, ValueError) as error:
            raise self._not_taken(error) from None

    def _send_all(self, piece: bytes | memoryview, end: float) -> None:
        # Not sendall: its deadline is one for all, so a peer that takes a byte a minute would pass.
        with memoryview(piece) as view:
            done, count = 0, len(view)
            while done < count:
                done += self._sock.send(view[done:] if done else view)
                if time.monotonic() > end:
                    raise TimeoutError

    def send_with_descriptors(self, line: bytes, fds: Sequence[int]) -> None:
        """Send a line with open files, over a unix socket. Raises DeadlinePassed, Unreachable."""
        try:
            self._sock.settimeout(self.limits.progress_s)
            sent = socket.send_fds(self._sock, [line], list(fds))
        except (OSError, ValueError) as error:
            raise self._not_taken(error) from None
        if sent < len(line):
            self.send(line[sent:])

    def _not_taken(self, error: OSError | ValueError) -> errors.P2pfsError:
        self.is_gone = True
        return self._broken(error, "did not take what was sent to it in time")

    # --- the end -------------------------------------------------------------------------------------

    def _broken(self, error: OSError | ValueError, too_late: str) -> errors.P2pfsError:
        if isinstance(error, TimeoutError):
            return errors.DeadlinePassed(f"{self.peer_name} {too_late}")
        self.is_gone = True
        reason = getattr(error, "reason", None)
        if isinstance(reason, str) and "ALERT" in reason:
            # In TLS 1.3 a client learns only after its handshake that the server refused its certificate.
            return errors.IdentityRefused(
                f"{self.peer_name} does not accept our certificate ({reason.replace('_', ' ').lower()}); "
                "is it another cluster's secret, an old certificate, or a wrong clock?"
            )
        # ValueError is what `ssl` raises for a socket that another task closed meanwhile.
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return errors.Unreachable(f"the connection to {self.peer_name} broke: {text}")

    def linger(self) -> None:
        """Before `close`: give the other end a chance to read our last words.

        Closing a socket that has unread bytes makes the kernel reset the connection, which can overtake them.
        """
        end = time.monotonic() + self.limits.linger_s
        with contextlib.suppress(OSError, ValueError, errors.ProtocolError):
            self._shut(socket.SHUT_WR)
            self._sock.settimeout(_time_left_s(end))
            while time.monotonic() < end and self._receive():
                self._sock.settimeout(_time_left_s(end))

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took; a task that waits in a read or send is woken."""
        self.is_gone = True
        while self._descriptors:
            os.close(self._descriptors.popleft())
        with contextlib.suppress(OSError):
            self._shut(socket.SHUT_RDWR)
        self._sock.close()

    def cut(self) -> None:
        """End the connection for whoever reads or sends in another thread now; that one closes it."""
        self.is_gone = True
        with contextlib.suppress(OSError):
            self._shut(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close our descriptor alone: the connection goes on for another process that has it."""
        self._sock.close()

    def _shut(self, how: int) -> None:
        # That of the plain socket: the method of ssl's class drops TLS, and what is sent afterwards would go in clear.
        socket.socket.shutdown(self._sock, how)


def _pieces(line: bytes, bodies: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """What to send where much is: the line takes as much of its body along as fits, and is no message of its own."""
    if not bodies:
        return [line]
    first, *others = [memoryview(body) for body in bodies]
    beside = max(0, RECORD_BYTES - len(line))
    return [b"".join((line, first[:beside])), first[beside:], *others]


def _time_left_s(end: float) -> float:
    # Zero would mean "do not wait at all" to a socket.
    return max(0.001, end - time.monotonic())
