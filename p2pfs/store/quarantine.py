"""Where bad copies go: out of the way, and kept for whoever wants to know what happened to them."""

from __future__ import annotations

import itertools
import os
import stat
import time

from p2pfs import errors
from p2pfs.core.multihash import Multihash
from p2pfs.store import layout
from p2pfs.store.blockfile import ABSENT, make_folder
from p2pfs.store.changes import Changes
from p2pfs.store.files import disk_error
from p2pfs.store.space import Space


class Quarantine:
    """The folder of a data directory, and the account that bad copies leave."""

    def __init__(self, data_dir: str, space: Space, changes: Changes) -> None:
        self._folder = os.path.join(data_dir, layout.QUARANTINE)
        self._space = space
        self._changes = changes

    def take(self, path: str, shard: int) -> str:
        """Move a block's file, or what is in its place, here; its new path. Raises OSError.

        Only within a change of the block.
        """
        found = os.lstat(path)
        target = move(path, self._folder)
        if stat.S_ISREG(found.st_mode):
            self._space.remove(shard, found.st_size)
        return target

    def condemn(self, block: Multihash, path: str, inode: int | None, why: str) -> errors.Corrupt:
        """Quarantine the file that was read, unless a good one has taken its place; the error that says so."""
        is_in_place = False
        try:
            with self._changes.of(block) as shard:
                if inode is not None and os.stat(path).st_ino != inode:
                    done = "it was replaced meanwhile"
                else:
                    done = f"moved to {self.take(path, shard)}"
        except OSError as error:
            # What is absent may be the place that it was to go to.
            if isinstance(error, ABSENT) and not os.path.lexists(path):
                done = "it was removed meanwhile"
            else:
                is_in_place = True
                done = f"it could not be moved to quarantine ({error.strerror}), move it out of the way by hand"
        found = errors.Corrupt(f"block {path}: {why}; {done}")
        found.is_in_place = is_in_place
        return found

    def count(self) -> int:
        """How many bad copies are here. Raises NoSpace, Busy, Refused."""
        try:
            return len(os.listdir(self._folder))
        except FileNotFoundError:  # somebody removed the folder
            return 0
        except OSError as error:
            raise disk_error(f"cannot list {self._folder}", error) from error


def move(path: str, folder: str) -> str:
    """Move a file, or whatever it is, to `<name>.<Unix time>` in the folder; the new path. Raises OSError.

    One thread at a time for each name. Nothing that is there already is replaced.
    """
    base = os.path.join(folder, f"{os.path.basename(path)}.{int(time.time())}")
    target = base
    for number in itertools.count(1):
        if not os.path.lexists(target):
            break
        target = f"{base}-{number}"
    try:
        os.rename(path, target)
    except FileNotFoundError:
        if not os.path.lexists(path):
            raise
        make_folder(folder)  # somebody removed it
        os.rename(path, target)
    return target
