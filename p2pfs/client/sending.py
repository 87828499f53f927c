"""STORE and IMPORT from the client's side: files, directories and streams as records (`outgoing.py` sends them)."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import IO, Any

from p2pfs import errors
from p2pfs.client.answers import Imported, OnProgress, Stored
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.files import local_errors, local_path
from p2pfs.client.outgoing import Outgoing, outgoing
from p2pfs.client.parsing import parse
from p2pfs.core import wire
from p2pfs.core.directory import show
from p2pfs.tree import Event, hides_bytes, open_file, reading, scan

SMALL_BYTES = wire.MAX_SMALL
"""Files of a directory up to this size travel as records: cheaper than passing and opening a descriptor for each."""


def store(
    calls: Calls, source: str | os.PathLike[str] | IO[bytes], options: dict[str, Any], deadline: Deadline,
    progress: OnProgress | None,
) -> Stored:
    """STORE of a path or an open file."""
    if not isinstance(source, (str, os.PathLike)):
        with outgoing(calls, "STORE", options, deadline, progress) as out:
            send_open_file(out, source)
            return parse(Stored, out.end())
    path = local_path(source)
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
            path = local_path(source)
            shown = show(os.fsencode(path))
            with local_errors():
                source = stack.enter_context(open(path, "rb", buffering=0))
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
