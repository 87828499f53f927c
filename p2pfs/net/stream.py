"""One connection as lines and bodies, with a deadline on every wait. Blocking sockets; knows no verbs.

Bodies go from the socket straight into the caller's buffer. One reader and one writer may be different tasks; never
two of a kind at once.
"""

from __future__ import annotations

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
SEND_BYTES = 1024 * 1024
COALESCE_BYTES = 64 * 1024
"""A line and a body up to this size leave in one send."""
MAX_DESCRIPTORS = 200
LINGER_S = 2.0
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Limits(NamedTuple):
    """Deadlines in seconds (docs/PROTOCOL.md section 3)."""

    handshake_s: float = 10.0
    line_s: float = 10.0
    """The rest of a line, once it began."""
    progress_s: float = 10.0
    """Some progress of a body, in either direction."""
    body_s: float = 10.0
    """A body as a whole, and one second more for each `bytes_per_s`."""
    bytes_per_s: float = 100 * 1024.0
    answer_s: float = 60.0
    """The first byte of an answer, and between the parts of one."""
    idle_s: float = 300.0
    """Between requests."""
    record_s: float = 60.0
    """Between the records of a streaming request."""

    def whole_body_s(self, length: int) -> float:
        """How long a body of that length may take."""
        return self.body_s + length / self.bytes_per_s


class Stream:
    """A connected socket, plain or TLS."""

    def __init__(self, sock: socket.socket, peer_name: str, limits: Limits | None = None) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._descriptors: collections.deque[int] = collections.deque()
        self._is_unix = sock.family == socket.AF_UNIX
        self.limits = limits or Limits()
        self.peer_name = peer_name
        """For messages: who is at the other end."""
        if not self._is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For `poll`."""
        return self._sock.fileno()

    # --- reading -------------------------------------------------------------------------------------

    def read_line(self, first_byte_s: float) -> bytes:
        """The next line with its line end; empty when the other end closed between lines.

        Raises TooLong, DeadlinePassed, Unreachable (closed in the middle).
        """
        end = time.monotonic() + first_byte_s
        searched = 0
        while (found := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched >= wire.MAX_LINE:
                raise errors.TooLong(f"{self.peer_name} sent a line over {wire.MAX_LINE} bytes")
            data = self._receive(end, "a line")
            if not data:
                if not self._buffer:
                    return b""
                raise errors.Unreachable(f"{self.peer_name} closed the connection in the middle of a line")
            if not searched:
                end = time.monotonic() + self.limits.line_s
            self._buffer += data
        if found >= wire.MAX_LINE:
            raise errors.TooLong(f"{self.peer_name} sent a line over {wire.MAX_LINE} bytes")
        line = bytes(self._buffer[: found + 1])
        del self._buffer[: found + 1]
        return line

    def _receive(self, end: float, what: str) -> bytes:
        try:
            self._sock.settimeout(max(0.001, end - time.monotonic()))
            if not self._is_unix:
                return self._sock.recv(READ_BYTES)
            data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY)
            self._keep_descriptors(ancillary)
            return data
        except TimeoutError:
            raise errors.DeadlinePassed(f"{self.peer_name} did not send {what} in time") from None
        except OSError as error:
            raise self._broken(error) from None

    def _keep_descriptors(self, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                for fd in fds:
                    os.set_inheritable(fd, False)
                self._descriptors.extend(fds)
        if len(self._descriptors) > MAX_DESCRIPTORS:
            raise errors.ProtocolError(f"{self.peer_name} sent over {MAX_DESCRIPTORS} descriptors that nothing uses")

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
        receive_into = self._sock.recv_into
        try:
            self._sock.settimeout(limits.progress_s)
            while done < size:
                if self._is_unix:
                    count, ancillary, _, _ = self._sock.recvmsg_into([view[done:]], _ANCILLARY)
                    self._keep_descriptors(ancillary)
                else:
                    count = receive_into(view[done:])
                if not count:
                    raise errors.Unreachable(f"{self.peer_name} closed the connection {size - done} bytes early")
                done += count
                if time.monotonic() > end:
                    raise TimeoutError
        except TimeoutError:
            raise errors.DeadlinePassed(f"{self.peer_name} sent {done} of {size} bytes in time") from None
        except OSError as error:
            raise self._broken(error) from None

    def read_body(self, length: int) -> bytes:
        """A message of that length."""
        body = bytearray(length)
        self.read_into(memoryview(body))
        return bytes(body)

    def take_descriptor(self) -> int:
        """The descriptor that came first of those not taken; the caller closes it. Raises ProtocolError."""
        if not self._descriptors:
            raise errors.ProtocolError("no descriptor came with the line")
        return self._descriptors.popleft()

    # --- writing -------------------------------------------------------------------------------------

    def send(self, line: bytes, *bodies: bytes | memoryview) -> None:
        """Send a line and its body. Raises DeadlinePassed, Unreachable."""
        if sum(map(len, bodies)) <= COALESCE_BYTES:
            pieces: list[bytes | memoryview] = [b"".join((line, *bodies))]
        else:
            pieces = [line, *bodies]
        try:
            for piece in pieces:
                for start in range(0, len(piece), SEND_BYTES):
                    view = memoryview(piece)[start : start + SEND_BYTES]
                    self._sock.settimeout(self.limits.whole_body_s(len(view)))
                    self._sock.sendall(view)
        except TimeoutError:
            raise errors.DeadlinePassed(f"{self.peer_name} did not take what was sent to it in time") from None
        except OSError as error:
            raise self._broken(error) from None

    def send_with_descriptors(self, line: bytes, fds: Sequence[int]) -> None:
        """Send a line with open files, over a unix socket."""
        try:
            self._sock.settimeout(self.limits.progress_s)
            sent = socket.send_fds(self._sock, [line], list(fds))
        except TimeoutError:
            raise errors.DeadlinePassed(f"{self.peer_name} did not take what was sent to it in time") from None
        except OSError as error:
            raise self._broken(error) from None
        if sent < len(line):
            self.send(line[sent:])

    def linger(self) -> None:
        """Say that we send no more, and read until the other end stops, for a moment: so that it gets what we said."""
        end = time.monotonic() + LINGER_S
        with contextlib.suppress(OSError, errors.P2pfsError):
            self._sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < end and self._receive(end, "its end"):
                pass

    def _broken(self, error: OSError) -> errors.Unreachable:
        return errors.Unreachable(f"the connection to {self.peer_name} broke: {error.strerror or error}")

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took."""
        while self._descriptors:
            os.close(self._descriptors.popleft())
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
