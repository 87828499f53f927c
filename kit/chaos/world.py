"""The nodes that chaos plays with: each in a network namespace and on a small disk of its own, where that may be.

Without root, or without `ip netns`, all nodes are on loopback and their disks are folders; faults that need more are
left out then, with a remark. Clocks are shifted by a `sitecustomize` in the node's Python, which adds what stands in
a file to the time of day.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kit.cluster import Cluster, Node
from kit.network import Network
from kit.processes import run
from kit.started import Started

DISK_BYTES = 3 << 30
"""Limit of each node's own disk, where it has one: memory, as far as it is filled."""
SETTLED_S = 4.0
"""So long after a fault, what was missed meanwhile is known to all."""

CLOCK_SHIM = """
import mmap, os, struct, time
with open(os.environ["CHAOS_CLOCK"], "rb") as file:
    ahead = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + struct.unpack("d", ahead[:])[0]
time.time_ns = lambda: real_ns() + int(1e9 * struct.unpack("d", ahead[:])[0])
"""


class World(Started):
    """N nodes with fast timings. `with World(...) as world` starts them and clears everything away afterwards."""

    def __init__(self, folder: Path, size: int, *, use_netns: bool | None = None) -> None:
        """`use_netns`: None where it may be; True insists on it."""
        self.folder = folder
        self.remarks: list[str] = []
        """What could not be played here, and why."""
        self.cluster = Cluster(
            folder, size, cluster__replicas="3", cluster__write_quorum="2", repair__out_after="5s",
            repair__sync_interval="1s", repair__audit_interval="10s", repair__push_pull_interval="2s",
            storage__gc_grace="20s", storage__scrub_period="1m",
        )
        self.nodes = self.cluster.nodes
        self._locks = {node.name: threading.Lock() for node in self.nodes}
        self._guard = threading.Lock()
        self._hurt = dict.fromkeys((node.name for node in self.nodes), 0)
        self._last_hurt = -SETTLED_S
        self._network = Network(size)
        self.has_netns = use_netns is not False and self._may_netns(use_netns is True)
        self.has_disks = self.has_netns
        self.has_detours = self.has_netns and self._may_detour()
        for node in self.nodes:
            self._prepare(node)

    def _may_netns(self, insists: bool) -> bool:
        try:
            if os.getuid():
                raise RuntimeError("not root")
            with Network(1):
                pass
        except (OSError, RuntimeError) as error:
            if insists:
                raise RuntimeError(f"no network namespaces: {error}") from error
            self.remarks.append(f"no network namespaces ({error}): all on loopback, without disks of their own")
            return False
        return True

    def _may_detour(self) -> bool:
        try:
            with Network(1) as network, network.slow(0, 0.0):
                return True
        except (OSError, RuntimeError) as error:
            self.remarks.append(f"no delay and loss: {error}")
            return False

    def _prepare(self, node: Node) -> None:
        shim, clock = self.folder / "shim", self.clock_file(node)
        shim.mkdir(parents=True, exist_ok=True)
        (shim / "sitecustomize.py").write_text(CLOCK_SHIM)
        clock.write_bytes(struct.pack("d", 0.0))
        node.environment.update(PYTHONPATH=str(shim), CHAOS_CLOCK=str(clock))
        # In a file, so that a SIGHUP can change them.
        node.config = self.folder / f"{node.name}.ini"
        self.set_max_size(node, 0)
        if self.has_netns:
            node.address = f"{self._network.ip(self.number(node))}:4801"
            node.options["node.listen"] = node.address
            node.prefix = self._network.inside(self.number(node))
            if node is not self.nodes[0]:
                node.options["cluster.seeds"] = self.nodes[0].address

    # --- names ---------------------------------------------------------------------------------------

    def number(self, node: Node) -> int:
        """0 for the first node, as in the network."""
        return self.nodes.index(node)

    def clock_file(self, node: Node) -> Path:
        """Holds the seconds that its clock is ahead."""
        return self.folder / f"{node.name}.clock"

    def set_max_size(self, node: Node, size: int) -> None:
        """Write it to the configuration; it counts from the next start or SIGHUP on."""
        node.config.write_text(f"[storage]\nmax_size = {size}\n")

    # --- who is hurt ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hurting(self, nodes: list[Node]) -> Iterator[None]:
        """These nodes cannot be relied on meanwhile."""
        with self._guard:
            for node in nodes:
                self._hurt[node.name] += 1
        try:
            yield
        finally:
            with self._guard:
                self._last_hurt = time.monotonic()
                for node in nodes:
                    self._hurt[node.name] -= 1

    @contextlib.contextmanager
    def owning(self, nodes: list[Node]) -> Iterator[None]:
        """Nobody else starts or stops these nodes meanwhile."""
        with contextlib.ExitStack() as stack:
            for node in sorted(nodes, key=lambda node: node.name):
                stack.enter_context(self._locks[node.name])
            yield

    def healthy(self) -> list[Node]:
        """Nodes that no fault touches just now."""
        with self._guard:
            return [node for node in self.nodes if not self._hurt[node.name]]

    def quiet_since(self) -> float:
        """When the last fault was over and had settled, by the monotonic clock; infinity while there is one."""
        with self._guard:
            return float("inf") if any(self._hurt.values()) else self._last_hurt + SETTLED_S

    # --- begin and end -------------------------------------------------------------------------------

    def start(self) -> None:
        """Namespaces, disks, nodes."""
        if self.has_netns:
            self._network.start()
        for node in self.nodes if self.has_disks else []:
            node.data_dir.mkdir(parents=True)
            run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "p2pfs-chaos", str(node.data_dir))
        self.cluster.start()

    def close(self) -> None:
        """End the nodes, unmount their disks, remove the namespaces; what is not there is no error."""
        self.cluster.close()
        for node in self.nodes:
            if self.has_disks and os.path.ismount(node.data_dir):
                run("umount", "--lazy", str(node.data_dir))
        if self.has_netns:
            self._network.close()

    def save_evidence(self) -> None:
        """Kill the nodes, and copy from disks that are about to go what tells what happened; logs stay anyway."""
        self.cluster.close()
        for node in self.nodes if self.has_disks else []:
            target = self.folder / "evidence" / node.name
            target.mkdir(parents=True, exist_ok=True)
            for path in [*node.data_dir.glob("catalog*"), *node.data_dir.glob("quarantine/*")]:
                shutil.copy(path, target)
            lines = [f"{path.stat().st_size:>9} {path.stat().st_mtime:.3f} {path.relative_to(node.data_dir)}\n"
                     for path in sorted(node.data_dir.glob("*/???/*"))]
            (target / "files.txt").write_text("".join(lines))

    # --- cables --------------------------------------------------------------------------------------

    def cut(self, sender: Node, receiver: Node) -> contextlib.AbstractContextManager[None]:
        """What the one sends to the other is lost meanwhile; the other direction stays."""
        return self._network.cut(self.number(sender), self.number(receiver))

    def slow(self, node: Node, delay_s: float, loss: float) -> contextlib.AbstractContextManager[None]:
        """Delay and lose some of what the node sends meanwhile; `loss` is a share, 0 to 1."""
        return self._network.slow(self.number(node), delay_s, loss)
