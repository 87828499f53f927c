"""The truth about a cluster: what lies on its disks, found by walking them.

Nothing here asks a node, and nothing uses p2pfs's own store or status: files are listed and hashed by hand, and the
DAG of a root is walked over them. So what `status` and `explain` say can be held against it. Data directories may be
those of running nodes, but what changes meanwhile is seen as it was at some moment; for the catalog stop the node.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import blake3

from p2pfs import errors
from p2pfs.core import dag
from p2pfs.core.cid import CID
from p2pfs.core.multihash import Multihash

_NAME = re.compile(r"([0-9a-f]{3})/(\1[0-9a-f]{61})(\.blake3)?", re.ASCII)
_PREFIXES = {None: b"\x12\x20", ".blake3": b"\x1e\x20"}

SETTLED_NS = 1_000_000_000

_Mark = tuple[int, int, int]
"""Inode, size and time of the last change of the inode (ns): a file that has the same three was not written to."""


class Disk(NamedTuple):
    """What one data directory holds."""

    name: str
    blocks: dict[Multihash, Path]
    """Valid copies: the bytes have the hash that names the file."""
    bad: list[Path]
    """Files under a block's name whose bytes it does not name: partial, damaged, or no files."""
    foreign: list[Path]
    """What else lies below `blocks`."""
    leftovers: list[Path]
    """Files on their way in: all of `temp`, and *.temp beside the catalog."""
    quarantined: int


class Root(NamedTuple):
    """The copies of all blocks below one root."""

    cid: CID
    blocks: int
    bytes: int
    branches: dict[Multihash, int]
    """Copies of each branch."""
    leaves: dict[Multihash, int]
    lost: list[Multihash]
    """Blocks without a valid copy; what only a lost branch lists is not known and not counted."""

    @property
    def fewest(self) -> int:
        """Copies of the block that has the fewest."""
        return min((*self.branches.values(), *self.leaves.values()), default=0)

    def below(self, leaf_copies: int, branch_copies: int) -> int:
        """Blocks with fewer copies than that."""
        few = [count for count in self.leaves.values() if count < leaf_copies]
        return len(few) + len([count for count in self.branches.values() if count < branch_copies])


class Record(NamedTuple):
    """A row of a catalog, as far as truth is concerned."""

    cid: CID
    name: str
    replicas: int
    stamp: int
    origin: str
    removed: bool


class Truth:
    """Walks disks. One that is kept remembers which files it has hashed, and hashes only what changed since."""

    def __init__(self) -> None:
        self._good: dict[Path, _Mark] = {}

    def disk(self, data_dir: Path, name: str = "", *, rehash: bool = False) -> Disk:
        """The census of one data directory; with `rehash`, every byte is read, whatever was seen before."""
        found = Disk(name or data_dir.name, {}, [], [], list(leftovers(data_dir)), _count(data_dir / "quarantine"))
        root = data_dir / "blocks"
        for path in _files(root):
            named = _NAME.fullmatch(str(path.relative_to(root)))
            if not named:
                found.foreign.append(path)
                continue
            try:
                is_good = self._is_good(path, named[2], named[3], rehash)
            except FileNotFoundError:
                continue  # collected, or quarantined, since it was listed
            if is_good:
                found.blocks[_PREFIXES[named[3]] + bytes.fromhex(named[2])] = path
            else:
                found.bad.append(path)
        return found

    def _is_good(self, path: Path, digest: str, suffix: str | None, rehash: bool) -> bool:
        before = path.lstat()
        if path.is_symlink() or not path.is_file():
            return False
        mark = (before.st_ino, before.st_size, before.st_ctime_ns)
        if not rehash and self._good.get(path) == mark:
            return True
        data = path.read_bytes()
        real = blake3.blake3(data).hexdigest() if suffix else hashlib.sha256(data).hexdigest()
        self._good.pop(path, None)
        # Younger ones might change again without a later time to show for it.
        if real == digest and time.time_ns() - before.st_ctime_ns > SETTLED_NS:
            self._good[path] = mark
        return real == digest


def count_root(disks: Sequence[Disk], root: CID) -> Root:
    """The copies of every block of a DAG. Raises Malformed for one that cannot be walked."""
    root_bytes = _load(disks, root) if not root.is_identity else b""
    branches: dict[Multihash, int] = {}
    leaves: dict[Multihash, int] = {}
    lost: list[Multihash] = []
    size = 0

    def load(cid: CID) -> bytes:
        data = _load(disks, cid)
        if data is None:
            branches[cid.multihash] = 0
            lost.append(cid.multihash)
        return data or b""  # an empty dag-pb block: no links

    for visit in dag.walk(load, root, len(root_bytes or b"")):
        mh = visit.cid.multihash
        if mh in branches:
            continue
        copies = sum(mh in disk.blocks for disk in disks)
        (branches if visit.is_branch else leaves)[mh] = copies
        size += visit.size
        if not copies:
            lost.append(mh)
    return Root(root, len(branches) + len(leaves), size, branches, leaves, lost)


def _load(disks: Sequence[Disk], cid: CID) -> bytes | None:
    path = next((disk.blocks[cid.multihash] for disk in disks if cid.multihash in disk.blocks), None)
    try:
        return path.read_bytes() if path else None
    except FileNotFoundError:
        return None


def catalog(data_dir: Path) -> dict[tuple[CID, str], Record]:
    """All records of a stopped node's catalog, tombstones among them, by CID and name. Raises sqlite3.Error."""
    with tempfile.TemporaryDirectory(prefix="p2pfs-truth-") as folder:
        # A copy: opening the original would fold its log into it, and lock it.
        for path in data_dir.glob("catalog.sqlite*"):
            shutil.copy(path, folder)
        db = sqlite3.connect(Path(folder) / "catalog.sqlite")
        try:
            rows = db.execute("SELECT cid, name, replicas, stamp, origin, removed FROM pins").fetchall()
        finally:
            db.close()
    records = [Record(CID.decode(cid), name, replicas, stamp, origin, bool(removed))
               for cid, name, replicas, stamp, origin, removed in rows]
    return {(record.cid, record.name): record for record in records}


def leftovers(data_dir: Path) -> Iterator[Path]:
    """Files that are, or were when a crash came, on their way in."""
    yield from _files(data_dir / "temp")
    yield from data_dir.glob("*.temp")


def _files(folder: Path) -> Iterator[Path]:
    """Whatever is in the folders of a folder, and what of it is no folder."""
    for first in sorted(folder.iterdir()) if folder.is_dir() else []:
        if first.is_dir() and not first.is_symlink():
            yield from sorted(first.iterdir())
        else:
            yield first


def _count(folder: Path) -> int:
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def main() -> int:
    """`python -m kit.truth [--root=CID]... DATA_DIR...`: the census; exit 1 when something is bad or lost."""
    parser = argparse.ArgumentParser(prog="python -m kit.truth", description="what lies on the disks of some nodes")
    parser.add_argument("data_dirs", type=Path, nargs="+", metavar="DATA_DIR")
    parser.add_argument("--root", action="append", default=[], metavar="CID", help="count the copies of its blocks")
    wanted = parser.parse_args()
    truth = Truth()
    disks = [truth.disk(path, str(path)) for path in wanted.data_dirs]
    for disk in disks:
        print(f"{disk.name}: {len(disk.blocks)} blocks, {len(disk.bad)} bad, {len(disk.foreign)} foreign, "
              f"{len(disk.leftovers)} left over, {disk.quarantined} in quarantine")
        for path in disk.bad + disk.foreign:
            print(f"  {path}")
    is_lost = False
    for text in wanted.root:
        root = count_root(disks, CID.parse(text))
        is_lost |= bool(root.lost)
        print(f"{root.cid}: {root.blocks} blocks, {root.bytes} bytes, fewest copies {root.fewest}, "
              f"lost {len(root.lost)}")
    return 1 if is_lost or any(disk.bad or disk.foreign for disk in disks) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except errors.P2pfsError as error:
        print(f"truth: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
