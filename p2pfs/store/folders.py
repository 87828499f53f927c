"""The folders of a data directory: made when they are missing, and cleared of what a crash left half done."""

from __future__ import annotations

import os

from p2pfs.store import layout
from p2pfs.store.blockfile import make_folder
from p2pfs.store.files import sync_folder


def prepare(data_dir: str) -> None:
    """Make those that are missing, durably, and remove blocks that were on their way in. Raises OSError."""
    blocks, temp = os.path.join(data_dir, layout.BLOCKS), os.path.join(data_dir, layout.TEMP)
    for folder in (os.path.join(data_dir, layout.QUARANTINE), temp, blocks):
        make_folder(folder)
    for name in layout.TEMP_FOLDERS:
        make_folder(os.path.join(temp, name))
    make_shards(blocks)
    sync_folder(data_dir)
    for name in layout.TEMP_FOLDERS:
        _clear(os.path.join(temp, name))


def make_shards(blocks: str) -> None:
    """Make the folders of all shards that are missing, durably. Raises OSError."""
    # All at once, so that no put has to make one and to sync its parent too: 0.1 s, once.
    there = set(os.listdir(blocks))
    missing = [name for name in layout.SHARD_FOLDERS if name not in there]
    for name in missing:
        make_folder(os.path.join(blocks, name))
    if missing:
        sync_folder(blocks)


def _clear(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
