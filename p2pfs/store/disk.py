"""Blocks as files (see `layout` for where they lie).

Durability follows the order write, fsync of the file, rename, fsync of the folder; a block counts after the
last of them. Small blocks take these steps together (`put_many`). A crash leaves files in `temp` at most, which the
next start removes. Nothing is cached: what `ls` shows is what there is.

All changes to one block are made by one thread at a time (`changes`); other blocks do not wait for it.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from p2pfs import errors
from p2pfs.core.multihash import Multihash, matches, shard_of
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import blockfile, folders, layout
from p2pfs.store.base import Outcome, Seen, Usage, check_block, check_buffer
from p2pfs.store.blockfile import ABSENT, NewFile
from p2pfs.store.changes import Changes
from p2pfs.store.files import LIMIT_ADVICE, disk_error
from p2pfs.store.quarantine import Quarantine
from p2pfs.store.recount import Recount
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
        self._temp = os.path.join(self._data_dir, layout.TEMP)
        self._numbers = itertools.count()
        self._changes = Changes()
        try:
            is_new = not os.path.exists(self._blocks)
            folders.prepare(self._data_dir)
            self._space = Space(self._data_dir, max_size, reserve_free, is_new)
            self._quarantine = Quarantine(self._data_dir, self._space, self._changes)
            self._recount = Recount(self._space, self._changes, self._sizes)
            if not is_new and not self._space.usage().is_exact:
                # After an unclean stop: a block may have got its name without its folder having been synced. From now
                # on `has` says that it is here, so it has to be.
                os.sync()
        except OSError as error:
            raise disk_error(f"cannot open the block store {self._data_dir}", error) from error

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
        raise self._quarantine.condemn(block, path, inode, why)

    def iterate(self, shard: int) -> Iterator[Multihash]:
        """See `BlockStore.iterate`."""
        yield from filter(None, map(layout.parse_name, sorted(self._list(shard))))

    def _list(self, shard: int) -> list[str]:
        """The names in a shard's folder that may be those of its blocks."""
        folder = layout.SHARD_FOLDERS[shard]
        path = os.path.join(self._blocks, folder)
        try:
            return [name for name in os.listdir(path) if name.startswith(folder)]
        except ABSENT:
            return []
        except OSError as error:
            raise disk_error(f"cannot list {path}", error) from error

    # --- changing ------------------------------------------------------------------------------------

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """See `BlockStore.put`."""
        (outcome,) = self.put_many([(block, data)], is_verified)
        if isinstance(outcome, errors.P2pfsError):
            raise outcome
        return outcome

    def put_many(self, blocks: Sequence[tuple[Multihash, memoryview]], is_verified: bool = False) -> list[Outcome]:
        """See `BlockStore.put_many`."""
        if self._space.needs_count:
            self._recount.run_first()
        outcomes: list[Outcome] = [self._refusal(block, data, is_verified) for block, data in blocks]
        left = [number for number, refusal in enumerate(outcomes) if refusal is None]
        while left:
            # What comes twice comes for two: the second finds it here, and renews it, so that neither takes it back
            # from the other.
            now = {blocks[number][0]: number for number in reversed(left)}
            with self._changes.of_all(now):
                written = self._write_absent({block: blocks[number][1] for block, number in now.items()})
            for block, number in now.items():
                outcomes[number] = written[block]
            left = [number for number in left if now[blocks[number][0]] != number]
        return outcomes

    def _refusal(self, block: Multihash, data: memoryview, is_verified: bool) -> errors.P2pfsError | None:
        try:
            self._path(block)
            check_block(block, data, is_verified)
        except errors.P2pfsError as error:
            return error
        return None

    def _write_absent(self, blocks: dict[Multihash, memoryview]) -> dict[Multihash, Outcome]:
        """Write those of these blocks that are not here. Only within a change of all of them."""
        outcomes: dict[Multihash, Outcome] = {}
        files: dict[Multihash, NewFile] = {}
        try:
            for block, data in blocks.items():
                outcome = self._new_file(block, data)
                if isinstance(outcome, NewFile):
                    files[block] = outcome
                else:
                    outcomes[block] = outcome
            blockfile.write_files(list(files.values()))
            for block in list(files):
                outcomes[block] = self._settle(block, files.pop(block))
            return outcomes
        finally:
            for file in files.values():
                self._space.release(file.size)

    def _new_file(self, block: Multihash, data: memoryview) -> NewFile | errors.NoSpace | None:
        """The file to write, with room reserved for it; None when the block is here, and young now."""
        path = self._path(block)
        try:
            if self._is_whole(path, shard_of(block), len(data)):
                return None
            self._space.reserve(len(data))
        except errors.NoSpace as refusal:
            return refusal
        except OSError as error:
            return _cannot_write(path, error)
        return NewFile(path, f"{self._temp}/{os.path.basename(path)[0]}/{next(self._numbers)}", data)

    def _settle(self, block: Multihash, file: NewFile) -> int | errors.NoSpace:
        if file.error is None:
            self._space.keep(shard_of(block), file.size)
            return file.token
        self._space.release(file.size)
        return _cannot_write(file.path, file.error)

    def _is_whole(self, path: str, shard: int, size: int) -> bool:
        """Renew the block if it is here. What is in its place and cannot be it goes to quarantine."""
        try:
            blockfile.renew(path)
            found = os.stat(path)
        except ABSENT:
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return True
        self._quarantine.take(path, shard)
        return False

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
                    self._quarantine.take(path, shard)
                    return True
                os.unlink(path)
                self._space.remove(shard, found.st_size)
                return True
        except ABSENT:
            return False
        except OSError as error:
            raise disk_error(f"cannot remove {path}", error) from error

    # --- figures -------------------------------------------------------------------------------------

    @property
    def needs_count(self) -> bool:
        """See `BlockStore.needs_count`: after an unclean stop, with a `max_size`."""
        return self._space.needs_count

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
        self._recount.run()
        return self._space.usage()

    def stop_counting(self) -> None:
        """See `BlockStore.stop_counting`."""
        self._recount.stop()

    def _sizes(self, shard: int) -> Iterator[int]:
        """Of the blocks of a shard, in bytes."""
        for block in self.iterate(shard):
            found = _look(self._path(block))
            if found and stat.S_ISREG(found.st_mode):
                yield found.st_size

    def quarantined(self) -> int:
        """See `BlockStore.quarantined`."""
        return self._quarantine.count()

    def close(self) -> None:
        """See `BlockStore.close`. Keeps the figures, so that the next start knows them."""
        self._space.save()


def _look(path: str) -> os.stat_result | None:
    try:
        return blockfile.look(path)
    except OSError as error:
        raise disk_error(f"cannot look at {path}", error) from error


def _cannot_write(path: str, error: OSError) -> errors.NoSpace:
    # Whatever the reason is, this disk takes no block now, and the writer has to find another.
    is_limit = error.errno in (errno.EMFILE, errno.ENFILE)
    advice = LIMIT_ADVICE if is_limit else "look at the disk, its permissions and the kernel's log"
    return errors.NoSpace(f"cannot write block {path}: {error.strerror}; {advice}")


def _not_found(block: Multihash) -> errors.NotFound:
    return errors.NotFound(f"block {layout.block_name(block)} is not on this disk")
