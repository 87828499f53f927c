"""Reading sealed streams from a node: ranges, files, the index of a directory. Nothing counts before it is proved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from p2pfs import errors
from p2pfs.client.answers import OnProgress, Progress, ReadEnd
from p2pfs.client.calls import Answers, Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.ordered import THREADS, Job, in_order
from p2pfs.core.cid import CID
from p2pfs.crypt import index, segments
from p2pfs.crypt.index import Row
from p2pfs.crypt.segments import HEADER_BYTES, Cipher, Segment

SPOOL_BYTES = 1024 * 1024
"""So much of an index stays in memory, sealed; more goes to a temporary file without a name."""

FLUSH_BYTES = 64 * 1024 * 1024
"""As often a file that comes is written to the disk, beside the work: the last sync finds little left then."""


class SealedFile(NamedTuple):
    """A sealed stream that a node holds."""

    cid: CID
    size: int
    """Plain bytes, as the node says; proved once the last segment was opened."""
    cipher: Cipher


def find_file(calls: Calls, ref: str, key: bytes, deadline: Deadline, size: int | None = None) -> SealedFile:
    """The sealed file at a node's REF. Raises Corrupt when it is none, or has not the `size` that it should have."""
    parts = calls.parts(deadline, ReadEnd, "READ", ref, 0, HEADER_BYTES)
    header = b"".join(parts)
    end = parts.end
    file = SealedFile(end.cid, segments.plain_size(end.size), Cipher(key, header))
    if size is not None and size != file.size:
        raise errors.Corrupt(f"{end.cid}: {file.size} plain bytes, and the directory says {size}")
    return file


def read(
    calls: Calls, file: SealedFile, offset: int, length: int | None, deadline: Deadline, fd: int | None = None,
    threads: int = THREADS,
) -> Iterator[memoryview]:
    """The plain bytes of a range, in pieces that are valid until the next is asked for; also written to `fd`.

    A range at the end or past it opens the last segment: nobody can make a file look shorter. Raises Corrupt.
    """
    stop = file.size if length is None else min(file.size, offset + length)
    first = next(segments.segments(file.size, offset, stop))
    last = next(segments.segments(file.size, max(offset, stop - 1), stop))
    sealed_stop = last.sealed_start + last.sealed_length
    parts = calls.parts(
        deadline, ReadEnd, "READ", str(file.cid), first.sealed_start, sealed_stop - first.sealed_start
    )
    wanted = segments.segments(file.size, offset, stop)
    yield from in_order(_jobs(file.cipher, wanted, Whole(parts), offset, stop, fd), threads)


def _jobs(
    cipher: Cipher, wanted: Iterable[Segment], sealed: Whole, start: int, stop: int, fd: int | None
) -> Iterator[Job]:
    for segment in wanted:
        yield partial(_open, cipher, segment, sealed.take(segment.sealed_length), start, stop, fd)
    sealed.end()


def _open(
    cipher: Cipher, segment: Segment, sealed: memoryview, start: int, stop: int, fd: int | None, out: memoryview
) -> memoryview:
    plain = cipher.open(segment, sealed, out)
    plain = plain[max(0, start - segment.start) : max(0, stop - segment.start)]
    if fd is not None:
        done = 0
        while done < len(plain):
            done += os.pwrite(fd, plain[done:], max(start, segment.start) - start + done)
    return plain


class Whole:
    """What a READ answers, in pieces of the lengths that are asked for; most come just so, and are not copied."""

    def __init__(self, parts: Answers[bytes, ReadEnd]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def take(self, length: int) -> memoryview:
        """Just so many bytes. Raises ProtocolError when there are fewer."""
        pieces: list[memoryview] = []
        while length:
            if not self._rest:
                self._rest = memoryview(next(self._parts, b""))
                if not self._rest:
                    raise errors.ProtocolError("the node sent fewer bytes than it has")
            pieces.append(self._rest[:length])
            self._rest = self._rest[length:]
            length -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def end(self) -> None:
        """Nothing may be left. Raises ProtocolError."""
        if self._rest or next(self._parts, None) is not None:
            raise errors.ProtocolError("the node sent more bytes than it has")


def read_into(
    calls: Calls, file: SealedFile, fd: int, deadline: Deadline, progress: OnProgress | None, threads: int = THREADS
) -> None:
    """Make a descriptor's file equal to the plain content, from the start. After a failure it is empty."""
    os.ftruncate(fd, 0)
    done = flushed = 0
    flush: Future[None] | None = None
    try:
        # Its thread starts with the first flush: a small file has none.
        with ThreadPoolExecutor(1, "flush") as pool:
            for piece in read(calls, file, 0, None, deadline, fd, threads):
                done += len(piece)
                if progress is not None:
                    progress(Progress(done, file.size))
                if done - flushed >= FLUSH_BYTES and (flush is None or flush.done()):
                    _check(flush)
                    flush, flushed = pool.submit(os.fdatasync, fd), done
        _check(flush)
    except BaseException:
        # Threads write where it is their segment's turn: there is no telling what is there, and nothing to go on with.
        os.ftruncate(fd, 0)
        raise


def _check(flush: Future[None] | None) -> None:
    """Raises what a flush met: the system tells it once only, so the sync at the end would not."""
    if flush is not None:
        flush.result()


def open_small(data: memoryview, key: bytes, size: int) -> memoryview:
    """The plain bytes of a sealed file of one segment. Raises Corrupt."""
    if len(data) != segments.sealed_size(size):
        raise errors.Corrupt(f"{len(data)} bytes came for an encrypted file of {size}")
    cipher = Cipher(key, bytes(data[:HEADER_BYTES]))
    return cipher.open(next(segments.segments(size)), data, memoryview(bytearray(len(data))))


def read_index(calls: Calls, root: CID, key: bytes, deadline: Deadline) -> Iterator[Row]:
    """The rows of an encrypted directory's index. Raises Corrupt, Malformed, NotFound for a directory that has none.

    It is fetched at once: a node would not wait while the files of a long one are.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        for part in calls.parts(deadline, ReadEnd, "READ", f"{root}/{index.NAME}", 0, None):
            spool.write(part)
        size = segments.plain_size(spool.tell())
        spool.seek(0)
        cipher = Cipher(key, spool.read(HEADER_BYTES), index.CONTEXT)
        spool.seek(0)
        out = memoryview(bytearray(segments.SEGMENT_BYTES))
        yield from index.read_rows(
            bytes(cipher.open(one, memoryview(spool.read(one.sealed_length)), out)) for one in segments.segments(size)
        )
