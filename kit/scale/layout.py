"""Data directories with very many blocks or pins, made without storing: nothing is synced, they are for one run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from p2pfs.core.cid import CID, RAW
from p2pfs.core.layout import BalancedLayout, Link
from p2pfs.core.multihash import SHA2_256, digest_of, multihash
from p2pfs.core.pins import Pin
from p2pfs.core.profile import profile
from p2pfs.store.catalog import Catalog
from p2pfs.store.layout import SHARD_FOLDERS

LEAF_BYTES = 32
CACHE_KIB = 1024 * 1024
ROOTS = 10_000
"""Distinct one-block files that many pins name, so that a million pins do not need a million files."""


def write_block(data_dir: Path, cid: CID, data: bytes) -> None:
    """A block where a node looks for it. The shard folders are there."""
    name = digest_of(cid.multihash).hex()
    fd = os.open(f"{data_dir}/blocks/{name[:3]}/{name}", os.O_WRONLY | os.O_CREAT, 0o440)
    os.write(fd, data)
    os.close(fd)


def make_folders(data_dir: Path) -> None:
    """The shard folders."""
    for name in SHARD_FOLDERS:
        (data_dir / "blocks" / name).mkdir(parents=True, exist_ok=True)


def file_of(blocks: int) -> tuple[CID, Iterator[tuple[CID, bytes]]]:
    """The root of a file of so many small leaves of random bytes, and all blocks of it, the branches last."""
    chosen, layout = profile(), BalancedLayout(profile())
    leaves = [os.urandom(LEAF_BYTES) for _ in range(blocks)]
    names = [CID(RAW, multihash(chosen.hash_code, data)) for data in leaves]
    branches = [branch for name, data in zip(names, leaves, strict=True)
                for branch in layout.add(Link(name, len(data), len(data)))]
    root, rest = layout.finish()
    written = [(branch.cid, branch.data) for branch in [*branches, *rest]]
    return root.cid, iter([*zip(names, leaves, strict=True), *written])


def fill_blocks(data_dirs: list[Path], blocks: int, replicas: int) -> None:
    """One file of so many blocks, whole in each of these data directories, and its pin."""
    root, written = file_of(blocks)
    for data_dir in data_dirs:
        make_folders(data_dir)
    for cid, data in written:
        for data_dir in data_dirs:
            write_block(data_dir, cid, data)
    for data_dir in data_dirs:
        with_pins(data_dir, [Pin(root, "many", blocks * LEAF_BYTES, None, replicas, blocks, *_times(0), "bench")])


def fill_pins(data_dir: Path, pins: int) -> None:
    """So many pins of small files."""
    make_folders(data_dir)
    roots = []
    for _ in range(min(ROOTS, pins)):
        data = os.urandom(LEAF_BYTES)
        roots.append(CID(RAW, multihash(SHA2_256, data)))
        write_block(data_dir, roots[-1], data)
    with_pins(data_dir, some_pins(pins, roots))


def some_pins(count: int, roots: list[CID], first: int = 0) -> Iterator[Pin]:
    """Pins of these roots, as a directory tree of files would be named."""
    for number in range(first, first + count):
        root = roots[number % len(roots)]
        name = f"some/folder/of-files/file-{number:07}.bin"
        yield Pin(root, name, LEAF_BYTES, digest_of(root.multihash).hex(), 1, 1, *_times(number), "o" * 52)


def with_pins(data_dir: Path, pins: Iterator[Pin] | list[Pin]) -> None:
    """Add pins to the catalog of a node that does not run."""
    catalog = Catalog(data_dir / "catalog.sqlite")
    catalog._db.execute("PRAGMA synchronous = OFF")
    catalog._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    catalog.merge(pins)
    catalog.close()


def _times(number: int) -> tuple[int, int]:
    """When a pin was created, and its stamp."""
    now_s = int(time.time())
    return now_s, (now_s * 1000 << 16) + number
