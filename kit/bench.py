"""`make bench`: what p2pfs costs, each figure beside a reference taken at the same moment.

    python -m kit.bench [--runs=N] [--size=MIB] [--json=FILE] [ROW...]

The machine may be noisy and its disk may be slow: trust the ratios. Each figure is the median of the runs, with the
smallest and the largest; `ref` is the reference's median, taken in turn with the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kit import bench_audit
from kit.bench_heal import heal
from kit.cluster import CLI, Cluster, Node
from p2pfs import Client

MIB = 1024 * 1024


class Row(NamedTuple):
    """A line of the table."""

    what: str
    unit: str
    values: list[float]
    reference: str
    reference_values: list[float]
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {**self._asdict(), "median": statistics.median(self.values)}

    def __str__(self) -> str:
        middle = statistics.median(self.values)
        spread = f"{min(self.values):.4g}..{max(self.values):.4g}"
        text = f"{self.what:<44} {middle:>9.4g} {self.unit:<8} {spread:<16}"
        if self.reference_values:
            other = statistics.median(self.reference_values)
            text += f" {self.reference} {other:.4g} (x{middle / other:.2f})"
        return f"{text}  {self.note}".rstrip()


class Bench:
    """Runs of one size, in one folder."""

    def __init__(self, folder: Path, size: int, runs: int) -> None:
        self.folder = folder
        self.size = size
        self.runs = runs
        self.rows: list[Row] = []
        self.file = folder / "data.bin"

    def add(self, row: Row) -> None:
        """Print a row as soon as it is known."""
        self.rows.append(row)
        print(row, flush=True)

    def fresh_file(self) -> Path:
        """New random bytes of the wanted size, in the page cache: nothing can be deduplicated."""
        generator = random.Random()
        with self.file.open("wb") as file:
            for _ in range(self.size // (4 * MIB)):
                file.write(generator.randbytes(4 * MIB))
        return self.file

    def rate(self, seconds: float) -> float:
        """Megabytes a second."""
        return self.size / seconds / 1e6

    def copy_s(self, sync: bool) -> float:
        """Seconds of `cp` of the file, with `sync` until it is on disk."""
        target = self.folder / "copy.bin"
        begin = time.monotonic()
        subprocess.run(["cp", str(self.file), str(target)], check=True)
        if sync:
            subprocess.run(["sync", str(target)], check=True)
        seconds = time.monotonic() - begin
        target.unlink()
        return seconds


def timed(command: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MiB) of a command as a whole process."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Not ru_maxrss: that of a child begins with its parent's.
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = re.search(r"VmHWM:\s*(\d+)", status.read_text())
            peak = int(found[1]) if found else peak
        time.sleep(0.002)
    seconds = time.monotonic() - begin
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited {process.returncode}")
    return seconds, peak / 1024


def cli(node: Node, *args: str) -> tuple[float, float]:
    """(seconds, peak MiB) of a command of the CLI."""
    return timed([sys.executable, str(CLI), f"--node={node.control}", "-q", *args])


def warm_memory(size: int) -> None:
    """Touch memory once: a virtual machine's first touch of a page is slow and would be blamed on the first row.

    In a process of its own: the peak of a parent counts as a peak of its children.
    """
    script = f"import mmap; m = mmap.mmap(-1, {size})\nfor o in range(0, {size}, 4096): m[o] = 1"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- rows --------------------------------------------------------------------------------------------

def ids(bench: Bench) -> None:
    """`id` of a file, without a node."""
    values, references, peak = [], [], 0.0
    bench.fresh_file()
    for _ in range(bench.runs):
        references.append(bench.rate(timed(["sha256sum", str(bench.file)])[0]))
        seconds, memory = timed([sys.executable, str(CLI), "id", str(bench.file)])
        values.append(bench.rate(seconds))
        peak = max(peak, memory)
    bench.add(Row("id of a file", "MB/s", values, "sha256sum", references, f"peak {peak:.0f} MiB"))


def loopback(bench: Bench) -> None:
    """Raw bytes over a loopback socket between two processes: the ceiling of anything that uses one."""
    values = []
    for _ in range(bench.runs):
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        script = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {port})); b = bytes({MIB})\n"
            f"for _ in range({bench.size // MIB}): s.sendall(b)"
        )
        sender = subprocess.Popen([sys.executable, "-c", script])
        connection, _ = listener.accept()
        buffer = bytearray(MIB)
        begin = time.monotonic()
        while connection.recv_into(buffer):
            pass
        values.append(bench.rate(time.monotonic() - begin))
        sender.wait()
        connection.close()
        listener.close()
    bench.add(Row("(raw loopback, one connection)", "MB/s", values, "", []))


def one_node(bench: Bench) -> None:
    """Durable store and verified get on one node, start-up, and memory."""
    store, get, copies, synced, ready, idle, peaks, clients = [], [], [], [], [], [], [], []
    for number in range(bench.runs):
        bench.fresh_file()
        with Cluster(bench.folder / f"one-{number}", 1) as cluster:
            node = cluster[0]
            ready.append(1000 * node_ready_s(bench, number))
            idle.append(node.memory() / MIB)
            synced.append(bench.rate(bench.copy_s(sync=True)))
            seconds, peak = cli(node, "store", str(bench.file))
            store.append(bench.rate(seconds))
            clients.append(peak)
            copies.append(bench.rate(bench.copy_s(sync=False)))
            target = bench.folder / "back.bin"
            seconds, peak = cli(node, "get", bench.file.name, "-o", str(target))
            get.append(bench.rate(seconds))
            clients.append(peak)
            target.unlink()
            peaks.append(node.memory("VmHWM") / MIB)
        shutil.rmtree(bench.folder / f"one-{number}")
    bench.add(Row("one node: durable store", "MB/s", store, "cp+sync", synced))
    bench.add(Row("one node: verified get to a new file", "MB/s", get, "cp", copies))
    bench.add(Row("start of a node to READY", "ms", ready, "", []))
    bench.add(Row("node, idle", "MiB", idle, "", []))
    bench.add(Row("node, peak of store and get", "MiB", peaks, "", []))
    bench.add(Row("client, peak of store and get", "MiB", clients, "", []))


def node_ready_s(bench: Bench, number: int) -> float:
    """Seconds from start to READY of a node in an empty folder."""
    node = Cluster(bench.folder / f"ready-{number}", 1)[0]
    node.start()
    node.stop()
    shutil.rmtree(bench.folder / f"ready-{number}")
    return node.ready_s


def three_nodes(bench: Bench) -> None:
    """Two copies over TLS: store at one node, get at another, first byte of a range."""
    store, get, first, synced, copies, cpu = [], [], [], [], [], []
    for number in range(bench.runs):
        bench.fresh_file()
        with Cluster(bench.folder / f"three-{number}", 3, cluster__replicas="2") as cluster:
            synced.append(bench.rate(bench.copy_s(sync=True)))
            begin_cpu = sum(node.cpu_s() for node in cluster)
            store.append(bench.rate(cli(cluster[0], "store", str(bench.file))[0]))
            cpu.append((sum(node.cpu_s() for node in cluster) - begin_cpu) / (bench.size / 2**30))
            copies.append(bench.rate(bench.copy_s(sync=False)))
            target = bench.folder / "back.bin"
            get.append(bench.rate(cli(cluster[1], "get", bench.file.name, "-o", str(target))[0]))
            target.unlink()
            with Client(str(cluster[2].control)) as client:
                for offset in range(bench.size // 40, bench.size, bench.size // 20):
                    begin = time.monotonic()
                    next(iter(client.read(bench.file.name, offset, 1)))
                    first.append(1000 * (time.monotonic() - begin))
        shutil.rmtree(bench.folder / f"three-{number}")
    bench.add(Row("three nodes, 2 copies, TLS: durable store", "MB/s", store, "cp+sync", synced,
                  f"nodes' CPU {statistics.median(cpu):.1f} s a GiB"))
    bench.add(Row("three nodes: get where a third is missing", "MB/s", get, "cp", copies))
    bench.add(Row("three nodes: first byte of a range", "ms", first, "", []))


def small_files(bench: Bench) -> None:
    """10,000 files of 4 KiB as one directory."""
    count = 10_000
    store, get, copied = [], [], []
    tree = bench.folder / "tree"
    for number in range(bench.runs):
        tree.mkdir()
        for name in range(count):
            (tree / f"{name:05}").write_bytes(os.urandom(4096))
        with Cluster(bench.folder / f"small-{number}", 1) as cluster:
            begin = time.monotonic()
            subprocess.run(["cp", "-r", str(tree), str(bench.folder / "copy")], check=True)
            copied.append(count / (time.monotonic() - begin))
            store.append(count / cli(cluster[0], "store", str(tree))[0])
            get.append(count / cli(cluster[0], "get", "tree", "-o", str(bench.folder / "back"))[0])
        for folder in (tree, bench.folder / "copy", bench.folder / "back", bench.folder / f"small-{number}"):
            shutil.rmtree(folder)
    bench.add(Row("one node: store 10,000 x 4 KiB, durable", "files/s", store, "cp -r", copied))
    bench.add(Row("one node: get 10,000 x 4 KiB", "files/s", get, "cp -r", copied))


def overhead(bench: Bench) -> None:
    """What a command costs before it does anything."""
    with Cluster(bench.folder / "overhead", 1) as cluster:
        values = [1000 * cli(cluster[0], "status")[0] for _ in range(5 * bench.runs)]
        python = [1000 * timed([sys.executable, "-c", "pass"])[0] for _ in range(5 * bench.runs)]
    bench.add(Row("p2pfs-cli status", "ms", values, "python -c pass", python))


def four_clients(bench: Bench) -> None:
    """One node stores and serves four files at once: peak memory."""
    with Cluster(bench.folder / "four", 1) as cluster:
        node = cluster[0]
        files = []
        for number in range(4):
            bench.fresh_file()
            files.append(bench.file.rename(bench.folder / f"four-{number}.bin"))

        def work(path: Path) -> None:
            cli(node, "store", str(path))
            cli(node, "get", path.name, "-o", str(path.with_suffix(".back")))

        threads = [threading.Thread(target=work, args=(path,)) for path in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak = node.memory("VmHWM") / MIB
        for path in files:
            path.unlink()
            path.with_suffix(".back").unlink()
    shutil.rmtree(bench.folder / "four")
    bench.add(Row(f"node, peak with 4 clients x {bench.size // MIB} MiB", "MiB", [peak], "", []))


def healing(bench: Bench) -> None:
    """One of five nodes that hold 2 GiB is lost for good, while files are read."""
    took, formula, before, meanwhile = [], [], [], []
    for number in range(bench.runs):
        run = heal(bench.folder / f"heal-{number}")
        for values, value in zip((took, formula, before, meanwhile), run, strict=True):
            values.append(value)
    bench.add(Row("five nodes, 2 GiB: one lost, all is back", "s", took, "formula", formula))
    bench.add(Row("five nodes, 2 GiB: get during the repair", "MB/s", meanwhile, "before", before))


def audit(bench: Bench) -> None:
    """One node with 100,000 small blocks: a pass of the audit, and what else the node does meanwhile."""
    found = [bench_audit.run(bench.folder / f"audit-{number}", 100_000) for number in range(bench.runs)]
    memory = max(it.rss_after - it.rss_before for it in found) / MIB
    bench.add(Row("one node, 100,000 blocks: audit --wait", "s", [it.seconds for it in found], "its CPU",
                  [it.cpu_s for it in found], f"memory +{memory:.0f} MiB"))
    bench.add(Row("the slowest status meanwhile", "ms", [1000 * it.slowest_status_s for it in found], "", []))


ROWS: dict[str, Callable[[Bench], None]] = {
    "loopback": loopback, "ids": ids, "one": one_node, "three": three_nodes, "small": small_files,
    "overhead": overhead, "four": four_clients, "heal": healing, "audit": audit,
}


def main() -> int:
    """Run the rows that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure (5)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the big file (1024)")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help=f"of {', '.join(ROWS)}; default all")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="p2pfs-bench-"))
    try:
        bench = Bench(folder, wanted.size * MIB, wanted.runs)
        warm_memory(4096 * MIB)
        print(f"{'what':<44} {'median':>9} {'unit':<8} {'min..max':<16} reference (ratio)")
        for name in wanted.rows or ROWS:
            ROWS[name](bench)
        if wanted.json:
            wanted.json.write_text(json.dumps([row.as_json() for row in bench.rows], indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
