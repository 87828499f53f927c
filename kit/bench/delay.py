"""Rows of three nodes far from each other: a store and a get over links with delay, beside plain TCP on the same links.

Both copies of a block are on the first two nodes, so a store at the first sends the file over one link, and a get at
the last takes it over two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kit.bench.bench import Bench, cli, far_cluster
from kit.bench.machine import random_file
from kit.bench.table import Row, Series, bytes_of_work
from kit.cluster import Cluster
from kit.delayed import Delayed
from kit.processes import MIB

FILE_MIB = 256
ROUND_TRIPS_MS = (0, 10, 50, 100)
STREAMS = 8
"""As many as a get has connections to its two holders."""
PORT = 4801

RECEIVE = """
import socket, sys, threading, time
def drain(connection):
    buffer = bytearray(1 << 20)
    while connection.recv_into(buffer):
        pass
listener = socket.create_server(("", 5001))
print("ready", flush=True)
threads = [threading.Thread(target=drain, args=(listener.accept()[0],)) for _ in range(int(sys.argv[1]))]
begin = time.monotonic()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.monotonic() - begin)
"""
SEND = """
import socket, sys, threading
def send(connection):
    for _ in range(int(sys.argv[3])):
        connection.sendall(bytes(1 << 20))
    connection.close()
connections = [socket.create_connection((sys.argv[1], 5001)) for _ in range(int(sys.argv[2]))]
for connection in connections: threading.Thread(target=send, args=(connection,)).start()
"""


def delay(bench: Bench) -> None:
    """Each round trip in turn."""
    for round_trip_ms in ROUND_TRIPS_MS:
        _at(bench, round_trip_ms)


def _at(bench: Bench, round_trip_ms: int) -> None:
    size = bench.scaled(FILE_MIB) * MIB
    work = bytes_of_work(size)
    store = Series(f"{round_trip_ms} ms: store, 2 copies, {size // MIB} MiB", work, "one TCP stream")
    get = Series(f"{round_trip_ms} ms: get where none is", work, "one TCP stream")
    many = []
    for _ in range(bench.runs):
        with bench.place(keep=True) as place, Delayed(3, round_trip_ms / 1000) as links, far(place, links) as cluster:
            bench.warm()
            file = random_file(place / "data.bin", size)
            one_s = tcp_s(links, 1, size)
            many.append(work.amount / tcp_s(links, STREAMS, size))
            store.add(cli(cluster, 0, "store", str(file)), one_s)
            get.add(cli(cluster, 2, "get", file.name, "-o", str(place / "back")), one_s)
    bench.add(store.row())
    bench.add(get.row())
    bench.add(Row(f"({round_trip_ms} ms: {STREAMS} plain TCP streams together)", work.unit, many))


def far(place: Path, links: Delayed) -> Cluster:
    """A cluster as `far_cluster` has it, each node in a namespace of its own."""
    cluster = far_cluster(place)
    for number, node in enumerate(cluster):
        node.address = node.options["node.listen"] = f"{links.ip(number)}:{PORT}"
        node.prefix = ["ip", "netns", "exec", links.names[number]]
    for node in cluster.nodes[1:]:
        node.options["cluster.seeds"] = cluster[0].address
    return cluster


def tcp_s(links: Delayed, streams: int, size: int) -> float:
    """Seconds for so many bytes from the first namespace to the last by plain TCP, from the first connection on."""
    def inside(number: int, script: str, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", links.names[number], sys.executable, "-c", script, *arguments]

    with subprocess.Popen(inside(2, RECEIVE, str(streams)), stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        receiver.stdout.readline()
        subprocess.run(inside(0, SEND, links.ip(2), str(streams), str(size // MIB // streams)), check=True)
        return float(receiver.stdout.read())
