"""Who changes which block: one thread at a time for each, and how to notice changes without waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

from p2pfs.core.multihash import Multihash, shard_of
from p2pfs.core.placement import SHARDS


class Changes:
    """Thread-safe through operations on dicts and lists that the interpreter makes atomic; no lock is shared.

    Looking is optimistic, as with a sequence lock: take a `mark`, look, and believe what was seen only if the
    mark still holds.
    """

    def __init__(self) -> None:
        self._in_work: dict[Multihash, threading.Lock] = {}
        self._marks: list[object] = [None] * SHARDS

    @contextlib.contextmanager
    def of(self, block: Multihash) -> Iterator[int]:
        """Be the only thread that changes this block; yields its shard."""
        mine = threading.Lock()
        mine.acquire()
        while (other := self._in_work.setdefault(block, mine)) is not mine:
            with other:  # held until the other change is complete
                pass
        shard = shard_of(block)
        self._marks[shard] = mine
        try:
            yield shard
        finally:
            self._marks[shard] = object()
            del self._in_work[block]
            mine.release()

    @contextlib.contextmanager
    def of_all(self, blocks: Iterable[Multihash]) -> Iterator[None]:
        """Be the only thread that changes any of these blocks."""
        with contextlib.ExitStack() as stack:
            # In order: two threads that want the same blocks never wait for each other in a circle.
            for block in sorted(set(blocks)):
                stack.enter_context(self.of(block))
            yield

    def mark(self, shard: int) -> object:
        """Stands for the state of a shard until the next beginning or end of a change in it."""
        return self._marks[shard]

    def is_changing(self, block: Multihash) -> bool:
        """A thread changes this block right now."""
        return block in self._in_work

    def settle(self, shard: int) -> None:
        """Wait until the changes that are under way in the shard are complete."""
        for block, lock in list(self._in_work.items()):
            if shard_of(block) == shard:
                with lock:
                    pass

    def is_quiet_since(self, mark: object, shard: int) -> bool:
        """No change in the shard is under way, or was since the mark was taken."""
        return self._marks[shard] is mark and all(shard_of(block) != shard for block in list(self._in_work))
