"""Blocks as files (see `layout` for where they lie).

Durability follows the order write, fsync of the file, rename, fsync of the folder; a block counts after the
last of them. A crash leaves at most a file in `temp`, which the next start removes. Nothing is cached: what
`ls` shows is what there is.

All changes to one block are made by one thread at a time (`changes`); other blocks do not wait for it.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from p2pfs import errors
from p2pfs.core.multihash import Multihash, matches, shard_of
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import blockfile, layout, quarantine
from p2pfs.store.base import Seen, Usage, check_block, check_buffer
from p2pfs.store.blockfile import ABSENT
from p2pfs.store.changes import Changes
from p2pfs.store.files import disk_error, sync_folder
from p2pfs.store.space import Space

T = TypeVar("T")
_NOT_THE_FILES_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class DiskStore:
    """A `BlockStore` (the contract is there) in a data directory that this process holds the lock of."""

    def __init__(
        self, data_dir: str | os.PathLike[str], max_size: int | None = None, reserve_free: int = 0
    ) -> None:
        """Open, or lay out, the store. Sizes in bytes, max_size None for no limit.

        Raises NoSpace, Busy, Refused.
        """
        self._data_dir = os.path.abspath(data_dir)
        self._blocks = os.path.join(self._data_dir, layout.BLOCKS)
        self._quarantine = os.path.join(self._data_dir, quarantine.FOLDER)
        self._temp = os.path.join(self._data_dir, layout.TEMP)
        self._numbers = itertools.count()
        self._changes = Changes()
        self._counting = threading.Lock()
        try:
            is_new = not os.path.exists(self._blocks)
            self._make_folders()
            self._clear_temp()
            self._space = Space(self._data_dir, max_size, reserve_free, is_new)
            if not is_new and not self._space.usage().is_exact:
                # After an unclean stop: a block may have got its name without its folder having been synced. From now
                # on `has` says that it is here, so it has to be.
                os.sync()
        except OSError as error:
            raise disk_error(f"cannot open the block store {self._data_dir}", error) from error

    def _make_folders(self) -> None:
        for folder in (self._quarantine, self._temp, self._blocks):
            blockfile.make_folder(folder)
        for name in layout.TEMP_FOLDERS:
            blockfile.make_folder(os.path.join(self._temp, name))
        self._make_shard_folders()
        sync_folder(self._data_dir)

    def _make_shard_folders(self) -> None:
        # All at once, so that no put has to make one and to sync its parent too: 0.1 s, once.
        there = set(os.listdir(self._blocks))
        missing = [name for name in layout.SHARD_FOLDERS if name not in there]
        for name in missing:
            blockfile.make_folder(os.path.join(self._blocks, name))
        if missing:
            sync_folder(self._blocks)

    def _clear_temp(self) -> None:
        for name in layout.TEMP_FOLDERS:
            with os.scandir(os.path.join(self._temp, name)) as entries:
                for entry in entries:
                    os.unlink(entry.path)

    def _path(self, block: Multihash) -> str:
        name = layout.block_name(block)
        return f"{self._blocks}/{name[:3]}/{name}"

    # --- looking -------------------------------------------------------------------------------------

    def has(self, block: Multihash, renew: bool = False) -> bool:
        """See `BlockStore.has`. One system call."""
        return self._look_at(block, blockfile.renew if renew else os.stat) is not None

    def seen(self, block: Multihash) -> Seen | None:
        """See `BlockStore.seen`. One system call. What is no file is no block."""
        found = self._look_at(block, os.stat)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return Seen(found.st_size, blockfile.token(found.st_mtime_ns))

    def _look_at(self, block: Multihash, look: Callable[[str], T]) -> T | None:
        path, shard = self._path(block), shard_of(block)
        while True:
            mark = self._changes.mark(shard)
            try:
                found = look(path)
            except ABSENT:
                return None
            except OSError as error:
                raise disk_error(f"cannot look at {path}", error) from error
            # A file whose folder is not synced yet is no durable block; one that a removal had looked at
            # before it was renewed is about to go. Both are changing, or were and have left their mark.
            if self._changes.is_changing(block):
                return None
            if self._changes.mark(shard) is mark:
                return found

    def size(self, block: Multihash) -> int:
        """See `BlockStore.size`."""
        found = _look(self._path(block))
        if found is None:
            raise _not_found(block)
        return found.st_size

    def read(self, block: Multihash, into: memoryview) -> int:
        """See `BlockStore.read`."""
        check_buffer(into)
        path = self._path(block)
        inode = None
        try:
            # Not blocking: a FIFO in place of a block must not stop the thread.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                found = os.fstat(fd)
                length = blockfile.read(fd, into[:MAX_BLOCK])
                # A FIFO gives no bytes, which is what an empty block is.
                if length is not None and stat.S_ISREG(found.st_mode) and matches(block, into[:length]):
                    return length
                inode, why = found.st_ino, "its bytes do not have the hash that names it"
            finally:
                os.close(fd)
        except ABSENT:
            raise _not_found(block) from None
        except OSError as error:
            if error.errno in _NOT_THE_FILES_FAULT:
                raise disk_error(f"cannot read {path}", error) from error
            why = f"it cannot be read: {error.strerror}"
        raise errors.Corrupt(f"block {path}: {why}; {self._condemn(block, path, inode)}")

    def iterate(self, shard: int) -> Iterator[Multihash]:
        """See `BlockStore.iterate`."""
        yield from (block for _, block in sorted(self._list(shard)))

    def _list(self, shard: int) -> list[tuple[str, Multihash]]:
        """(path, block) of every file in a shard's folder that has the name of a block."""
        folder = layout.SHARD_FOLDERS[shard]
        path = os.path.join(self._blocks, folder)
        try:
            names = os.listdir(path)
        except ABSENT:
            return []
        except OSError as error:
            raise disk_error(f"cannot list {path}", error) from error
        blocks = ((name, layout.parse_name(name)) for name in names if name.startswith(folder))
        return [(f"{path}/{name}", block) for name, block in blocks if block]

    # --- changing ------------------------------------------------------------------------------------

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """See `BlockStore.put`."""
        path, size = self._path(block), len(data)
        check_block(block, data, is_verified)
        if self._space.needs_count:
            self._count_first()
        try:
            with self._changes.of(block) as shard:
                if self._is_whole(path, shard, size):
                    return None
                self._space.reserve(size)
                try:
                    token = self._write(path, data)
                except BaseException:
                    self._space.release(size)
                    raise
                self._space.keep(shard, size)
                return token
        except OSError as error:
            # Whatever the reason is, this disk takes no block now, and the writer has to find another.
            raise errors.NoSpace(
                f"cannot write block {path}: {error.strerror}; look at the disk, its permissions and the "
                "kernel's log"
            ) from error

    def _is_whole(self, path: str, shard: int, size: int) -> bool:
        """Renew the block if it is here. What is in its place and cannot be it goes to quarantine."""
        try:
            blockfile.renew(path)
            found = os.stat(path)
        except ABSENT:
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return True
        self._move_to_quarantine(path, shard)
        return False

    def _write(self, path: str, data: memoryview) -> int:
        first_digit = os.path.basename(path)[0]
        return blockfile.write(path, f"{self._temp}/{first_digit}/{next(self._numbers)}", data)

    def discard(self, block: Multihash, token: int) -> bool:
        """See `BlockStore.discard`."""
        return self._remove(block, token)

    def delete(self, block: Multihash) -> bool:
        """See `BlockStore.delete`."""
        return self._remove(block, None)

    def _remove(self, block: Multihash, token: int | None) -> bool:
        path = self._path(block)
        try:
            with self._changes.of(block) as shard:
                found = os.stat(path)
                if token is not None and found.st_mtime_ns != token:
                    return False
                if not stat.S_ISREG(found.st_mode):
                    self._move_to_quarantine(path, shard)
                    return True
                os.unlink(path)
                self._space.remove(shard, found.st_size)
                return True
        except ABSENT:
            return False
        except OSError as error:
            raise disk_error(f"cannot remove {path}", error) from error

    # --- bad copies ----------------------------------------------------------------------------------

    def _condemn(self, block: Multihash, path: str, inode: int | None) -> str:
        """Quarantine the file that was read, unless a good one has taken its place; says what was done."""
        try:
            with self._changes.of(block) as shard:
                if inode is not None and os.stat(path).st_ino != inode:
                    return "it was replaced meanwhile"
                return f"moved to {self._move_to_quarantine(path, shard)}"
        except ABSENT:
            return "it was removed meanwhile"
        except OSError as error:
            return f"it could not be moved to quarantine ({error.strerror}), move it out of the way by hand"

    def _move_to_quarantine(self, path: str, shard: int) -> str:
        """Only within a change of the block. Raises OSError."""
        found = os.lstat(path)
        target = quarantine.move(path, self._quarantine)
        if stat.S_ISREG(found.st_mode):
            self._space.remove(shard, found.st_size)
        return target

    def quarantined(self) -> int:
        """See `BlockStore.quarantined`."""
        try:
            return len(os.listdir(self._quarantine))
        except OSError as error:
            raise disk_error(f"cannot list {self._quarantine}", error) from error

    # --- figures -------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """See `BlockStore.usage`."""
        return self._space.usage()

    def free_bytes(self) -> int:
        """See `BlockStore.free_bytes`."""
        try:
            return self._space.free_bytes()
        except OSError as error:
            raise disk_error(f"cannot look at the disk of {self._data_dir}", error) from error

    def set_limits(self, max_size: int | None, reserve_free: int) -> None:
        """See `BlockStore.set_limits`."""
        self._space.set_limits(max_size, reserve_free)

    def recount(self) -> Usage:
        """See `BlockStore.recount`. Takes seconds for a million blocks; run it once after a start."""
        with self._counting:
            self._count()
        return self._space.usage()

    def _count_first(self) -> None:
        with self._counting:
            if self._space.needs_count:
                self._count()

    def _count(self) -> None:
        self._space.begin_count()
        for shard in range(layout.SHARDS):
            while not self._count_shard(shard):
                self._changes.settle(shard)
        self._space.end_count()

    def _count_shard(self, shard: int) -> bool:
        mark = self._changes.mark(shard)
        blocks = size = 0
        for path, _ in self._list(shard):
            found = _look(path)
            if found and stat.S_ISREG(found.st_mode):
                blocks += 1
                size += found.st_size
        return self._space.count_shard(
            shard, blocks, size, is_unchanged=lambda: self._changes.is_quiet_since(mark, shard)
        )

    def close(self) -> None:
        """See `BlockStore.close`. Keeps the figures, so that the next start knows them."""
        self._space.save()


def _look(path: str) -> os.stat_result | None:
    try:
        return blockfile.look(path)
    except OSError as error:
        raise disk_error(f"cannot look at {path}", error) from error


def _not_found(block: Multihash) -> errors.NotFound:
    return errors.NotFound(f"block {layout.block_name(block)} is not on this disk")
