"""Where bad copies go: out of the way, and kept for whoever wants to know what happened to them."""

from __future__ import annotations

import itertools
import os
import stat
import time

from p2pfs.store.blockfile import make_folder
from p2pfs.store.files import disk_error
from p2pfs.store.space import Space

FOLDER = "quarantine"


class Quarantine:
    """The folder of a data directory, and the account that bad copies leave."""

    def __init__(self, data_dir: str, space: Space) -> None:
        self._folder = os.path.join(data_dir, FOLDER)
        self._space = space

    def take(self, path: str, shard: int) -> str:
        """Move a block's file, or what is in its place, here; its new path. Raises OSError.

        Only within a change of the block.
        """
        found = os.lstat(path)
        target = move(path, self._folder)
        if stat.S_ISREG(found.st_mode):
            self._space.remove(shard, found.st_size)
        return target

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
