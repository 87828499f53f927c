"""The row of 200 clients that get one file at once from three nodes.

The clients are threads of a few processes, each with a connection and a `Client.get` to a file of its own: two hundred
starts of Python would be most of what is measured. `python -m kit.bench.crowd SOCKET REF FOLDER COUNT` is one process.
"""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.bench.bench import Bench, pids
from kit.bench.machine import random_file
from kit.bench.table import Row, Wanted
from kit.cluster import ROOT, Cluster
from kit.processes import MIB, peak_mib, reset_peak
from p2pfs import Client, errors

CLIENTS = 200
PROCESSES = 6
"""Two for each node."""
FILE_MIB = 64
ALONE = 3
"""One client's get is short: it is done so often, and the median counts."""


class Crowd:
    """Processes that are ready to get one file, some clients each."""

    def __init__(self, cluster: Cluster, ref: str, place: Path, clients: int, processes: int) -> None:
        self._processes = []
        for number in range(processes):
            folder = place / f"crowd-{number}"
            folder.mkdir()
            count = clients // processes + (number < clients % processes)
            command = [sys.executable, "-m", "kit.bench.crowd", str(cluster[number % 3].control), ref, str(folder)]
            self._processes.append(subprocess.Popen(
                [*command, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            ))
        for _ in self._answers("ready"):
            pass

    def get_s(self) -> float:
        """Seconds until all have it, from the moment that they are told."""
        begin = time.monotonic()
        self._tell("get")
        return max(float(word) for word in self._answers("got")) - begin

    def check(self, sha256: str) -> None:
        """Raises RuntimeError when a file is another. Removes the files, ends the processes."""
        self._tell(sha256)
        for _ in self._answers("right"):
            pass
        for process in self._processes:
            if process.wait(60):
                raise RuntimeError("a process of the crowd failed")

    def _tell(self, word: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(word + "\n")
            process.stdin.flush()

    def _answers(self, wanted: str) -> list[str]:
        """What follows the wanted word in each process's line."""
        lines = [process.stdout.readline().split() if process.stdout else [] for process in self._processes]
        if any(line[:1] != [wanted] for line in lines):
            said = "; ".join(" ".join(line) for line in lines)
            raise RuntimeError(f"the crowd should say {wanted}, and says: {said}")
        return [line[-1] for line in lines]


def crowd(bench: Bench) -> None:
    """What all get together, beside what one alone gets."""
    size = bench.scaled(FILE_MIB) * MIB
    together, alone, memory = [], [], []
    for _ in range(bench.runs):
        with bench.place() as place, Cluster(place, 3, cluster__replicas="2") as cluster:
            file = random_file(place / "data.bin", size)
            cluster[0].cli("store", str(file))
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            single_s = [_get_s(cluster, file.name, place / f"alone-{turn}", 1, 1, sha256) for turn in range(ALONE)]
            alone.append(size / statistics.median(single_s) / 1e6)
            for pid in pids(cluster):
                reset_peak(pid)
            seconds = _get_s(cluster, file.name, place / "all", CLIENTS, PROCESSES, sha256)
            together.append(CLIENTS * size / seconds / 1e6)
            memory.append(max(map(peak_mib, pids(cluster))))
    what = f"{CLIENTS} clients get {size // MIB} MiB at once, three nodes"
    bench.add(Row(what, "MB/s", together, Wanted("<=", 1.25, True), "one client", alone,
                  note=f"{PROCESSES} processes with threads; each file synced, and right by SHA-256"))
    bench.add(Row(f"node, peak with {CLIENTS} clients", "MiB", memory, Wanted("<", 160)))


def _get_s(cluster: Cluster, ref: str, place: Path, clients: int, processes: int, sha256: str) -> float:
    place.mkdir()
    crowd = Crowd(cluster, ref, place, clients, processes)
    seconds = crowd.get_s()
    crowd.check(sha256)
    return seconds


def main(socket: str, ref: str, folder: str, count: str) -> None:
    """One process of the crowd: it says `ready`, `got TIME` and `right`, each when it is told to go on."""
    targets = [Path(folder) / str(number) for number in range(int(count))]
    clients = [Client(socket) for _ in targets]
    with ThreadPoolExecutor(len(targets)) as pool:
        list(pool.map(lambda client: client.stat(ref), clients))
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            list(pool.map(lambda pair: pair[0].get(ref, pair[1]), zip(clients, targets, strict=True)))
        except errors.P2pfsError as error:
            print("failed", error.token, error, flush=True)
            raise
        print("got", time.monotonic(), flush=True)
    sha256 = sys.stdin.readline().strip()
    for target in targets:
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise SystemExit(f"{target} is another file")
        target.unlink()
    print("right", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
