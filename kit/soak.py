"""Nobody is taken for dead, and nothing grows, however long and hard nodes and CPU are used.

    python -m kit.soak [--minutes 60]

Three nodes, a user at each that stores, fetches and removes without a pause, and twice as many programs that burn CPU
as there are cores. Prints how often a node suspected another and took it for dead, and the nodes' memory and open
descriptors in the first and the last tenth of the time. Exit code 1 when anybody was taken for dead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kit.cluster import Cluster, Node

MIB = 1024 * 1024
FILE_BYTES = 64 * MIB


def user(cluster: Cluster, number: int, folder: Path, end: float, failures: list[str]) -> None:
    """Store at one node, fetch at the next, remove."""
    here, there = cluster[number], cluster[(number + 1) % 3]
    path = folder / f"file-{number}"
    while time.monotonic() < end and not failures:
        path.write_bytes(os.urandom(FILE_BYTES))
        try:
            here.cli("store", str(path))
            there.cli("get", "--force", path.name, "-o", str(path.with_suffix(".back")))
            if path.with_suffix(".back").read_bytes() != path.read_bytes():
                failures.append(f"{there.name} returned wrong bytes for {path.name}")
            here.cli("rm", path.name)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failures.append(str(error))


def figures(nodes: list[Node]) -> list[tuple[float, int]]:
    """Memory in MiB and open descriptors of each node."""
    return [
        (node.memory() / MIB, len(os.listdir(f"/proc/{node.process.pid}/fd"))) for node in nodes if node.process
    ]


def soak(folder: Path, seconds: float) -> int:
    """Run it; the exit code."""
    failures: list[str] = []
    options = {"cluster__replicas": "2", "storage__gc_grace": "20s", "repair__audit_interval": "20s"}
    with Cluster(folder, 3, **options) as cluster:
        begin = time.monotonic()
        end = begin + seconds
        users = [
            threading.Thread(target=user, args=(cluster, number, folder, end, failures)) for number in range(3)
        ]
        for thread in users:
            thread.start()
        time.sleep(seconds / 10)
        early = figures(cluster.nodes)
        while any(thread.is_alive() for thread in users):
            time.sleep(1)
        late = figures(cluster.nodes)
        deaths = sum(node.log().count(" is dead") for node in cluster)
        suspicions = sum(node.log().count(" is suspect") for node in cluster)
        rounds = sum(node.metric("p2pfs_bytes_written_total") for node in cluster) / 2 / FILE_BYTES
        minutes = (time.monotonic() - begin) / 60
        print(f"{minutes:.1f} minutes, {rounds:.0f} files of {FILE_BYTES // MIB} MiB stored and fetched")
        print(f"suspected: {suspicions}, taken for dead: {deaths}, failures: {failures or 'none'}")
        for node, (memory, fds), (memory_late, fds_late) in zip(cluster, early, late, strict=True):
            print(f"{node.name}: {memory:.0f} then {memory_late:.0f} MiB, {fds} then {fds_late} descriptors")
    return 1 if deaths or failures else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    cores = os.cpu_count() or 1
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores)]
    try:
        with tempfile.TemporaryDirectory(prefix="p2pfs-soak-") as folder:
            return soak(Path(folder), 60 * minutes)
    finally:
        for burner in burners:
            burner.kill()


if __name__ == "__main__":
    sys.exit(main())
