"""Rows of one process with threads beside two processes: what worker processes could win on this machine at most.

Leaves: each process takes its share of a file's, with the job that a node gives to a thread: read, hash, write, sync.
All write into one data directory, each with a `DiskStore` of its own, so that none knows what the others count or
write; a node could not use them like that. Nodes: two share nothing at all, and each stores a half. Either is more than
workers that share one block store, its account and its locks can reach.

`python -m kit.bench.workers DATA_DIR FILE NUMBER COUNT THREADS` is one process of the leaves.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kit.bench.bench import Bench, cli
from kit.bench.machine import random_file, small_tree
from kit.bench.table import Row, Work
from kit.cluster import ROOT, Cluster
from kit.processes import MIB, cpu_s, peak_mib

THREADS = 8
"""As many as a node has; two processes have half of them each."""
BUFFERS = 16
"""Leaves in work at once, of all processes together: as many as a node's store has."""
PROCESSES = 2


class Run(NamedTuple):
    """What one run took; CPU and memory are of all processes."""

    seconds: float
    cpu_s: float
    mib: float


def workers(bench: Bench) -> None:
    """Leaves of a file, a file at nodes, small files at nodes."""
    _compare(bench, "leaves of a file: threads", bench.file_work, lambda count: _leaves(bench, count))

    def file(place: Path, count: int) -> Path:
        return random_file(place / "data.bin", bench.size // count)

    def tree(place: Path, count: int) -> Path:
        return small_tree(place / "tree", int(bench.tree_work.amount) // count)

    files = f"{bench.tree_work.amount:,.0f} x 4 KiB"
    _compare(bench, "file stored at nodes", bench.file_work, lambda count: _nodes(bench, file, count))
    _compare(bench, f"{files} stored at nodes", bench.tree_work, lambda count: _nodes(bench, tree, count))


def _compare(bench: Bench, what: str, work: Work, run: Callable[[int], Run]) -> None:
    """Both by turns."""
    runs: dict[int, list[Run]] = {1: [], PROCESSES: []}
    for _ in range(bench.runs):
        for count, done in runs.items():
            done.append(run(count))
    one = [work.amount / each.seconds for each in runs[1]]
    cores = len(os.sched_getaffinity(0))
    for count, done in runs.items():
        busy = sorted(each.cpu_s / each.seconds for each in done)[len(done) // 2]
        bench.add(Row(
            f"{what}, {count} process{'es' * (count > 1)}", work.unit, [work.amount / each.seconds for each in done],
            reference="one process" if count > 1 else "", reference_values=one if count > 1 else (),
            cpu_s=[each.cpu_s / work.cpu_amount for each in done], cpu_per=work.cpu_per,
            node_mib=max(each.mib for each in done), note=f"{busy:.2f} of {cores} cores busy; memory of all processes",
        ))


# --- leaves ------------------------------------------------------------------------------------------


def _leaves(bench: Bench, count: int) -> Run:
    with bench.place() as place:
        file = bench.file(place)
        (place / "data").mkdir()
        processes = [_start(place / "data", file, number, count) for number in range(count)]
        family = [process.pid for process in processes]
        before, begin = cpu_s(family), time.monotonic()
        for process in processes:
            _tell(process)
        for process in processes:
            _hear(process, "done")
        run = Run(time.monotonic() - begin, cpu_s(family) - before, sum(map(peak_mib, family)))
        for process in processes:
            _tell(process)
            process.wait(60)
        return run


def _start(data_dir: Path, file: Path, number: int, count: int) -> subprocess.Popen[str]:
    words = [str(data_dir), str(file), str(number), str(count), str(THREADS // count)]
    process = subprocess.Popen([sys.executable, "-m", "kit.bench.workers", *words], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _hear(process, "ready")  # one after the other: to open a store empties its folder of temporary files
    return process


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    if (said := process.stdout.readline().strip()) != wanted:
        raise RuntimeError(f"a worker should say {wanted}, and says {said!r}")


def main(data_dir: str, path: str, number: int, count: int, threads: int) -> None:
    """One process: it says `ready` and `done`, and goes on each time that it is told to."""
    from p2pfs import green
    from p2pfs.core.multihash import SHA2_256
    from p2pfs.store.disk import DiskStore
    from p2pfs.store.jobs import take_leaf_from

    store = DiskStore(data_dir)
    store._numbers = itertools.count(number << 40)  # the names of temporary files are one process's
    pool, group = green.NativePool("disk", threads), green.Group("leaves")
    with open(path, "rb") as file:
        leaves = iter(range(number * MIB, os.path.getsize(path), count * MIB))

        def work() -> None:
            with memoryview(bytearray(MIB)) as view:
                for offset in leaves:
                    pool.run(take_leaf_from, file.fileno(), offset, store, view, SHA2_256, lambda _: True)

        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(BUFFERS // count):
            group.spawn("leaf", work)
        group.join()
        print("done", flush=True)
        sys.stdin.readline()  # it is looked at meanwhile


# --- nodes -------------------------------------------------------------------------------------------


def _nodes(bench: Bench, make: Callable[[Path, int], Path], count: int) -> Run:
    """So many clusters of one node, each with its share. `make` gives a new one, of that number of shares."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(bench.place()) for _ in range(count)]
        clusters = [stack.enter_context(Cluster(place, 1)) for place in places]
        bench.warm()
        shares = [make(place, count) for place in places]
        begin = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            costs = list(pool.map(lambda cluster, share: cli(cluster, 0, "store", str(share)), clusters, shares))
        return Run(time.monotonic() - begin, sum(cost.cpu_s for cost in costs), sum(cost.daemon_mib for cost in costs))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
