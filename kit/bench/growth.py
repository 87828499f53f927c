"""Rows of what may not grow with the size of a file: time per byte, memory. Slow."""

from __future__ import annotations

import statistics
import subprocess
from itertools import pairwise
from pathlib import Path

from kit.bench.bench import Bench, cli
from kit.bench.machine import copy_s, random_file
from kit.bench.table import Row, Wanted
from kit.cluster import Cluster
from kit.processes import MIB, Cost

DOUBLINGS = 4
SPARSE_TIMES = 64


def doubling(bench: Bench) -> None:
    """Time for 2n bytes over time for n, on one node; n is the size, and its double, up to eight times the size.

    Beside it the same of `cp` and `sync`: whether this machine's memory and disk stay as fast as they were. In the
    column of CPU seconds is their ratio, too.
    """
    sizes = [bench.size << number for number in range(DOUBLINGS + 1)]
    runs = [{size: _costs(bench, size) for size in sizes} for _ in range(bench.runs)]
    for verb in ("store", "get"):
        for size, double in pairwise(sizes):
            pairs = [(run[double], run[size]) for run in runs]
            bench.add(Row(
                f"one node: {verb} of {double // MIB} MiB over {size // MIB} MiB", "x time",
                [two[verb].seconds / one[verb].seconds for two, one in pairs], Wanted("<", 2.1), "cp+sync, too:",
                [two["copy"].seconds / one["copy"].seconds for two, one in pairs],
                [two[verb].cpu_s / one[verb].cpu_s for two, one in pairs], "CPU of n",
            ))


def _costs(bench: Bench, size: int) -> dict[str, Cost]:
    """Of copying, storing and getting a file of that size."""
    with bench.place() as place, Cluster(place, 1) as cluster:
        bench.warm()
        file = random_file(place / "data.bin", size)
        copied = Cost(copy_s(file, durable=True), 0.0, 0.0, 0.0)
        stored = cli(cluster, 0, "store", str(file))
        file.unlink()
        return {"copy": copied, "store": stored, "get": cli(cluster, 0, "get", file.name, "-o", str(place / "back"))}


def sparse(bench: Bench) -> None:
    """Memory with a sparse file of 64 times the size: stored, and read to nowhere since it would not fit on a disk."""
    small = [_sparse_costs(bench, bench.size) for _ in range(bench.runs)]
    large = [_sparse_costs(bench, SPARSE_TIMES * bench.size) for _ in range(bench.runs)]
    what, reference = f"{SPARSE_TIMES * bench.size / 2**30:g} GiB sparse", f"with {bench.size // MIB} MiB"
    bench.add(Row(f"node, peak of store and cat of {what}", "MiB", [_node(run) for run in large], Wanted("<", 160),
                  reference, [_node(run) for run in small],
                  note=f"{statistics.median(run[0].seconds for run in large):.0f} s to store"))
    bench.add(Row(f"client, peak of store and cat of {what}", "MiB", [_client(run) for run in large],
                  Wanted("<", 40), reference, [_client(run) for run in small]))


def _sparse_costs(bench: Bench, size: int) -> list[Cost]:
    with bench.place() as place, Cluster(place, 1) as cluster:
        file: Path = place / "sparse.bin"
        subprocess.run(["truncate", f"--size={size}", str(file)], check=True)
        return [cli(cluster, 0, "store", str(file)), cli(cluster, 0, "cat", file.name)]


def _node(run: list[Cost]) -> float:
    return max(cost.daemon_mib for cost in run)


def _client(run: list[Cost]) -> float:
    return max(cost.client_mib for cost in run)
