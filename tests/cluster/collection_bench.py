"""What the state machine of test_collection_machine works on: three nodes that last, and files that share blocks."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

from kit.cluster import Cluster, Node
from p2pfs import Client

KIB = 1024
TILE_BYTES = 256 * KIB
"""One leaf each."""
GRACE_S = 2.0
COPIES = 2

FILES = {"leaf": "", "ab": "xab", "ac": "ayc", "bca": "bcaz"}
"""Files by name, and the tiles that they begin with: they share some, and each has one for itself."""
FOLDERS = {"folder": ("leaf", "ab"), "other": ("ac", "ab", "bca")}


def tile_of(salt: str, tile: str) -> bytes:
    return random.Random(f"{salt} {tile}").randbytes(TILE_BYTES)


def bytes_of(salt: str, name: str) -> bytes:
    """The content of a file; other bytes for each salt."""
    return b"".join(tile_of(salt, tile) for tile in FILES[name]) + random.Random(f"{salt} {name}").randbytes(1000)


def write_content(folder: Path, salt: str) -> dict[str, Path]:
    """All that a machine may store, by name."""
    paths = {name: folder / name for name in (*FILES, *FOLDERS)}
    for name in FILES:
        paths[name].write_bytes(bytes_of(salt, name))
    for name, inside in FOLDERS.items():
        paths[name].mkdir()
        for file in inside:
            (paths[name] / file).write_bytes(bytes_of(salt, file))
    return paths


class Bench:
    """The cluster, which the examples share as long as none fails: nodes take long to start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster: Cluster | None = None
        self._examples = 0

    def cluster(self) -> Cluster:
        """Three nodes that run."""
        if self._cluster is None:
            self._cluster = Cluster(
                self.new_folder(), 3, cluster__replicas=str(COPIES), cluster__write_quorum=str(COPIES),
                storage__chunker="fixed-256KiB", storage__gc_grace=f"{GRACE_S:g}s",
                repair__sync_interval="200ms", repair__out_after="1h",
            )
            # One collects all the time; on the others blocks that nobody wants grow old.
            self._cluster[0].options["repair.audit_interval"] = "1s"
            self._cluster.start()
        return self._cluster

    def new_folder(self) -> Path:
        """One that nobody else has."""
        self._examples += 1
        folder = self._folder / str(self._examples)
        folder.mkdir()
        return folder

    def close(self) -> None:
        """End the nodes; the next example begins with new ones."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


class Source(io.RawIOBase):
    """A file whose reader is made to do something else once, before the last 1000 bytes of it."""

    def __init__(self, data: bytes, meanwhile: Callable[[], None]) -> None:
        self._data = io.BytesIO(data)
        self._pause_at = len(data) - 1000
        self._meanwhile = meanwhile

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._data.tell() == self._pause_at:
            self._meanwhile()
            return self._data.read(size)
        return self._data.read(min(size, self._pause_at - self._data.tell()) if size >= 0 else self._pause_at)


def client(node: Node) -> Client:
    return Client(str(node.control), timeout_s=60)


def contents(path: Path) -> dict[str, bytes]:
    """Files below a path by their names in it; a file itself has none."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
