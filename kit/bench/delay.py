"""Rows of three nodes far from each other: a store and a get over links with delay, beside plain TCP on the same links.

Both copies of a block are on the first two nodes, so a store at the first sends the file over one link, and a get at
the last takes it over two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kit.bench.bench import Bench, cli, far_cluster
from kit.bench.machine import random_file
from kit.bench.plain import plain_s
from kit.bench.table import Row, Series, bytes_of_work
from kit.cluster import Cluster
from kit.network import Network
from kit.processes import MIB
from p2pfs.core.window import LEAST, MOST

FILE_MIB = 256
ROUND_TRIPS_MS = (0, 10, 50, 100)
PLAIN = {
    (1, "all"): "one stream", (MOST, "all"): "streams",
    (LEAST, "each"): "block and answer", (MOST, "each"): "block and answer",
}
"""Connections, what each of them waits for, and what that is like. The last two are the least and the widest window."""
PORT = 4801


def delay(bench: Bench) -> None:
    """Each round trip in turn."""
    for round_trip_ms in ROUND_TRIPS_MS:
        _at(bench, round_trip_ms)


def _at(bench: Bench, round_trip_ms: int) -> None:
    size = bench.scaled(FILE_MIB) * MIB
    work = bytes_of_work(size)
    store = Series(f"{round_trip_ms} ms: store, 2 copies, {size // MIB} MiB", work, "one TCP stream")
    get = Series(f"{round_trip_ms} ms: get where none is", work, "one TCP stream")
    plain: dict[tuple[int, str], list[float]] = {}
    for _ in range(bench.runs):
        with bench.place() as place, distances(round_trip_ms / 1000) as links:
            bench.warm()
            file = random_file(place / "data.bin", size)
            for connections, waits in PLAIN:
                seconds = plain_s(links.inside(2), links.inside(0), links.ip(2), connections, size // MIB, waits)
                plain.setdefault((connections, waits), []).append(seconds)
            with far(place, links) as cluster:
                # Connections are open then, and the way is known: what is measured is the way, not the first seconds.
                before = random_file(place / "before.bin", size // 8)
                cli(cluster, 0, "store", str(before))
                cli(cluster, 2, "get", before.name, "-o", str(place / "before.back"))
                store.add(cli(cluster, 0, "store", str(file)), plain[1, "all"][-1])
                get.add(cli(cluster, 2, "get", file.name, "-o", str(place / "back")), plain[1, "all"][-1])
    bench.add(store.row())
    bench.add(get.row())
    for (connections, waits), times in plain.items():
        what = f"({round_trip_ms} ms: plain TCP, {connections} connections, {PLAIN[connections, waits]})"
        bench.add(Row(what, work.unit, [work.amount / seconds for seconds in times]))


@contextlib.contextmanager
def distances(round_trip_s: float) -> Iterator[Network]:
    """Three namespaces as far from each other as that."""
    with Network(3) as links, contextlib.ExitStack() as stack:
        for number in range(3):
            stack.enter_context(links.slow(number, round_trip_s / 2))
        yield links


def far(place: Path, links: Network) -> Cluster:
    """A cluster as `far_cluster` has it, each node in a namespace of its own."""
    cluster = far_cluster(place)
    for number, node in enumerate(cluster):
        node.address = node.options["node.listen"] = f"{links.ip(number)}:{PORT}"
        node.prefix = links.inside(number)
    for node in cluster.nodes[1:]:
        node.options["cluster.seeds"] = cluster[0].address
    return cluster
