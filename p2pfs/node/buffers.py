"""The memory for blocks in flight: a fixed number of buffers, each of the size of the largest block.

So memory is bounded, whatever a node is asked for: whoever wants to hold a block takes a buffer first, and waits for
one when all are taken. Three pools keep those apart who would otherwise wait for each other in a circle, or for
somebody who takes his time (docs/decisions/005); the audit, the scrub and branches have a few buffers of their own:

own    what this node does at its own pace; it may wait for peers while it holds a buffer
serve  answering peers; it only ever waits for its own disk
paced  streams whose pace a client sets: it may hold a buffer for as long as its reader pauses
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import time
import weakref
from collections.abc import Callable, Iterator

from p2pfs import errors, green
from p2pfs.core import wire

SMALL = wire.MAX_SMALL
"""Blocks up to this size need no buffer of a pool: they are ordinary bytes, counted by a `Room`."""
ROOM_S = 60.0
WANT_S = 1.0
"""How often who waits for a buffer asks those to let go who could."""


class Buffers:
    """Where buffers come from and go to: a pool, or the portion of it that one party has."""

    def take(self, wait_s: float = 60.0) -> memoryview:
        """A buffer; give it back with `give`. Raises Busy when none became free within `wait_s`."""
        raise NotImplementedError

    def give(self, view: memoryview) -> None:
        """Take a buffer back. The caller must not touch it, or any slice of it, again."""
        raise NotImplementedError

    def try_take(self) -> memoryview | None:
        """A buffer, or None when all are taken or somebody waits for one."""
        try:
            return self.take(wait_s=0)
        except errors.Busy:
            return None

    @contextlib.contextmanager
    def buffer(self, wait_s: float = 60.0) -> Iterator[memoryview]:
        """A buffer for the length of a `with` block."""
        view = self.take(wait_s)
        try:
            yield view
        finally:
            self.give(view)


class Turns(Buffers):
    """Buffers of which there are so many at most: first come, first served."""

    def __init__(self, most: int) -> None:
        self._available = most
        self._waiting: collections.deque[green.Event] = collections.deque()

    def _want(self) -> None:
        """Called on the hub from time to time while somebody waits; must not block."""

    def _enter(self, wait_s: float) -> bool:
        """Take one, or wait until one is handed over; True when it is ours."""
        if self._available and not self._waiting:
            self._available -= 1
            return True
        return wait_s > 0 and self._wait(wait_s)

    def _wait(self, wait_s: float) -> bool:
        turn = green.Event()
        self._waiting.append(turn)
        end = time.monotonic() + wait_s
        try:
            while not turn.is_set() and (left_s := end - time.monotonic()) > 0:
                self._want()
                turn.wait(min(left_s, WANT_S))
            return turn.is_set()
        except BaseException:
            if turn.is_set():
                self._leave()
            raise
        finally:
            if not turn.is_set():
                self._waiting.remove(turn)

    def _leave(self) -> None:
        # To who waits longest: if it only became free, whoever gave it would take it again before the other one
        # runs, and a slow reader could so keep all buffers for ever.
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._available += 1


class BufferPool(Turns):
    """At most `count` buffers of 2 MiB; only the pages that were touched take memory."""

    def __init__(self, name: str, total_bytes: int) -> None:
        self.name = name
        self.count = max(2, total_bytes // wire.MAX_BLOCK)
        super().__init__(self.count)
        self._free: list[mmap.mmap] = []
        self._portions: weakref.WeakValueDictionary[str, Portion] = weakref.WeakValueDictionary()
        self.on_want: Callable[[Buffers], None] | None = None
        """Called on the hub while somebody waits for a buffer of that portion, or of this pool; must not block."""

    def of(self, whose: str | None) -> Buffers:
        """The pool for one party: it has a half at most, whatever it does on all its connections. None: no limit."""
        if whose is None:
            return self
        portion = self._portions.get(whose)
        if portion is None:
            portion = self._portions[whose] = Portion(self, self.count // 2)
        return portion

    def take(self, wait_s: float = 60.0) -> memoryview:
        """See `Buffers.take`."""
        if not self._enter(wait_s):
            raise errors.Busy(f"all {self.count} {self.name} buffers were in use for {wait_s:g} s; see [node] buffers")
        try:
            # Anonymous mappings, not bytearrays: malloc would keep and fragment freed megabytes.
            return memoryview(self._free.pop() if self._free else mmap.mmap(-1, wire.MAX_BLOCK))
        except OSError as error:
            self._leave()
            raise errors.Busy(f"no memory for one of {self.count} {self.name} buffers: {error.strerror}") from error

    def _want(self) -> None:
        if self.on_want:
            self.on_want(self)

    def give(self, view: memoryview) -> None:
        """See `Buffers.give`."""
        buffer = view.obj
        view.release()
        self._free.append(buffer)  # type: ignore[arg-type]
        self._leave()

    @property
    def in_use(self) -> int:
        """Buffers that somebody holds."""
        return self.count - self._available


class Portion(Turns):
    """A part of a pool; who has all of it waits until it has less."""

    def __init__(self, pool: BufferPool, most: int) -> None:
        super().__init__(most)
        self._pool = pool

    def take(self, wait_s: float = 60.0) -> memoryview:
        """See `Buffers.take`."""
        end = time.monotonic() + wait_s
        if not self._enter(wait_s):
            raise errors.Busy(f"all {self._pool.name} buffers that one party may have were in use for {wait_s:g} s")
        try:
            return self._pool.take(max(0.0, end - time.monotonic()))
        except BaseException:
            self._leave()
            raise

    def _want(self) -> None:
        if self._pool.on_want:
            self._pool.on_want(self)

    def give(self, view: memoryview) -> None:
        """See `Buffers.give`."""
        self._pool.give(view)
        self._leave()


class Room:
    """For so many things at once, which are so big together; one alone may be bigger."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._most = size
        self._left = green.Event()

    def enter(self, size: int) -> None:
        """Wait until there is room for one more, and take it. Whatever has some ends by a deadline of its own."""
        while not self._count or size > self._size < self._most:
            self._left.clear()
            self._left.wait(ROOM_S)
        self._count -= 1
        self._size -= size

    def leave(self, size: int) -> None:
        """Give its room back."""
        self._count += 1
        self._size += size
        self._left.set()
