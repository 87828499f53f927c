"""How much is stored, and whether more may be: every byte is reserved before it is written.

Both limits are hard, whatever number of threads writes: `max_size` bounds the bytes of all blocks,
`reserve_free` is what stays free on the file system (inodes are looked at too). What others write to the same
file system between the check and the write cannot be excluded.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import NoReturn

from p2pfs import errors
from p2pfs.store.base import Usage
from p2pfs.store.files import sync_folder, write_atomically

USAGE_FILE = "usage"
"""Written by a clean stop. A start renames it to `usage.old`: those figures are no longer to be relied on."""


class Space:
    """The figures of one data directory. Thread-safe; the lock is never held during disk I/O."""

    def __init__(self, data_dir: str, max_size: int | None, reserve_free: int, is_new: bool) -> None:
        """`is_new`: there are no blocks yet. Sizes in bytes; max_size None for no limit. Raises OSError."""
        self._data_dir = data_dir
        self._max_size = max_size
        self._reserve_free = reserve_free
        self._lock = threading.Lock()
        self._reserved_bytes = 0
        self._reserved_disk_bytes = 0
        self._reserved_files = 0
        self._counted_shards: int | None = None
        self._counted_blocks = self._counted_bytes = 0
        self._blocks, self._bytes, self._is_exact = _load(os.path.join(data_dir, USAGE_FILE), is_new)

    def usage(self) -> Usage:
        """Blocks and bytes that are stored; reserved ones are not."""
        with self._lock:
            return Usage(self._blocks, self._bytes, self._is_exact)

    def set_limits(self, max_size: int | None, reserve_free: int) -> None:
        """Other limits for the reservations to come."""
        with self._lock:
            self._max_size, self._reserve_free = max_size, reserve_free

    @property
    def needs_count(self) -> bool:
        """A limit depends on figures that are not known: count before the next reservation."""
        return self._max_size is not None and not self._is_exact

    def free_bytes(self) -> int:
        """Bytes that may still be reserved. Raises OSError."""
        free = os.statvfs(self._data_dir)
        with self._lock:
            left = free.f_bavail * free.f_frsize - self._reserved_disk_bytes - self._reserve_free
            if self._max_size is not None:
                left = min(left, self._max_size - self._bytes - self._reserved_bytes)
        return max(0, left)

    def reserve(self, size: int) -> None:
        """Promise room for one more block of that size; `keep` or `release` must follow. Raises NoSpace."""
        disk_bytes = _on_disk(size)
        with self._lock:
            used = self._bytes + self._reserved_bytes
            if self._max_size is not None and used + size > self._max_size:
                raise errors.NoSpace(
                    f"no room for {size} bytes: max_size is {self._max_size} and {used} are in use; "
                    "remove something, or raise [storage] max_size"
                )
            self._reserved_bytes += size
            self._reserved_disk_bytes += disk_bytes
            self._reserved_files += 1
            reserved_bytes, reserved_files = self._reserved_disk_bytes, self._reserved_files
        # Asked after reserving: what another thread has written is then either in `free` or still in
        # `reserved`. Two threads may so both be refused the last place; neither can exceed the limit.
        try:
            free = os.statvfs(self._data_dir)
            self._check_disk(free, size, reserved_bytes, reserved_files)
        except BaseException:
            self.release(size)
            raise

    def _check_disk(
        self, free: os.statvfs_result, size: int, reserved_bytes: int, reserved_files: int
    ) -> None:
        free_bytes = free.f_bavail * free.f_frsize
        if free_bytes - reserved_bytes < self._reserve_free:
            _refuse(
                f"no room for {size} bytes: {free_bytes} bytes are free on the disk of {self._data_dir}, "
                f"{reserved_bytes} of them for blocks in work, and reserve_free keeps {self._reserve_free}"
            )
        # f_files is 0 where inodes are not limited (btrfs).
        if free.f_files and free.f_favail < reserved_files:
            _refuse(f"no room for a file: {free.f_favail} inodes are free on the disk of {self._data_dir}")

    def release(self, size: int) -> None:
        """The block that room was reserved for was not written."""
        with self._lock:
            self._unreserve(size)

    def keep(self, shard: int, size: int) -> None:
        """The block that room was reserved for is there."""
        with self._lock:
            self._unreserve(size)
            self._change(shard, 1, size)

    def remove(self, shard: int, size: int) -> None:
        """A block of that size is gone."""
        with self._lock:
            self._change(shard, -1, -size)

    def _unreserve(self, size: int) -> None:
        self._reserved_bytes -= size
        self._reserved_disk_bytes -= _on_disk(size)
        self._reserved_files -= 1

    def _change(self, shard: int, blocks: int, size: int) -> None:
        # Not below zero: a file may have been damaged, or removed by hand, since it was counted.
        self._blocks = max(0, self._blocks + blocks)
        self._bytes = max(0, self._bytes + size)
        if self._counted_shards is not None and shard < self._counted_shards:
            self._counted_blocks += blocks
            self._counted_bytes += size

    # --- counting: shard by shard, beside changes ------------------------------------------------------

    def begin_count(self) -> None:
        """Begin at shard 0."""
        with self._lock:
            self._counted_shards = self._counted_blocks = self._counted_bytes = 0

    def count_shard(self, shard: int, blocks: int, size: int, is_unchanged: Callable[[], bool]) -> bool:
        """What was found in the next shard. False, and nothing counted, when the shard changed meanwhile.

        From here on, changes in this shard are followed; `is_unchanged` is asked under the lock, so none is
        lost.
        """
        with self._lock:
            if not is_unchanged():
                return False
            self._counted_shards = shard + 1
            self._counted_blocks += blocks
            self._counted_bytes += size
            return True

    def end_count(self) -> None:
        """All shards are counted: from now on the figures are exact."""
        with self._lock:
            self._blocks, self._bytes = self._counted_blocks, self._counted_bytes
            self._is_exact = True
            self._counted_shards = None

    def save(self) -> None:
        """At a clean stop: keep the figures for the next start. Raises NoSpace, Busy, Refused."""
        if self._is_exact:
            text = b"%d blocks\n%d bytes\n" % (self._blocks, self._bytes)
            write_atomically(os.path.join(self._data_dir, USAGE_FILE), text)


def _refuse(text: str) -> NoReturn:
    raise errors.NoSpace(f"{text}; remove something, or make room on the disk")


def _on_disk(size: int) -> int:
    """Bytes that a file takes, in blocks of 4 KiB, with one for its place in the folder."""
    return -(-size // 4096) * 4096 + 4096


def _load(path: str, is_new: bool) -> tuple[int, int, bool]:
    if is_new:
        return 0, 0, True
    with contextlib.suppress(FileNotFoundError):
        figures = _parse(path)
        # A rename needs no room, so a full disk cannot keep a node from starting.
        os.rename(path, f"{path}.old")
        sync_folder(os.path.dirname(path))
        if figures:
            return *figures, True
    with contextlib.suppress(FileNotFoundError):
        figures = _parse(f"{path}.old")
        if figures:
            return *figures, False
    return 0, 0, False


def _parse(path: str) -> tuple[int, int] | None:
    with open(path, "rb") as file:
        words = file.read(100).split()
    if len(words) == 4 and words[0].isdigit() and words[2].isdigit() and words[1::2] == [b"blocks", b"bytes"]:
        return int(words[0]), int(words[2])
    return None
