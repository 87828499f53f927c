"""A file or a stream is cut into the leaves of a `FileIngest`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from p2pfs import errors
from p2pfs.core.chunker import Cutter, fixed_cuts
from p2pfs.core.directory import show
from p2pfs.node.buffers import Buffers
from p2pfs.node.leaves import FileIngest
from p2pfs.store.jobs import cuts_from
from p2pfs.tree import hides_bytes


def add_descriptor(file: FileIngest, fd: int, path: bytes) -> None:
    """All leaves of an open regular file.

    Raises Refused for anything else, when it changes meanwhile, and when its size is not known. `path` is what it is
    called in what is stored, for messages.
    """
    profile = file.ingest.profile
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        raise errors.Refused(f"{show(path)} is no regular file; send what it gives as a stream")
    # A native job: a file system that goes to the network for an empty file would hold up everybody.
    if not before.st_size and file.ingest.local.run(_hides_bytes, fd, path):
        raise errors.Refused(f"the system says that {show(path)} is empty, and it is not; send it as a stream")
    if profile.is_fixed or before.st_size <= profile.min_leaf_bytes:
        _add_fixed(file, fd, before.st_size)
    else:
        _add_by_content(file, fd, before.st_size)
    file.wait()
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise errors.Refused(f"{show(path)} was changed while it was read; store it again")


def _hides_bytes(fd: int, path: bytes) -> bool:
    try:
        return hides_bytes(fd, 0)
    except OSError as error:
        raise errors.Refused(f"{show(path)} cannot be read: {error.strerror}") from error


def _add_fixed(file: FileIngest, fd: int, size: int) -> None:
    ingest = file.ingest
    for offset, length in fixed_cuts(size, ingest.profile.chunk_bytes):
        ingest.check()
        file.add(ingest.buffers.take(), length, (fd, offset))


def _add_by_content(file: FileIngest, fd: int, size: int) -> None:
    """A buffer is filled and searched for cuts in one native job, and then is that of the leaf at its start.

    The other leaves that were found in it are read again, each in its own job as those of a fixed size are: that costs
    a copy from the page cache, and all of them are hashed and written side by side while the next window is searched.
    """
    ingest = file.ingest
    cutter = Cutter(ingest.profile)
    offset = 0
    while offset < size:
        ingest.check()
        window = ingest.buffers.take()
        count = min(len(window), size - offset)
        try:
            first, *others = ingest.local.run(cuts_from, fd, offset, window[:count], cutter, offset + count == size)
        except BaseException:
            ingest.buffers.give(window)
            raise
        file.add(window, first)
        offset += first
        for length in others:
            ingest.check()
            file.add(ingest.buffers.take(), length, (fd, offset))
            offset += length


def add_stream(file: FileIngest, read: Callable[[memoryview], int], paced: Buffers) -> None:
    """All leaves of a stream; `read` puts some bytes into a view and returns how many, 0 at the end.

    What arrives gathers in a buffer of those whose pace a client sets; only a whole leaf takes one of ours.
    """
    ingest = file.ingest
    cutter = Cutter(ingest.profile)
    with paced.buffer() as view:
        filled, is_end = 0, False
        while not is_end or filled:
            while not is_end and filled < cutter.window_bytes:
                count = read(view[filled : cutter.window_bytes])
                filled += count
                is_end = count == 0
            done = 0
            for length in ingest.local.run(cutter.cuts, view[:filled], is_end):
                ingest.check()
                leaf = ingest.buffers.take()
                leaf[:length] = view[done : done + length]
                file.add(leaf, length)
                done += length
            view[: filled - done] = view[done:filled]
            filled -= done
    if not file.size:
        file.add(ingest.buffers.take(), 0)
