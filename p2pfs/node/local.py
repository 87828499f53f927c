"""This node's own disk for greenlets: each call is one job in a native thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from p2pfs import errors, green, metrics
from p2pfs.core.multihash import Multihash
from p2pfs.node.batcher import Batcher
from p2pfs.node.buffers import SMALL
from p2pfs.store.base import BlockStore, Outcome, Usage
from p2pfs.store.jobs import Taken, read_small, take_leaf, take_leaf_from

P = ParamSpec("P")
T = TypeVar("T")
Block = tuple[Multihash, memoryview]

SMALL_BATCH = 64
"""Small blocks of ours that are written by one job; a member may send up to `batches.MOST`. So many files are open."""
BATCHES = 4
"""Such jobs at once. While some wait for the disk, others hash, and more gather for the next."""
DISK_S = 300.0
"""Until a disk that hangs is given up."""


class LocalStore:
    """A block store, and the native threads that its calls run in."""

    def __init__(self, store: BlockStore, threads: int) -> None:
        self.store = store
        self.on_corrupt: Callable[[Multihash], None] | None = None
        """Called on the hub, without waiting for anything, when a read found a bad copy: to have it fetched again."""
        self._disk = green.NativePool("disk", threads)
        self._group = green.Group("local")
        self._small_puts: Batcher[Block, int | None] = Batcher(
            self._group, "put", self.put_many, SMALL_BATCH, BATCHES
        )
        self._batches = green.Semaphore(BATCHES)
        self._counting = green.Semaphore(1)

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Any other job on the disk's threads."""
        return self._disk.run(job, *args, **kwargs)

    def read(self, block: Multihash, into: memoryview) -> int:
        """The verified block into the buffer; its length. Raises NotFound, Corrupt."""
        try:
            return self._disk.run(self.store.read, block, into)
        except errors.Corrupt:
            self._found_corrupt(block)
            raise

    def read_small(self, blocks: Sequence[Multihash], scratch: memoryview) -> list[bytes | errors.P2pfsError]:
        """The verified blocks, one job for all, or why not (`jobs.read_small`). `scratch` is a buffer of a pool."""
        found = self._disk.run(read_small, self.store, blocks, scratch)
        for block, outcome in zip(blocks, found, strict=True):
            if isinstance(outcome, errors.Corrupt):
                self._found_corrupt(block)
        return found

    def _found_corrupt(self, block: Multihash) -> None:
        metrics.BLOCKS_CORRUPT.inc()
        if self.on_corrupt is not None:
            self.on_corrupt(block)

    def count(self) -> None:
        """Count what is stored, in one of the threads. Raises Busy, and what looking at the disk raises."""
        self._count_in_turn(lambda: True, DISK_S)

    def await_count(self, wait_s: float = DISK_S) -> None:
        """Before a block is kept, and better before a buffer is taken for it: until it is known whether there is room.

        Greenlets wait here: threads would all wait for the one that counts, minutes on a large disk, and nobody could
        read meanwhile. Raises as `count`.
        """
        if self.store.needs_count:
            self._count_in_turn(lambda: self.store.needs_count, wait_s)

    def _count_in_turn(self, is_needed: Callable[[], bool], wait_s: float) -> None:
        if not self._counting.acquire(timeout=wait_s):
            raise errors.Busy("what is stored here is being counted, after an unclean stop; try again in a moment")
        try:
            if is_needed():
                self._disk.run(self.store.recount)
        finally:
            self._counting.release()

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """Make the block durable; its age token when it is new, None when it was here.

        Raises NoSpace, Corrupt, Busy.
        """
        self.await_count()
        if len(data) <= SMALL:
            return self._small_puts.ask((block, memoryview(bytes(data))), DISK_S)
        token = self._disk.run(self.store.put, block, data, is_verified)
        _count(token, len(data))
        return token

    def put_many(self, blocks: Sequence[Block]) -> list[Outcome]:
        """As `put`, for several small blocks: one job; what became of each. Raises Busy."""
        self.await_count()
        if not self._batches.acquire(timeout=DISK_S):
            raise errors.Busy(f"{BATCHES} batches of small blocks have been waiting for the disk for {DISK_S:g} s")
        try:
            outcomes = self._disk.run(self.store.put_many, blocks)
        finally:
            self._batches.release()
        for (_, data), outcome in zip(blocks, outcomes, strict=True):
            if isinstance(outcome, int):
                _count(outcome, len(data))
        return outcomes

    def take(self, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]) -> Taken:
        """Hash a leaf that is in memory and keep it if it is ours: one job, or part of one."""
        self.await_count()
        if len(view) <= SMALL:
            return take_leaf(self, view, hash_code, is_mine)  # to hash it takes microseconds: less than a job
        taken = self._disk.run(take_leaf, self.store, view, hash_code, is_mine)
        _count(taken.token, len(view))
        return taken

    def take_from(
        self, fd: int, offset: int, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]
    ) -> Taken:
        """Read a leaf from a file, hash it and keep it if it is ours: one job."""
        self.await_count()
        taken = self._disk.run(take_leaf_from, fd, offset, self.store, view, hash_code, is_mine)
        _count(taken.token, len(view))
        return taken

    def have(self, blocks: Sequence[Multihash], renew: bool = False) -> list[bool]:
        """Which of these are here; one job for all."""
        return self._disk.run(lambda: [self.store.has(block, renew) for block in blocks])

    def discard(self, blocks: Sequence[tuple[Multihash, int]]) -> int:
        """Take back blocks that nobody asked for since they were put; one job. How many went."""
        return self._disk.run(lambda: sum(self.store.discard(block, token) for block, token in blocks))

    def usage(self) -> Usage:
        """What is stored."""
        return self.store.usage()

    def close(self) -> None:
        """End the threads."""
        self._group.close()
        self._disk.close()


def _count(token: int | None, length: int) -> None:
    if token is not None:
        metrics.BLOCKS_WRITTEN.inc()
        metrics.BYTES_WRITTEN.inc(length)
