"""Rows of one pass of the audit over very many small blocks on one node; its state is made without storing. Slow."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

from kit.bench.bench import Bench
from kit.bench.table import Row
from kit.cluster import Cluster
from kit.processes import MIB
from p2pfs import Client
from p2pfs.core.cid import CID, RAW
from p2pfs.core.layout import BalancedLayout, Link
from p2pfs.core.multihash import digest_of, multihash
from p2pfs.core.pins import Pin
from p2pfs.core.profile import profile
from p2pfs.store.catalog import Catalog

LEAF_BYTES = 32
BLOCKS = 100_000


def audit(bench: Bench) -> None:
    """A pass of the audit, and what else the node does meanwhile."""
    blocks = bench.scaled(BLOCKS, 100)
    found = [run(bench.folder / f"audit-{number}", blocks) for number in range(bench.runs)]
    memory = max(it.rss_after - it.rss_before for it in found) / MIB
    bench.add(Row(f"one node, {blocks:,} blocks: audit --wait", "s", [it.seconds for it in found],
                  reference="its CPU", reference_values=[it.cpu_s for it in found], note=f"memory +{memory:.0f} MiB"))
    bench.add(Row("the slowest status meanwhile", "ms", [1000 * it.slowest_status_s for it in found]))


class Pass(NamedTuple):
    """What one `audit --wait` cost."""

    seconds: float
    cpu_s: float
    rss_before: int
    rss_after: int
    slowest_status_s: float
    """Asked 20 times a second all along: a hub that is blocked shows here."""


def run(folder: Path, blocks: int) -> Pass:
    """A node with that many blocks, one file's leaves, audited once. The folder is gone afterwards."""
    folder.mkdir()
    try:
        with Cluster(folder, 1, storage__scrub_period="365d") as cluster:
            node = cluster[0]
            node.stop()
            _fill(node.data_dir, blocks)
            node.start()
            node.cli("audit", "--wait", timeout=1200)  # the one of the start, with what else a start does
            before, cpu_s, begin = node.memory(), node.cpu_s(), time.monotonic()
            times: list[float] = []
            is_over = threading.Event()

            def ask() -> None:
                with Client(str(node.control)) as client:
                    while not is_over.wait(0.05):
                        asked = time.monotonic()
                        client.status()
                        times.append(time.monotonic() - asked)

            asker = threading.Thread(target=ask)
            asker.start()
            with Client(str(node.control)) as client:
                audited = client.audit(wait=True)
            is_over.set()
            asker.join(60)
            if audited.blocks < blocks or audited.missing_blocks:
                raise RuntimeError(f"the audit saw other blocks than there are: {audited}")
            return Pass(
                time.monotonic() - begin, node.cpu_s() - cpu_s, before, node.memory(), max(times)
            )
    finally:
        shutil.rmtree(folder)


def _fill(data_dir: Path, blocks: int) -> None:
    """Small leaves and the branches above them as files, and the pin. Nothing is synced: it is for one run."""
    chosen = profile()
    layout = BalancedLayout(chosen)

    def write(cid: CID, data: bytes) -> None:
        name = digest_of(cid.multihash).hex()
        shard = data_dir / "blocks" / name[:3]
        shard.mkdir(exist_ok=True)
        (shard / name).write_bytes(data)

    for _ in range(blocks):
        data = os.urandom(LEAF_BYTES)
        leaf = CID(RAW, multihash(chosen.hash_code, data))
        write(leaf, data)
        for branch in layout.add(Link(leaf, len(data), len(data))):
            write(branch.cid, branch.data)
    root, rest = layout.finish()
    for branch in rest:
        write(branch.cid, branch.data)
    catalog = Catalog(data_dir / "catalog.sqlite")
    now_s = int(time.time())
    catalog.merge([Pin(root.cid, "many", root.size, None, 1, blocks, now_s, now_s * 1000 << 16, "bench")])
    catalog.close()
