"""Rows of what has to happen before anything does: a node's start, a command's start."""

from __future__ import annotations

import sys

from kit.bench.bench import Bench, cli
from kit.bench.table import Row, Wanted
from kit.cluster import Cluster
from kit.processes import measure


def ready(bench: Bench) -> None:
    """From the start of a node in an empty folder to its READY."""
    values = []
    for _ in range(bench.runs):
        with bench.place() as place:
            node = Cluster(place, 1)[0].start()
            node.stop()
            values.append(1000 * node.ready_s)
    bench.add(Row("start of a node to READY", "ms", values, Wanted("<", 600)))


def overhead(bench: Bench) -> None:
    """What a command costs before it does anything."""
    values, python = [], []
    with bench.place() as place, Cluster(place, 1) as cluster:
        cluster[0].cli("audit", "--wait")  # before the first one `status` is not healthy, and exits 1
        for _ in range(5 * bench.runs):
            python.append(1000 * measure([sys.executable, "-c", "pass"]).seconds)
            values.append(1000 * cli(cluster, 0, "status").seconds)
    bench.add(Row("p2pfs-cli status", "ms", values, Wanted("<", 150), "python -c pass", python))
