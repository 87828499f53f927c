"""Rows of three nodes that keep two copies and speak TLS."""

from __future__ import annotations

import statistics
import time

from kit.bench.bench import Bench, cli, far_cluster, leaves_there
from kit.bench.machine import copy_s
from kit.bench.table import Row, Series, Wanted
from kit.cluster import Cluster
from kit.processes import MIB
from p2pfs import Client

LEAF_BYTES = MIB
RANGES = 100


def three(bench: Bench) -> None:
    """All nodes alike: store at one, get at another, where a third of the leaves is missing."""
    store = Series("three nodes, 2 copies, TLS: durable store", bench.file_work, "cp+sync", Wanted(">=", 250))
    get = Series("three nodes: get where a third is missing", bench.file_work, "cp")
    for _ in range(bench.runs):
        with bench.place() as place, Cluster(place, 3, cluster__replicas="2") as cluster:
            file = bench.file(place)
            reference_s = copy_s(file, durable=True)
            store.add(cli(cluster, 0, "store", str(file)), reference_s)
            reference_s = copy_s(file)
            get.add(cli(cluster, 1, "get", file.name, "-o", str(place / "back")), reference_s)
    bench.add(store.row())
    bench.add(Row("three nodes, 2 copies, TLS: CPU of all, store", "s/GiB", store.cpu_s, Wanted("<", 7)))
    bench.add(get.row())


def far(bench: Bench) -> None:
    """The last node owns nothing, so that it has to fetch all of it: a file, and single bytes of one."""
    get = Series("three nodes: get at a node without any leaf, TLS", bench.file_work, "cp", Wanted(">=", 400))
    first_ms, there = [], 0
    for _ in range(bench.runs):
        with bench.place() as place, far_cluster(place) as cluster:
            file = bench.file(place)
            cli(cluster, 0, "store", str(file))
            with Client(str(cluster[2].control)) as client:
                first_ms.append(_range_ms(client, file.name, bench.size))
            reference_s = copy_s(file)
            get.add(cli(cluster, 2, "get", file.name, "-o", str(place / "back")), reference_s)
            there = max(there, leaves_there(cluster[2], LEAF_BYTES))
    bench.add(get.row(f"its capacity is 0.01, the others' 10000; leaves on its disk, counted: {there}"))
    bench.add(Row(f"there: range of 1 byte, median of {RANGES}", "ms", first_ms, Wanted("<", 10),
                  note="another leaf each time, by the library"))


def _range_ms(client: Client, name: str, size: int) -> float:
    """Median time to one byte, each in another leaf, around the middle of the file."""
    leaves = size // LEAF_BYTES
    wanted = range(max(0, leaves // 2 - RANGES // 2), min(leaves, leaves // 2 + RANGES // 2))
    times = []
    for leaf in wanted:
        begin = time.monotonic()
        data = b"".join(client.read(name, leaf * LEAF_BYTES + LEAF_BYTES // 2, 1))
        times.append(1000 * (time.monotonic() - begin))
        if len(data) != 1:
            raise RuntimeError(f"{len(data)} bytes came for a range of one")
    return statistics.median(times)
