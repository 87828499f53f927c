"""The CID of a file, directory or stream, without storing anything and without a node.

Leaves are hashed in a few native threads, which all read for themselves where they can; the tree above is assembled
in order. Memory is a few leaves, whatever the size.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from p2pfs import errors
from p2pfs.core.chunker import Cutter, fixed_cuts
from p2pfs.core.cid import CID, RAW
from p2pfs.core.directory import Entry, build_directory, build_symlink, show
from p2pfs.core.layout import BalancedLayout, Link
from p2pfs.core.multihash import Multihash, multihash
from p2pfs.core.profile import Profile
from p2pfs.tree import open_file, reading, scan

THREADS = min(4, max(2, os.cpu_count() or 2))
AHEAD = THREADS + 2
"""Leaves in work at once."""
SMALL_BYTES = 64 * 1024
"""A file up to this size is not worth a thread."""

Progress = Callable[[int], None]


class Stream(Protocol):
    """A binary stream, as `sys.stdin.buffer` is one."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Bytes put into the buffer, 0 at the end."""


class Identified(NamedTuple):
    """What something would be stored as."""

    cid: CID
    size: int
    """Bytes of the file, or of all files in the directory."""


def identify(
    source: str | bytes | os.PathLike[str] | Stream, profile: Profile, progress: Progress | None = None
) -> Identified:
    """The CID of what a path names (a symbolic link named by the user is followed), or of a stream up to its end.

    `progress` is called with the number of bytes that were just hashed. Raises what `tree.scan` raises, and Refused
    when a file changes meanwhile.
    """
    with _Identifier(profile, progress) as identifier:
        if isinstance(source, (str, bytes, os.PathLike)):
            link = identifier.path(source)
        else:
            link = identifier.stream(source.readinto)
        return Identified(link.cid, identifier.size)


class _Identifier:
    def __init__(self, profile: Profile, progress: Progress | None) -> None:
        self.size = 0
        self._profile = profile
        self._progress = progress
        self._pool: ThreadPoolExecutor | None = None
        self._buffers = threading.local()
        self._waiting: collections.deque[tuple[int, Future[Multihash]]] = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown()

    def path(self, path: str | bytes | os.PathLike[str]) -> Link:
        """A file or a whole tree."""
        # Entries of the directories that are open; the outermost list gets the root.
        folders: list[list[Entry]] = [[]]
        for event in scan(path):
            if event.kind == "enter":
                folders.append([])
                continue
            if event.kind == "file":
                link = self._file(event.path)
            elif event.kind == "symlink":
                link, _ = build_symlink(event.target, self._profile)
            else:
                link, _ = build_directory(folders.pop(), self._profile)
            folders[-1].append(Entry(event.name, link.cid, link.tsize))
        (root,) = folders[0]
        return Link(root.cid, self.size, root.tsize)

    def _file(self, path: bytes) -> Link:
        fd = open_file(path)
        try:
            return self._open_file(fd, path)
        finally:
            os.close(fd)

    def _open_file(self, fd: int, path: bytes) -> Link:
        before = os.fstat(fd)
        size = before.st_size

        def readinto(view: memoryview) -> int:
            with reading(path):
                return os.readv(fd, [view])

        if not size:
            # Nothing, or a file whose size the system does not know (in /proc).
            return self.stream(readinto)
        if size <= min(SMALL_BYTES, self._profile.min_leaf_bytes):
            with reading(path):
                data = os.read(fd, size)
            link = self._small(data)
        elif self._profile.is_fixed:
            link = self._fixed(fd, path, size)
        else:
            link = self.stream(readinto)
        after = os.fstat(fd)
        if link.size != size or (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise errors.Refused(f"{show(path)} was changed while it was read")
        return link

    def _small(self, data: bytes) -> Link:
        self._done(len(data))
        return Link(CID(RAW, multihash(self._profile.hash_code, data)), len(data), len(data))

    def _fixed(self, fd: int, path: bytes, size: int) -> Link:
        layout = BalancedLayout(self._profile)
        try:
            for offset, length in fixed_cuts(size, self._profile.chunk_bytes):
                self._submit(layout, length, partial(self._hash_range, fd, path, offset, length))
            self._drain(layout)
        finally:
            self._abandon()
        return layout.finish()[0]

    def stream(self, readinto: Callable[[memoryview], int | None]) -> Link:
        """A stream up to its end."""
        layout = BalancedLayout(self._profile)
        cutter = Cutter(self._profile)
        # Leaves are hashed where they were read. Each window begins at least one, so that those of the window which
        # comes next in this circle were waited for: there are never more than AHEAD in work.
        windows = itertools.cycle([memoryview(bytearray(2 * cutter.window_bytes)) for _ in range(AHEAD + 1)])
        view, filled, is_end = next(windows), 0, False
        try:
            while True:
                while not is_end and filled < len(view):
                    count = readinto(view[filled:])
                    if count is None:
                        raise errors.Refused("the input is non-blocking and has nothing to read now")
                    filled += count
                    is_end = not count
                if not filled:
                    break
                done = 0
                for length in cutter.cuts(view[:filled], is_end):
                    leaf = view[done : done + length]
                    self._submit(layout, length, partial(multihash, self._profile.hash_code, leaf))
                    done += length
                rest, view = view[done:filled], next(windows)
                filled = len(rest)
                view[:filled] = rest
            self._drain(layout)
        finally:
            self._abandon()
        return layout.finish()[0]

    # --- threads -------------------------------------------------------------------------------------

    def _submit(self, layout: BalancedLayout, length: int, job: Callable[[], Multihash]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "hash")
        while len(self._waiting) >= AHEAD:
            self._take(layout)
        self._waiting.append((length, self._pool.submit(job)))

    def _drain(self, layout: BalancedLayout) -> None:
        while self._waiting:
            self._take(layout)

    def _take(self, layout: BalancedLayout) -> None:
        length, future = self._waiting.popleft()
        layout.add(Link(CID(RAW, future.result()), length, length))
        self._done(length)

    def _abandon(self) -> None:
        """After an error: nothing reads from a descriptor that is about to be closed."""
        wait([future for _, future in self._waiting if not future.cancel()])
        self._waiting.clear()

    def _done(self, count: int) -> None:
        self.size += count
        if self._progress:
            self._progress(count)

    def _hash_range(self, fd: int, path: bytes, offset: int, length: int) -> Multihash:
        """In a thread: read a leaf into the thread's own buffer, and hash it."""
        if not hasattr(self._buffers, "leaf"):
            self._buffers.leaf = memoryview(bytearray(self._profile.chunk_bytes))
        view: memoryview = self._buffers.leaf[:length]
        done = 0
        while done < length:
            with reading(path):
                count = os.preadv(fd, [view[done:]], offset + done)
            if not count:
                raise errors.Refused("a file became shorter while it was read")
            done += count
        return multihash(self._profile.hash_code, view)
