"""The audit by blocks: real nodes with data directories that were laid out before they start."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kit.cluster import Cluster, Node
from kit.scale.layout import fill_blocks
from kit.scale.measure import MIB, Row, requests, seconds_of
from p2pfs import Client

SLOW_S = 3600
STATUS_EACH_S = 0.05


def audit(folder: Path, blocks: int, nodes: int) -> Iterator[Row]:
    """A pass of the audit of one node; all of them hold all blocks, and each is in charge of its share."""
    folder.mkdir()
    try:
        options = {"storage__scrub_period": "365d", "repair__audit_interval": "30d"}
        with Cluster(folder, nodes, **options) as cluster:
            for node in cluster:
                node.stop()
            begin = time.monotonic()
            fill_blocks([node.data_dir for node in cluster], blocks, nodes)
            laid_out_s = time.monotonic() - begin
            cluster.start()
            for node in cluster:
                node.cli("audit", "--wait", timeout=SLOW_S)  # the one of the start, with what else a start does
            yield from _one_pass(cluster[0], blocks, nodes, laid_out_s, list(cluster))
    finally:
        shutil.rmtree(folder)


def _one_pass(node: Node, blocks: int, nodes: int, laid_out_s: float, all_nodes: list[Node]) -> Iterator[Row]:
    others = [other for other in all_nodes if other is not node]
    memory, peak, cpu_s = node.memory(), node.memory("VmHWM"), node.cpu_s()
    others_cpu_s, asked = sum(other.cpu_s() for other in others), requests(others)["HAVE"]
    begin, times, is_over = time.monotonic(), [0.0], threading.Event()

    def ask() -> None:
        with Client(str(node.control)) as client:
            while not is_over.wait(STATUS_EACH_S):
                times.append(seconds_of(client.status))

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with Client(str(node.control)) as client:
            found = client.audit(wait=True)
    finally:
        is_over.set()
        asker.join()
    seconds = time.monotonic() - begin
    if found.blocks < blocks or found.missing_blocks:
        raise RuntimeError(f"the audit saw other blocks than there are: {found}")
    where = f"{nodes} node{'s' * (nodes > 1)}"
    yield Row(f"audit, {where}: CPU of its node", blocks, node.cpu_s() - cpu_s, "s", f"laid out in {laid_out_s:.0f} s")
    yield Row(f"audit, {where}: wall", blocks, seconds, "s", "with its rests")
    yield Row(f"audit, {where}: memory more, after", blocks, (node.memory() - memory) / MIB, "MiB",
              f"peak {node.memory('VmHWM') / MIB:.0f}, at the start {peak / MIB:.0f}")
    yield Row(f"audit, {where}: slowest status meanwhile", blocks, 1000 * max(times), "ms", f"of {len(times)}")
    if others:
        more = sum(other.cpu_s() for other in others) - others_cpu_s
        yield Row(f"audit, {where}: CPU of the others", blocks, more, "s", "they answer HAVE")
        yield Row(f"audit, {where}: HAVE", blocks, requests(others)["HAVE"] - asked, "requests")
