"""What is looked at while it goes on, and when it is over: resources, healing, and the truth of the disks."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from kit.chaos.workload import Key
from kit.chaos.world import World
from kit.cluster import Node, wait_until
from kit.truth import Disk, Truth, catalog, count_root
from p2pfs import Client, errors
from p2pfs.core.cid import CID
from p2pfs.core.multihash import Multihash

MIB = 1024 * 1024
SAMPLE_S = 1.0
WARM_S = 15.0
"""A process that is younger still grows."""
HEAL_S = 120.0
"""Damage is gone within this time, though nodes come and go meanwhile."""
END_S = 120.0
"""When all trouble is over, everything is healthy within this time."""
COLLECT_S = 90.0
"""Then, what nothing wants is gone within this time: gc_grace, and some audits."""
MEMORY_GROWTH = (1.3, 32 * MIB)
"""The last third may be so much larger than the first: by this factor and that many bytes."""
MOST_MORE = 40
"""Descriptors, and greenlets, more than at the begin: connections to members come and go."""
LEAST_SAMPLES = 60

Fail = Callable[[str, str], None]


class Sample(NamedTuple):
    """One look at one process."""

    at_s: float
    memory: int
    descriptors: int


class Watch:
    """Samples memory and descriptors of all nodes, each second, in a thread of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._born: dict[int, float] = {}
        self.samples: list[Sample] = []

    def run(self, leave: threading.Event) -> None:
        """Until `leave` is set."""
        while not leave.wait(SAMPLE_S):
            for node in self._world.nodes:
                with contextlib.suppress(OSError):  # killed in this moment
                    self._look(node)

    def _look(self, node: Node) -> None:
        process, now = node.process, time.monotonic()
        if process is None or process.poll() is not None:
            return
        if now - self._born.setdefault(process.pid, now) > WARM_S:
            self.samples.append(Sample(now, node.memory(), descriptors(node)))

    def judge(self, fail: Fail) -> dict[str, float]:
        """Compare the first and the last third of the samples; what they came to."""
        third = len(self.samples) // 3
        if len(self.samples) < LEAST_SAMPLES:
            return {"samples": len(self.samples)}
        first, last = self.samples[:third], self.samples[-third:]
        memory = [statistics.median(sample.memory for sample in part) for part in (first, last)]
        files = [statistics.median(sample.descriptors for sample in part) for part in (first, last)]
        factor, more = MEMORY_GROWTH
        if memory[1] > factor * memory[0] + more:
            fail("memory is bounded",
                 f"median {memory[0] / MIB:.0f} MiB in the first third, {memory[1] / MIB:.0f} in the last")
        if files[1] > files[0] + MOST_MORE:
            fail("no descriptors leak", f"median {files[0]} in the first third of the run, {files[1]} in the last")
        return {"samples": len(self.samples), "memory_first_mib": memory[0] / MIB, "memory_last_mib": memory[1] / MIB,
                "memory_most_mib": max(sample.memory for sample in self.samples) / MIB,
                "descriptors_first": files[0], "descriptors_last": files[1]}


def descriptors(node: Node) -> int:
    """Open ones of the process."""
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir())) if node.process else 0


def greenlets(node: Node) -> int:
    """How many the node has, by what it logs on SIGUSR1."""
    before = len(node.log())
    node.signal(signal.SIGUSR1)

    def text() -> str:
        return node.log()[before:]

    # The dump is one message of many lines, so it is there as a whole soon after its first line.
    wait_until(lambda: "Greenlet" in text(), 30, f"{node.name} logs its greenlets")
    time.sleep(0.5)
    return len(re.findall(r"<(?:gevent\S*\.)?Greenlet ", text()))


class Judge:
    """Compares what should be with the disks."""

    def __init__(
        self, world: World, keys: Callable[[], Iterable[Key]], fail: Fail, is_broken: Callable[[], bool]
    ) -> None:
        self._world = world
        self._is_broken = is_broken
        self._keys = keys
        self._fail = fail
        self._truth = Truth()
        self._guard = threading.Lock()
        self.longest_heal_s = 0.0

    def census(self, node: Node) -> Disk:
        """What is on a node's disk now."""
        with self._guard:
            return self._truth.disk(node.data_dir, node.name)

    def disks(self) -> list[Disk]:
        """What is on all of them."""
        return [self.census(node) for node in self._world.nodes]

    def _kept(self) -> list[Key]:
        return [key for key in list(self._keys()) if key.state == "kept"]

    # --- healing of damage ----------------------------------------------------------------------------

    def wait_healed(self, node: Node, damaged: list[Path]) -> None:
        """Until what was done to one node's disk is undone, so that another one may be hurt."""
        begin, asked_s, left = time.monotonic(), 0.0, "its catalog"
        while time.monotonic() < begin + HEAL_S and not self._is_broken():
            if time.monotonic() > asked_s + 10:
                # An operator would; else it would take up to scrub_period.
                node.cli("--timeout=30s", "scrub", "--wait", check=False, timeout=60)
                asked_s = time.monotonic()
            blocks = self._still_hurt(damaged)
            if not blocks and self._knows_all(node):
                self.longest_heal_s = max(self.longest_heal_s, time.monotonic() - begin)
                return
            left = f"{len(blocks)} of {len(damaged)} blocks" if blocks else "its catalog"
            time.sleep(0.5)
        if not self._is_broken():
            self._fail("damage heals by itself", f"{node.name}: {left} not within {HEAL_S:g} s")

    def _still_hurt(self, damaged: list[Path]) -> set[Multihash]:
        """Damaged blocks that are still on the disk as they are, or wanted and without two good copies."""
        disks = self.disks()
        names = {path.name for path in damaged}
        bad = {path.name for disk in disks for path in disk.bad}
        good = {mh for disk in disks for mh in disk.blocks if sum(mh in other.blocks for other in disks) > 1}
        hurt = set(map(_multihash, names & bad))
        few = {mh for mh in map(_multihash, names) if mh not in good}
        return hurt | (few & self._wanted(disks) if few else few)

    def _wanted(self, disks: list[Disk]) -> set[Multihash]:
        roots = [count_root(disks, CID.parse(key.cid)) for key in self._kept()]
        return {mh for root in roots for mh in (*root.branches, *root.leaves)}

    def _knows_all(self, node: Node) -> bool:
        kept = self._kept()
        try:
            with Client(str(node.control), timeout_s=20) as client:
                known = {str(pin.cid) for pin in client.pins()}
        except errors.P2pfsError:
            return False
        # One that was removed meanwhile is none of its business any more.
        return all(key.cid in known or key.state != "kept" for key in kept)

    # --- the end ---------------------------------------------------------------------------------------

    def wait_healthy(self) -> float:
        """Until every node says healthy, and the disks agree; the seconds that it took."""
        begin = time.monotonic()
        try:
            wait_until(self._all_healthy, END_S, "every node says healthy")
        except TimeoutError:
            said = [f"{node.name}: {node.cli('status', check=False).stdout}" for node in self._world.nodes]
            self._fail("lost replicas come back by themselves", "\n".join([f"not healthy for {END_S:g} s", *said]))
        return time.monotonic() - begin

    def _all_healthy(self) -> bool:
        return all(node.cli("--timeout=20s", "status", check=False).returncode == 0 for node in self._world.nodes)

    def check_disks(self) -> dict[str, int]:
        """All copies of all that is kept, and nothing that looks like a block and is none."""
        disks = self.disks()
        size = len(disks)
        for disk in disks:
            if disk.bad or disk.foreign:
                self._fail("no partial file under a final name", f"{disk.name}: {disk.bad + disk.foreign}")
        fewest, wanted = size, set[Multihash]()
        for key in self._kept():
            root = count_root(disks, CID.parse(key.cid))
            wanted |= {*root.branches, *root.leaves}
            fewest = min(fewest, root.fewest)
            if root.lost:
                self._fail("nothing acknowledged is lost", f"{key.name} {key.cid}: {[mh.hex() for mh in root.lost]}")
            elif below := root.below(min(3, size), size):
                copies = f"leaves {sorted(root.leaves.values())}, branches {sorted(root.branches.values())}"
                self._fail("status tells the truth",
                           f"healthy, but {key.name} {key.cid} has {below} blocks with too few copies: {copies}")
        return {"kept_roots": len(self._kept()), "kept_blocks": len(wanted), "fewest_copies": fewest,
                "quarantined": sum(disk.quarantined for disk in disks)}

    def wait_collected(self) -> float:
        """Until no disk has a block that no pin wants; the seconds that it took."""
        begin = time.monotonic()
        try:
            wait_until(lambda: not self._unwanted(), COLLECT_S, "all is collected that nothing wants")
        except TimeoutError:
            self._fail("what nothing wants is collected", f"not within {COLLECT_S:g} s: {self._unwanted()[:20]}")
        return time.monotonic() - begin

    def _unwanted(self) -> list[str]:
        disks = self.disks()
        with Client(str(self._world.nodes[0].control), timeout_s=20) as client:
            roots = [count_root(disks, pin.cid) for pin in client.pins()]
        wanted = {mh for root in roots for mh in (*root.branches, *root.leaves)}
        return [f"{disk.name} {path.name}" for disk in disks for mh, path in disk.blocks.items() if mh not in wanted]

    def check_catalogs(self) -> None:
        """After all nodes stopped: the same records everywhere, and in them what is expected."""
        books = {}
        for node in self._world.nodes:
            try:
                books[node.name] = catalog(node.data_dir)
            except sqlite3.Error as error:
                self._fail("the catalog is whole", f"{node.name}: {error!r}")
        first, *others = books.items()
        for name, book in others:
            if book != first[1]:
                differing = [str(record) for record in set(book.values()) ^ set(first[1].values())]
                self._fail("all catalogs are equal", f"{first[0]} and {name} differ in {differing[:10]}")
        live = {str(cid) for (cid, _), record in first[1].items() if not record.removed}
        for key in list(self._keys()):
            if key.state in ("kept", "removed") and (key.cid in live) != (key.state == "kept"):
                self._fail("acknowledged stores and removals hold", f"{key.name} {key.cid} is {key.state}, and "
                           f"{'' if key.cid in live else 'not '}pinned")

    def check_stop(self) -> None:
        """Every node stops cleanly, and leaves nothing behind."""
        for node in self._world.nodes:
            code = node.stop(30)
            left = self.census(node).leftovers
            if code or left:
                self._fail("a clean stop leaves nothing", f"{node.name} exited {code}, left {left}")


def _multihash(name: str) -> Multihash:
    prefix = b"\x1e\x20" if name.endswith(".blake3") else b"\x12\x20"
    return prefix + bytes.fromhex(name.removesuffix(".blake3"))


def check_logs(world: World, fail: Fail) -> None:
    """No node logged a bug of ours."""
    for node in world.nodes:
        # The line before it, and all that is indented like it.
        found = re.search(r".*\n +Traceback \(most recent call last\):.*(?:\n .*)*", node.log())
        if found:
            fail("no node trips over its own code", f"{node.name}: {found[0]}")
