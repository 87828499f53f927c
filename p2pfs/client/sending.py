"""STORE and IMPORT from the client's side: records go out while progress, or an early refusal, comes in.

Nothing here waits for only one of the two directions for long, so neither end can block the other: before each sending
the answers that are there are read, and while a pipe has nothing to give the connection is watched as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from p2pfs import errors
from p2pfs.client.answers import Imported, Progress, Stored
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.files import local_errors
from p2pfs.client.parsing import parse
from p2pfs.core import wire
from p2pfs.core.directory import show
from p2pfs.net.connection import Connection
from p2pfs.tree import Event, hides_bytes, open_file, reading, scan

ALIVE_S = 15.0
"""A source that is silent for so long makes us send a sign of life; the node gives up after 60 s without one."""
SMALL_BYTES = wire.MAX_SMALL
"""Files of a directory up to this size travel as records: cheaper than passing and opening a descriptor for each."""
GATHER_BYTES = 64 * 1024
"""So many bytes of small records leave at once."""

OnProgress = Callable[[Progress], None]


class Outgoing:
    """One streaming request while its records are sent."""

    def __init__(
        self, connection: Connection, deadline: Deadline, verb: str, options: dict[str, Any],
        progress: OnProgress | None, is_local: bool, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_local = is_local
        """Descriptors can be passed."""
        self.size: int | None = None
        """Bytes in all, for progress, where they are known beforehand."""
        self._connection = connection
        self._deadline = deadline
        self._progress = progress
        given = {key: value for key, value in options.items() if value is not None}
        self._clock = clock
        self._gathered = bytearray()
        self._answer = connection.stream(verb, body=wire.dump_json(given))
        self._sent_s = clock()

    def record(self, name: str, *args: Any, body: bytes | memoryview | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send a record. Raises what the node answered, when it gave up already."""
        self.flush()
        self._send(lambda: self._connection.send_record(name, *args, body=body, fds=fds))

    def gather(self, name: str, *args: Any, body: bytes | None = None) -> None:
        """Send a small record, together with others of its kind: before the next of another, and as a sign of life."""
        self._gathered += wire.format_record(name, *args, body=body)
        if len(self._gathered) >= GATHER_BYTES or self._clock() - self._sent_s >= ALIVE_S:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if self._gathered:
            lines, self._gathered = bytes(self._gathered), bytearray()
            self._send(lambda: self._connection.send_records(lines))

    def _send(self, send: Callable[[], None]) -> None:
        self._hear()
        try:
            send()
        except errors.Unreachable:
            # The node closes when it refuses in the middle; its reason came before that and can still be read.
            if (refusal := self._answer.last_words()) is not None:
                raise refusal from None
            raise
        self._sent_s = self._clock()

    def wait_readable(self, fd: int) -> None:
        """Wait until a source has something for us, with signs of life to the node meanwhile.

        Only what we send counts as one: the node tells its progress all the time, and hears nothing by that.
        """
        while True:
            silence_left_s = self._sent_s + ALIVE_S - self._clock()
            if silence_left_s <= 0:
                self.record("PART", body=b"")
                continue
            ready = self._wait(self._deadline.wait_s(silence_left_s), fd)
            if fd in ready:
                return
            if ready:
                self._hear()

    def stay(self) -> None:
        """A sign of life when it is time for one: for who works for long between two records."""
        if self._clock() - self._sent_s >= ALIVE_S:
            self.record("PART", body=b"")

    def _hear(self) -> None:
        """Read the answers that are there. Raises the node's refusal; a last word before our last record is one."""
        while self._wait(0):
            part = next(self._answer, None)
            if part is None:
                raise errors.ProtocolError("the node answered before it had everything")
            self._heard(part)

    def _wait(self, wait_s: float, *fds: int) -> set[int]:
        poll = select.poll()
        for fd in (self._connection.fileno(), *fds):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(1000 * wait_s)}

    def end(self) -> dict[str, Any]:
        """After the last record: the node's answer."""
        self.flush()
        for part in self._answer:
            self._heard(part)
        return wire.parse_json(self._answer.result, dict)

    def _heard(self, part: bytes) -> None:
        self._deadline.wait_s()
        if self._progress is not None:
            done = wire.parse_json(part, dict).get("bytes")
            if not isinstance(done, int):
                raise errors.ProtocolError("progress says how many bytes are done")
            self._progress(Progress(done, self.size))


@contextlib.contextmanager
def outgoing(
    calls: Calls, verb: str, options: dict[str, Any], deadline: Deadline, progress: OnProgress | None
) -> Iterator[Outgoing]:
    """A streaming request; if it is left by an exception the connection is closed, and nothing becomes visible."""
    with calls.pool.connection(deadline) as connection:
        try:
            yield Outgoing(connection, deadline, verb, options, progress, calls.pool.is_local)
        except BaseException:
            connection.close()
            raise


def store(
    calls: Calls, source: str | os.PathLike[str] | IO[bytes], options: dict[str, Any], deadline: Deadline,
    progress: OnProgress | None,
) -> Stored:
    """STORE of a path or an open file."""
    if not isinstance(source, (str, os.PathLike)):
        with outgoing(calls, "STORE", options, deadline, progress) as out:
            send_open_file(out, source)
            return parse(Stored, out.end())
    path = os.fspath(source)
    if options["name"] is None:
        options["name"] = os.path.basename(os.path.abspath(path))
    events = scan(path)
    # What cannot be stored at all is refused before a node is asked.
    first = next(events)
    size = size_below(path) if progress is not None else None
    with outgoing(calls, "STORE", options, deadline, progress) as out:
        out.size = size
        send_tree(out, itertools.chain([first], events))
        return parse(Stored, out.end())


def import_car(
    calls: Calls, source: str | os.PathLike[str] | IO[bytes], options: dict[str, Any], deadline: Deadline,
    progress: OnProgress | None,
) -> Imported:
    """IMPORT of a path or an open file."""
    with contextlib.ExitStack() as stack:
        shown = None
        if isinstance(source, (str, os.PathLike)):
            shown = show(os.fsencode(source))
            with local_errors():
                source = stack.enter_context(open(source, "rb", buffering=0))
        out = stack.enter_context(outgoing(calls, "IMPORT", options, deadline, progress))
        send_stream(out, source, shown)
        return parse(Imported, out.end())


def send_tree(out: Outgoing, events: Iterable[Event]) -> None:
    """What a scan comes to as a node record. Raises what `tree.scan` does, and Refused."""
    depth = 0
    for event in events:
        if event.kind == "enter":
            out.gather("DIR", event.name)
            depth += 1
        elif event.kind == "leave":
            out.gather("END")
            depth -= 1
        elif event.kind == "symlink":
            out.gather("LINK", event.name, body=event.target)
        else:
            send_file(out, event, is_root=not depth)


def send_file(out: Outgoing, event: Event, is_root: bool) -> None:
    """A regular file: in line when it is small and one of many, else by descriptor where that can be passed."""
    fd = open_file(event.path)
    try:
        _send_open(out, event, fd, is_root)
    finally:
        os.close(fd)


def _send_open(out: Outgoing, event: Event, fd: int, is_root: bool) -> None:
    before = os.fstat(fd)
    is_small = before.st_size <= SMALL_BYTES and not is_root
    with reading(event.path):
        is_of_unknown_size = hides_bytes(fd, before.st_size)
    if is_of_unknown_size:
        send_pieces(out, event, fd)
        return
    if out.is_local and not is_small:
        out.record("FD", event.name, fds=(fd,))
        return
    if is_small:
        data = _read(event, fd, SMALL_BYTES)
        done = len(data)
        out.gather("SMALL", event.name, body=data)
    else:
        done = send_pieces(out, event, fd)
    after = os.fstat(fd)
    if done != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise errors.Refused(f"{show(event.path)} was changed while it was read; store it again")


def _read(event: Event, fd: int, most: int) -> bytes:
    with reading(event.path):
        return os.read(fd, most)


def send_pieces(out: Outgoing, event: Event, fd: int) -> int:
    """A file in line, piece by piece; how many bytes it had."""
    out.record("FILE", event.name)
    done = 0
    while piece := _read(event, fd, wire.MAX_PART):
        out.record("PART", body=piece)
        done += len(piece)
    out.record("END")
    return done


def size_below(path: str) -> int:
    """Bytes of all files that a scan of the path comes to."""
    return sum(event.size for event in scan(path))


def send_open_file(out: Outgoing, file: IO[bytes]) -> None:
    """A file object as the node record: the node reads a regular file by itself, anything else is streamed."""
    fd = whole_file(file) if out.is_local else None
    if fd is not None:
        out.size = os.fstat(fd).st_size
        out.record("FD", b"-", fds=(fd,))
    else:
        out.record("FILE", b"-")
        send_stream(out, file)


def whole_file(file: IO[bytes]) -> int | None:
    """The descriptor of a regular file that is open for reading, at its start, and of a size that the system knows."""
    raw = _plain(file)
    if raw is None or not raw.readable():
        return None
    fd = raw.fileno()
    found = os.fstat(fd)
    is_whole = stat.S_ISREG(found.st_mode) and file.tell() == 0 and not hides_bytes(fd, found.st_size)
    return fd if is_whole else None


def _plain(file: IO[bytes]) -> io.FileIO | None:
    """What a file object reads from, where that is a descriptor and nothing else.

    Any other object may have none (a member of a tar, a file that `Client.open` gave), or give other bytes than it has.
    """
    raw = file.raw if type(file) is io.BufferedReader else file
    return raw if type(raw) is io.FileIO else None


def send_stream(out: Outgoing, file: IO[bytes], shown: str | None = None) -> None:
    """What a file object still gives, as PARTs and END; memory stays at one PART."""
    for piece in pieces(out, file, shown):
        out.record("PART", body=piece)
    out.record("END")


def pieces(out: Outgoing, file: IO[bytes], shown: str | None = None) -> Iterator[bytes]:
    """What a file object still gives, in pieces as they come, with signs of life to the node meanwhile.

    What the system refuses is raised as NotFound or Refused where the file is one that we opened, `shown` so; the
    errors of a caller's own object are his.
    """
    fd = _descriptor(file)
    # These two return what is there, where read() of other objects waits until a whole PART is.
    read = file.read1 if isinstance(file, io.BufferedReader) else file.read
    while True:
        if fd is not None:
            out.wait_readable(fd)
        try:
            with reading(shown) if shown is not None else contextlib.nullcontext():
                piece = read(wire.MAX_PART)
        except io.UnsupportedOperation as error:
            raise errors.UsageError(f"a file that can be read is wanted: {error}") from None
        if not isinstance(piece, bytes):
            raise errors.UsageError(f"a binary file is wanted, not one that gives {type(piece).__name__}")
        if not piece:
            return
        yield piece


def _descriptor(file: IO[bytes]) -> int | None:
    """What can be waited for before a read; other objects may hold bytes that their descriptor knows nothing of."""
    if type(file) is io.BufferedReader and type(file.raw) is socket.SocketIO:
        # By TLS more may have come than the descriptor says.
        return None if hasattr(file.raw._sock, "pending") else file.fileno()  # type: ignore[attr-defined]
    raw = _plain(file)
    if raw is None:
        return None
    fd = raw.fileno()
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        # A wider pipe means fewer and larger PARTs; an unprivileged process may be out of its allowance.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, wire.MAX_PART)
    return fd
