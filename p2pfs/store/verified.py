"""The file `scrub` of a data directory: when each shard was last read and hashed as a whole.

    p2pfs scrub 1                 what this is, and the version of its form
    saved 1750000300              Unix time of writing
    000 1750000000                for each shard when its last complete verification began; 0: unknown
    ...
    fff 1749990000
    xxh3 d8a0c2f7e1b35940         over all bytes before this line

Nothing depends on it but which blocks are read again first: a lost one costs work, no more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from p2pfs.core.placement import SHARDS
from p2pfs.store import layout
from p2pfs.store.files import FORMAT_FILE, write_atomically

FILE = "scrub"
_HEAD = b"p2pfs scrub 1"
_MAX_BYTES = 256 * 1024


class Verified(NamedTuple):
    """What is known about the shards of a disk. Times are whole Unix seconds."""

    begun: tuple[int, ...]
    """For each shard when its last complete verification began; 0: unknown."""
    saved_at: int
    problem: str = ""
    """Why the file could not be used; empty when it could, or when there was none."""


def load(data_dir: str | os.PathLike[str]) -> Verified:
    """What the file says. Without a usable one, every shard counts as verified when the data directory was made.

    (No block is older than that, and each one was hashed when it was written.)
    """
    path = os.path.join(data_dir, FILE)
    problem = ""
    try:
        with open(path, "rb") as file:
            return _parse(file.read(_MAX_BYTES))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be used: {error}"
    born = 0
    with contextlib.suppress(OSError):
        born = max(0, int(os.stat(os.path.join(data_dir, FORMAT_FILE)).st_mtime))
    return Verified((born,) * SHARDS, born, problem)


def save(data_dir: str | os.PathLike[str], begun: Sequence[int], saved_at: int) -> None:
    """Replace the file, durably. Raises NoSpace, Busy, Refused; the old one is there then."""
    rows = [b"%s %d\n" % (name.encode(), time) for name, time in zip(layout.SHARD_FOLDERS, begun, strict=True)]
    text = b"%s\nsaved %d\n" % (_HEAD, saved_at) + b"".join(rows)
    write_atomically(os.path.join(data_dir, FILE), text + _checksum(text))


def _checksum(text: bytes) -> bytes:
    return b"xxh3 %s\n" % xxhash.xxh3_64_hexdigest(text).encode()


def _parse(data: bytes) -> Verified:
    """Raises ValueError."""
    text, mark, _ = data.rpartition(b"xxh3 ")
    if not mark or text + _checksum(text) != data:
        raise ValueError("its checksum does not fit")
    head, saved, *rows = text.splitlines()
    if head != _HEAD or len(rows) != SHARDS:
        raise ValueError(f"it begins with {head[:40]!r} and has {len(rows)} shards")
    return Verified(tuple(int(row.split()[1]) for row in rows), int(saved.split()[1]))
