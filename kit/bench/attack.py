"""The rows of a node that is under attack: the work of a client that is well behaved, with and without."""

from __future__ import annotations

import time
from pathlib import Path

from kit.attacks import ATTACKS, under_attack
from kit.bench.bench import Bench, pids
from kit.bench.machine import random_file, small_tree
from kit.bench.table import Row, Wanted
from kit.cluster import Cluster
from kit.processes import MIB, peak_mib, reset_peak
from p2pfs import Client

FILE_MIB = 128
FILES = 500


def attack(bench: Bench) -> None:
    """One row for each attack on the first of three nodes, whose client works all the while."""
    memory: list[float] = []
    for name in ATTACKS:
        with bench.place() as place, Cluster(place, 3, cluster__replicas="2") as cluster:
            victim = cluster[0]
            for pid in pids(cluster):
                reset_peak(pid)
            usual, attacked = [], []
            _work(bench, cluster, place / "warm")
            for run in range(bench.runs):
                usual.append(_work(bench, cluster, place / f"usual{run}"))
                with under_attack(name, victim.address, victim.options["cluster.secret"]):
                    attacked.append(_work(bench, cluster, place / f"attacked{run}"))
            memory.append(max(map(peak_mib, pids(cluster))))
        bench.add(Row(f"store and get under attack: {name}", "s", attacked, Wanted("<=", 2.0, True), "without", usual,
                      node_mib=memory[-1]))
    bench.add(Row("node, peak under attack", "MiB", memory, Wanted("<", 250)))


def _work(bench: Bench, cluster: Cluster, place: Path) -> float:
    """Seconds to store a file and a tree at the first node, to get them at the second, and the file at the first."""
    place.mkdir()
    file = random_file(place / "file", bench.scaled(FILE_MIB) * MIB)
    tree = small_tree(place / "tree", bench.scaled(FILES, 20))
    with Client(str(cluster[0].control)) as here, Client(str(cluster[1].control)) as there:
        begin = time.monotonic()
        stored, files = here.store(file).cid, here.store(tree).cid
        there.get(stored, place / "file.there")
        there.get(files, place / "tree.there")
        here.get(stored, place / "file.here")
        here.status()
        seconds = time.monotonic() - begin
    if (place / "file.there").read_bytes() != file.read_bytes():
        raise RuntimeError("the file that came back is another one")
    return seconds
