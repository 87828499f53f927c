"""What the catalog wants, gathered block by block while an audit walks it: too much for memory, so on disk if need be.

256 buckets by the first byte of the digest, each one of the parts that an audit compares with the disk (16 shards).
Records wait in memory, 41 bytes each, up to a limit; then all of them are appended to one file a bucket, `bucket-3f`. A
full disk must not stop the audit, which may be about to make room: then they stay in memory, over the limit.

An inventory is of use as long as the process runs: nothing is synced, and files of an earlier one are removed.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import struct
from collections.abc import Container, Iterable, Iterator
from typing import Any

from p2pfs.core.audit import Live
from p2pfs.core.multihash import Multihash
from p2pfs.store.blockfile import ABSENT
from p2pfs.store.files import write_all

BUCKETS = 256
_BLOCK_BYTES = 34
_RECORD = struct.Struct(">34sHI?")
"""The fields of a `Live`."""
_MAX_SIZE = 2**32 - 1
_MAX_COPIES = 2**16 - 1


class Inventory:
    """The live blocks of one walk. Blocking; for one thread at a time."""

    def __init__(self, folder: str | os.PathLike[str], memory_bytes: int = 32 * 1024 * 1024) -> None:
        """`folder` is for this alone; it is made when it is needed, and its bucket files go now. Raises OSError."""
        self._folder = os.fspath(folder)
        self._limit_bytes: float = memory_bytes
        self._waiting = [bytearray() for _ in range(BUCKETS)]
        self._waiting_bytes = 0
        self._written = [0] * BUCKETS
        self._remove_files()

    def add(self, lives: Iterable[Live]) -> None:
        """Enter blocks; one may come any number of times. An error of the disk only costs memory.

        Sizes beyond 4 GiB, which only a false catalog record claims, are kept as that. Raises ValueError for a block
        that no store can hold: an identity hash.
        """
        for live in lives:
            block = live.block
            if len(block) != _BLOCK_BYTES:
                raise ValueError(f"{block.hex()} names no stored block")
            try:
                record = _RECORD.pack(*live)
            except struct.error:
                _, copies, size, is_branch = live
                record = _RECORD.pack(block, min(copies, _MAX_COPIES), min(size, _MAX_SIZE), is_branch)
            self._waiting[block[2]] += record
            self._waiting_bytes += _RECORD.size
            if self._waiting_bytes > self._limit_bytes:
                self._spill()

    def _spill(self) -> None:
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            for bucket in range(BUCKETS):
                self._append(bucket)
        except OSError:
            # From now on without a limit: to try again with each block would take longer than the walk.
            self._limit_bytes = math.inf

    def _append(self, bucket: int) -> None:
        waiting = self._waiting[bucket]
        if not waiting:
            return
        fd = os.open(self._path(bucket), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with memoryview(waiting) as view:
                write_all(fd, view)
        finally:
            os.close(fd)
        # Only now: what a failed attempt wrote is never read, and is still in memory.
        self._written[bucket] += len(waiting)
        self._waiting_bytes -= len(waiting)
        self._waiting[bucket] = bytearray()

    def bucket(self, number: int) -> dict[Multihash, Live]:
        """The blocks of a bucket, each once: with the most copies that were asked for, as a branch if it ever was one.

        Raises OSError when what was written cannot be read.
        """
        lives = list(map(Live._make, self._records(number)))
        found = {live.block: live for live in lives}
        if len(found) < len(lives):
            for live in lives:
                found[live.block] = _merged(live, found[live.block])
        return found

    def find(self, number: int, blocks: Container[Multihash]) -> dict[Multihash, Live]:
        """Of the blocks of a bucket these alone, as `bucket` gives them, in a fraction of its time. Raises OSError."""
        found: dict[Multihash, Live] = {}
        for record in self._records(number):
            if record[0] in blocks:
                live = Live._make(record)
                found[live.block] = _merged(live, found.get(live.block, live))
        return found

    def slices(self, most: int) -> Iterator[list[int]]:
        """The buckets that hold something, several together as long as they are of fewer than `most` records."""
        gathered: list[int] = []
        records = 0
        for number in range(BUCKETS):
            size = (self._written[number] + len(self._waiting[number])) // _RECORD.size
            if gathered and size and records + size > most:
                yield gathered
                gathered, records = [], 0
            if size:
                gathered.append(number)
                records += size
        if gathered:
            yield gathered

    def _records(self, number: int) -> Iterator[tuple[Any, ...]]:
        written, waiting = self._read(number), self._waiting[number]
        return itertools.chain(_RECORD.iter_unpack(written), _RECORD.iter_unpack(waiting))

    def _read(self, bucket: int) -> bytes:
        length = self._written[bucket]
        if not length:
            return b""
        with open(self._path(bucket), "rb") as file:
            data = file.read(length)
        if len(data) != length:
            raise OSError(f"{self._path(bucket)} has {len(data)} bytes, and {length} were written")
        return data

    def _path(self, bucket: int) -> str:
        return os.path.join(self._folder, f"bucket-{bucket:02x}")

    def close(self) -> None:
        """Forget everything and remove the files. Raises OSError."""
        self._waiting = [bytearray() for _ in range(BUCKETS)]
        self._waiting_bytes = 0
        self._written = [0] * BUCKETS
        self._remove_files()

    def _remove_files(self) -> None:
        if not os.path.isdir(self._folder):
            return
        for bucket in range(BUCKETS):
            with contextlib.suppress(*ABSENT):
                os.unlink(self._path(bucket))
        with contextlib.suppress(OSError):  # somebody has put something into it
            os.rmdir(self._folder)


def _merged(live: Live, other: Live) -> Live:
    """What two records want of a block together."""
    block, copies, size, is_branch = live
    return Live(block, max(copies, other.copies), max(size, other.size), is_branch or other.is_branch)
