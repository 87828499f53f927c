"""Rows of one node: durable store, verified get, and the memory that they take."""

from __future__ import annotations

import statistics

from kit.bench.bench import Bench, cli
from kit.bench.machine import copy_s, hash_s
from kit.bench.table import Row, Series, Wanted
from kit.cluster import Cluster
from kit.processes import MIB


def one(bench: Bench) -> None:
    """A file of fresh random bytes, stored and fetched on one node."""
    store = Series("one node: durable store", bench.file_work, "cp+sync+openssl", Wanted("<=", 1.2, True))
    get = Series("one node: verified get to a new file", bench.file_work, "cp", Wanted("<=", 2.0, True))
    idle, durable_s = [], []
    for _ in range(bench.runs):
        with bench.place() as place, Cluster(place, 1) as cluster:
            idle.append(cluster[0].memory() / MIB)
            file = bench.file(place)
            durable_s.append(copy_s(file, durable=True))
            store.add(cli(cluster, 0, "store", str(file)), durable_s[-1] + hash_s(file))
            reference_s = copy_s(file)
            get.add(cli(cluster, 0, "get", file.name, "-o", str(place / "back")), reference_s)
    bench.add(store.row())
    in_copies = [cost.seconds / copied_s for cost, copied_s in zip(get.costs, durable_s, strict=True)]
    bench.add(get.row(f"{statistics.median(in_copies):.2f} x the time of cp+sync; a get syncs, too"))
    bench.add(Row("node, idle", "MiB", idle, Wanted("<", 60)))
    busy = [max(pair) for pair in zip(store.node_mib, get.node_mib, strict=True)]
    bench.add(Row("node, peak of store and get", "MiB", busy, Wanted("<", 160)))
    clients = [max(one.client_mib, two.client_mib) for one, two in zip(store.costs, get.costs, strict=True)]
    bench.add(Row("client, peak of store and get", "MiB", clients, Wanted("<", 40)))
