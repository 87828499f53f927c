"""Rows of repair: one of five nodes is lost for good while files are read; how long, and what users feel. Slow."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kit.bench.bench import Bench
from kit.bench.table import Row
from kit.cluster import Cluster, Node, wait_until
from kit.processes import MIB
from kit.truth import Truth, count_root
from p2pfs import Client
from p2pfs.core.cid import CID

NODES = 5
STORED_BYTES = 2 * 1024 * MIB
"""Copies counted."""
FILES = 8
DETECTION_S = 5.0
OUT_AFTER_S = 10.0
RATE = 16 * MIB
"""Per node. All nodes share the disk and two cores here: at the default rate the machine is what is measured."""
PATIENCE_S = 300.0


def heal(bench: Bench) -> None:
    """One of five nodes that hold 2 GiB is lost for good, while files are read."""
    runs = []
    for _ in range(bench.runs):
        with bench.place() as place:
            runs.append(Heal(place).run())
    took, formula, before, meanwhile = zip(*runs, strict=True)
    bench.add(Row("five nodes, 2 GiB: one lost, all is back", "s", took, reference="formula",
                  reference_values=formula))
    bench.add(Row("five nodes, 2 GiB: get during the repair", "MB/s", meanwhile, reference="before",
                  reference_values=before))


class Heal:
    """What one loss came to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._truth = Truth()
        self._roots: list[CID] = []

    def run(self) -> tuple[float, float, float, float]:
        """(seconds until all is back, seconds by the formula, MB/s of gets before, MB/s of gets meanwhile)."""
        options = {"cluster__replicas": "2", "cluster__write_quorum": "2", "repair__out_after": f"{OUT_AFTER_S:g}s",
                   "repair__rate": f"{RATE // MIB}MiB"}
        with Cluster(self._folder, NODES, **options) as cluster:
            self._fill(cluster[0])
            living, lost = list(cluster)[:-1], cluster[NODES - 1]
            wait_until(lambda: all(_is_at_rest(node) for node in cluster), PATIENCE_S, "the audits are at rest")
            with self._reading(cluster[1]) as speeds:
                time.sleep(10)
                before = _median(speeds)
                begin = time.monotonic()
                lost.kill()
                time.sleep(OUT_AFTER_S)
                repaired = _repaired(living)
                wait_until(lambda: _repaired(living) > repaired, PATIENCE_S, "the repair has begun")
                del speeds[:]
                wait_until(lambda: all(_is_at_rest(node) for node in living), PATIENCE_S, "all is back")
                took_s = time.monotonic() - begin
                meanwhile = _median(speeds)
            most = max(node.metric("p2pfs_bytes_repaired_total") for node in living)
            self._check(living)
            return took_s, DETECTION_S + OUT_AFTER_S + most / RATE, before, meanwhile

    def _fill(self, node: Node) -> None:
        path = self._folder / "data.bin"
        with Client(str(node.control)) as client:
            for _ in range(FILES):
                path.write_bytes(random.randbytes(STORED_BYTES // 2 // FILES))
                self._roots.append(client.store(path).cid)
        path.unlink()

    @contextlib.contextmanager
    def _reading(self, node: Node) -> Iterator[list[float]]:
        """Files are fetched one after the other while the body runs; the speed of each, in MB/s, as they come."""
        speeds: list[float] = []
        is_over = threading.Event()

        def read() -> None:
            target = self._folder / "back.bin"
            with Client(str(node.control)) as client:
                while not is_over.is_set():
                    begin = time.monotonic()
                    client.get(random.choice(self._roots), target)
                    speeds.append(target.stat().st_size / (time.monotonic() - begin) / 1e6)
                    target.unlink()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield speeds
        finally:
            is_over.set()
            thread.join(60)

    def _check(self, living: list[Node]) -> None:
        """By the disks, once: whatever the nodes say."""
        disks = [self._truth.disk(node.data_dir) for node in living]
        for root in self._roots:
            if below := count_root(disks, root).below(2, len(disks)):
                raise RuntimeError(f"{below} blocks of {root} are not back")


def _median(speeds: list[float]) -> float:
    return statistics.median(speeds) if speeds else 0.0


def _repaired(nodes: list[Node]) -> float:
    return sum(node.metric("p2pfs_bytes_repaired_total") for node in nodes)


def _is_at_rest(node: Node) -> bool:
    """By its audit, every change was seen and no copy is missing anywhere."""
    with Client(str(node.control)) as client:
        status = client.status()
    if status.audit is None or status.health is None:
        raise RuntimeError("the node is too old to say how it is")
    return status.audit.is_current and not status.health.missing_blocks and not status.health.below_blocks
