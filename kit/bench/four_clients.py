"""The row of four clients at once on one node: its memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.bench.bench import Bench
from kit.bench.machine import random_file
from kit.bench.table import Row
from kit.cluster import Cluster
from kit.processes import MIB

CLIENTS = 4


def four(bench: Bench) -> None:
    """One node stores and serves four files at once."""
    with bench.place() as place, Cluster(place, 1) as cluster:
        node = cluster[0]
        files = [random_file(place / f"{number}.bin", bench.size) for number in range(CLIENTS)]

        def work(path: Path) -> None:
            node.cli("store", str(path))
            node.cli("get", path.name, "-o", str(path.with_suffix(".back")))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(work, files))
        peak = node.memory("VmHWM") / MIB
    bench.add(Row(f"node, peak with {CLIENTS} clients x {bench.size // MIB} MiB", "MiB", [peak]))
