"""Blocks in memory: the same contract without a disk, for tests and clusters within one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from p2pfs import errors
from p2pfs.core.multihash import Multihash, digest_of, matches, shard_of
from p2pfs.store.ages import stamp_ns
from p2pfs.store.base import Outcome, Seen, Usage, check_block, check_buffer
from p2pfs.store.layout import block_name


class MemoryStore:
    """A `BlockStore` (the contract is there) that forgets everything at its end."""

    def __init__(self, max_size: int | None = None) -> None:
        """`max_size` in bytes, None for no limit."""
        self._lock = threading.Lock()
        self._max_size = max_size
        self._bytes = 0
        self._last_token = 0
        self._blocks: dict[Multihash, tuple[bytes, int]] = {}
        self._bad: list[bytes] = []

    def _renewed(self) -> int:
        # Nanoseconds, and never twice the same: a renewal shows, however fast it follows.
        self._last_token = max(stamp_ns(), self._last_token + 1)
        return self._last_token

    def has(self, block: Multihash, renew: bool = False) -> bool:
        """See `BlockStore.has`."""
        with self._lock:
            found = self._blocks.get(block)
            if found and renew:
                self._blocks[block] = found[0], self._renewed()
            return found is not None

    def seen(self, block: Multihash) -> Seen | None:
        """See `BlockStore.seen`."""
        with self._lock:
            found = self._blocks.get(block)
            return Seen(len(found[0]), found[1]) if found else None

    def size(self, block: Multihash) -> int:
        """See `BlockStore.size`."""
        return len(self._data(block))

    def read(self, block: Multihash, into: memoryview) -> int:
        """See `BlockStore.read`."""
        check_buffer(into)
        data = self._data(block)
        if not matches(block, data):
            with self._lock:
                if block in self._blocks and self._blocks[block][0] is data:
                    self._bad.append(self._take_out(block))
            raise errors.Corrupt(f"block {digest_of(block).hex()} in memory: its bytes do not have that hash")
        into[: len(data)] = data
        return len(data)

    def _data(self, block: Multihash) -> bytes:
        with self._lock:
            if block not in self._blocks:
                raise errors.NotFound(f"block {digest_of(block).hex()} is not in memory")
            return self._blocks[block][0]

    def _take_out(self, block: Multihash) -> bytes:
        data, _ = self._blocks.pop(block)
        self._bytes -= len(data)
        return data

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """See `BlockStore.put`."""
        block_name(block)  # the same names as on a disk, or BadCid
        check_block(block, data, is_verified)
        with self._lock:
            if block in self._blocks:
                there = self._blocks[block][0]
                if len(there) == len(data):
                    self._blocks[block] = there, self._renewed()
                    return None
                self._bad.append(self._take_out(block))
            if self._max_size is not None and self._bytes + len(data) > self._max_size:
                raise errors.NoSpace(
                    f"no room for {len(data)} bytes: {self._bytes} of {self._max_size} are in use"
                )
            token = self._renewed()
            self._blocks[block] = bytes(data), token
            self._bytes += len(data)
            return token

    def put_many(self, blocks: Sequence[tuple[Multihash, memoryview]], is_verified: bool = False) -> list[Outcome]:
        """See `BlockStore.put_many`."""
        outcomes: list[Outcome] = []
        for block, data in blocks:
            try:
                outcomes.append(self.put(block, data, is_verified))
            except errors.P2pfsError as error:
                outcomes.append(error)
        return outcomes

    def discard(self, block: Multihash, token: int) -> bool:
        """See `BlockStore.discard`."""
        with self._lock:
            if block not in self._blocks or self._blocks[block][1] != token:
                return False
            self._take_out(block)
            return True

    def delete(self, block: Multihash) -> bool:
        """See `BlockStore.delete`."""
        with self._lock:
            if block not in self._blocks:
                return False
            self._take_out(block)
            return True

    def iterate(self, shard: int) -> Iterator[Multihash]:
        """See `BlockStore.iterate`."""
        with self._lock:
            found = [block for block in self._blocks if shard_of(block) == shard]
        yield from sorted(found, key=digest_of)

    needs_count = False
    """See `BlockStore.needs_count`."""

    def usage(self) -> Usage:
        """See `BlockStore.usage`."""
        with self._lock:
            return Usage(len(self._blocks), self._bytes, True)

    def recount(self) -> Usage:
        """See `BlockStore.recount`."""
        return self.usage()

    def stop_counting(self) -> None:
        """See `BlockStore.stop_counting`."""

    def free_bytes(self) -> int:
        """See `BlockStore.free_bytes`: without a limit, what would fit on any disk of today."""
        limit = self._max_size if self._max_size is not None else 1 << 60
        return max(0, limit - self.usage().bytes)

    def set_limits(self, max_size: int | None, reserve_free: int) -> None:
        """See `BlockStore.set_limits`; there is no disk that `reserve_free` could be kept on."""
        with self._lock:
            self._max_size = max_size

    def quarantined(self) -> int:
        """See `BlockStore.quarantined`."""
        return len(self._bad)

    def close(self) -> None:
        """See `BlockStore.close`."""
