"""The memory for blocks in flight: a fixed number of buffers, each of the size of the largest block.

This is promise 5 of the design (memory is bounded by the configured window): whoever wants to hold a block takes a
buffer first, and waits for one when all are taken. Two pools exist so that nodes cannot wait for each other in a
circle: one for what this node began itself (it may wait for peers while it holds a buffer), one for answering
peers (it only ever waits for its own disk).
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator

from p2pfs import errors, green
from p2pfs.core import wire

SMALL = 64 * 1024
"""Blocks up to this size need no buffer of a pool: they are ordinary bytes, counted by `small`."""


class BufferPool:
    """At most `count` buffers of 2 MiB; only the pages that were touched take memory."""

    def __init__(self, name: str, total_bytes: int) -> None:
        self.name = name
        self.count = max(2, total_bytes // wire.MAX_BLOCK)
        self._free: list[mmap.mmap] = []
        self._slots = green.Semaphore(self.count)

    def take(self, wait_s: float = 60.0) -> memoryview:
        """A buffer; give it back with `give`. Raises Busy when none became free within `wait_s`."""
        if not self._slots.acquire(timeout=wait_s):
            raise errors.Busy(f"all {self.count} {self.name} buffers were in use for {wait_s:g} s; see [node] buffers")
        # Anonymous mappings, not bytearrays: malloc would keep and fragment freed megabytes.
        return memoryview(self._free.pop() if self._free else mmap.mmap(-1, wire.MAX_BLOCK))

    def try_take(self) -> memoryview | None:
        """A buffer, or None when all are taken."""
        try:
            return self.take(wait_s=0)
        except errors.Busy:
            return None

    def give(self, view: memoryview) -> None:
        """Take a buffer back. The caller must not touch it, or any slice of it, again."""
        buffer = view.obj
        view.release()
        self._free.append(buffer)  # type: ignore[arg-type]
        self._slots.release()

    @contextlib.contextmanager
    def buffer(self, wait_s: float = 60.0) -> Iterator[memoryview]:
        """A buffer for the length of a `with` block."""
        view = self.take(wait_s)
        try:
            yield view
        finally:
            self.give(view)

    @property
    def in_use(self) -> int:
        """Buffers that somebody holds."""
        return self.count - self._slots.counter
