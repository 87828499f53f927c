"""This node's own disk for greenlets: each call is one job in a native thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from p2pfs import errors, green, metrics
from p2pfs.core.multihash import Multihash
from p2pfs.store.base import BlockStore, Usage
from p2pfs.store.jobs import Taken, take_leaf, take_leaf_from

P = ParamSpec("P")
T = TypeVar("T")


class LocalStore:
    """A block store, and the native threads that its calls run in."""

    def __init__(self, store: BlockStore, threads: int) -> None:
        self.store = store
        self.on_corrupt: Callable[[Multihash], None] | None = None
        """Called on the hub, without waiting for anything, when a read found a bad copy: to have it fetched again."""
        self._disk = green.NativePool("disk", threads)

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Any other job on the disk's threads."""
        return self._disk.run(job, *args, **kwargs)

    def read(self, block: Multihash, into: memoryview) -> int:
        """The verified block into the buffer; its length. Raises NotFound, Corrupt."""
        try:
            return self._disk.run(self.store.read, block, into)
        except errors.Corrupt:
            metrics.BLOCKS_CORRUPT.inc()
            if self.on_corrupt is not None:
                self.on_corrupt(block)
            raise

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """Make the block durable; its age token when it is new, None when it was here. Raises NoSpace, Corrupt."""
        token = self._disk.run(self.store.put, block, data, is_verified)
        _count(token, len(data))
        return token

    def take(self, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]) -> Taken:
        """Hash a leaf that is in memory and keep it if it is ours: one job."""
        taken = self._disk.run(take_leaf, self.store, view, hash_code, is_mine)
        _count(taken.token, len(view))
        return taken

    def take_from(
        self, fd: int, offset: int, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]
    ) -> Taken:
        """Read a leaf from a file, hash it and keep it if it is ours: one job."""
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
        self._disk.close()


def _count(token: int | None, length: int) -> None:
    if token is not None:
        metrics.BLOCKS_WRITTEN.inc()
        metrics.BYTES_WRITTEN.inc(length)
