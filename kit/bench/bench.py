"""What all rows share: the sizes, the folder, the clusters, and the table as it grows."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kit.bench.machine import empty_big_files, random_file, small_tree, warm_memory
from kit.bench.table import Row, Work, bytes_of_work, files_of_work
from kit.cluster import CLI, Cluster, Node
from kit.processes import MIB, Cost, measure

FULL_MIB = 1024
"""The big file's size that the wanted figures are for; everything else is scaled with it."""

WARM_FROM_MIB = 64


class Bench:
    """Runs of one size, in one folder."""

    def __init__(self, folder: Path, size_mib: int, runs: int) -> None:
        self.folder = folder
        self.size = size_mib * MIB
        self.runs = runs
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Print a row as soon as it is known."""
        self.rows.append(row)
        print(row, flush=True)

    def scaled(self, amount: int, least: int = 1) -> int:
        """An amount of the full bench, for this size of file."""
        return max(least, amount * self.size // (FULL_MIB * MIB))

    @property
    def file_work(self) -> Work:
        """Of one run with the big file."""
        return bytes_of_work(self.size)

    @property
    def tree_work(self) -> Work:
        """Of one run with the small files."""
        return files_of_work(self.scaled(10_000, 40))

    def warm(self) -> None:
        """Warm memory, unless the files are so small that it makes no difference: that takes half a minute at first."""
        if self.size >= WARM_FROM_MIB * MIB:
            warm_memory(self.folder)

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """A folder for one run, whose big files are emptied afterwards; the rest of it goes with the bench."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield place
        finally:
            empty_big_files(place)

    def file(self, place: Path) -> Path:
        """A big file of new random bytes, and warm memory for what is done with it."""
        self.warm()
        return random_file(place / "data.bin", self.size)

    def tree(self, place: Path) -> Path:
        """A directory of small files of new random bytes."""
        return small_tree(place / "tree", int(self.tree_work.amount))


def far_cluster(folder: Path) -> Cluster:
    """Three nodes, two copies, the last with a millionth of the others' capacity: it owns no shard, and has to fetch.

    It may get a leaf all the same when an owner is too slow: see `leaves_there`.
    """
    cluster = Cluster(folder, 3, cluster__replicas="2", node__capacity="10000")
    cluster[2].options["node.capacity"] = "0.01"
    return cluster


def leaves_there(node: Node, leaf_bytes: int) -> int:
    """How many leaves are on a node's disk, by the files there and their size."""
    return sum(path.stat().st_size == leaf_bytes for path in node.data_dir.glob("blocks/???/*"))


def pids(cluster: Cluster) -> list[int]:
    """Of the nodes that run."""
    return [node.process.pid for node in cluster.running() if node.process is not None]


def cli(cluster: Cluster, number: int, *args: str, out: int | IO[str] = subprocess.DEVNULL) -> Cost:
    """A command of the CLI at one node, with what it costs all nodes."""
    return measure([sys.executable, str(CLI), f"--node={cluster[number].control}", "-q", *args], pids(cluster), out)
