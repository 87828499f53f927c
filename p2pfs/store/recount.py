"""Counting what is stored from the beginning, shard by shard, while blocks come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from p2pfs import errors
from p2pfs.core.placement import SHARDS
from p2pfs.store.changes import Changes
from p2pfs.store.space import Space


class Recount:
    """Makes the figures of a `Space` exact. One at a time runs."""

    def __init__(self, space: Space, changes: Changes, sizes: Callable[[int], Iterable[int]]) -> None:
        """`sizes` are those of the blocks in a shard, in bytes, as a look into its folder finds them."""
        self._space = space
        self._changes = changes
        self._sizes = sizes
        self._counting = threading.Lock()
        self._is_over = False

    def stop(self) -> None:
        """End a count that runs, and begin none any more: on a large disk it may take minutes."""
        self._is_over = True

    def run(self) -> None:
        """Count. Raises what `sizes` raises, and Interrupted after `stop`."""
        with self._counting:
            self._count()

    def run_first(self) -> None:
        """Count, unless another thread has just done so."""
        with self._counting:
            if self._space.needs_count:
                self._count()

    def _count(self) -> None:
        self._space.begin_count()
        for shard in range(SHARDS):
            if self._is_over:
                raise errors.Interrupted("what is stored is not counted any more: the node stops")
            while not self._count_shard(shard):
                self._changes.settle(shard)
        self._space.end_count()

    def _count_shard(self, shard: int) -> bool:
        """False when the shard changed meanwhile."""
        mark = self._changes.mark(shard)
        blocks = size = 0
        for found in self._sizes(shard):
            blocks += 1
            size += found
        return self._space.count_shard(
            shard, blocks, size, is_unchanged=lambda: self._changes.is_quiet_since(mark, shard)
        )
