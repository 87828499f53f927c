"""p2pfs itself, in the same run."""

from __future__ import annotations

import sys
from pathlib import Path

from kit.bench.bench import far_cluster, pids
from kit.cluster import CLI
from kit.peers.peer import Does, Peer
from kit.processes import Cost
from p2pfs.version import VERSION


class P2pfs(Peer):
    """Three nodes; the one that is asked for files holds no leaf, and fetches all."""

    name = "p2pfs"
    does = Does("2", "TLS 1.3", "SHA-256", "yes", "yes")
    note = "fetched at a third node, which holds no leaf"

    @classmethod
    def version(cls) -> str:
        """As it is in this checkout."""
        return VERSION

    def start(self) -> None:
        """Two owners and a reader."""
        self.cluster = far_cluster(self.folder).start()

    def stop(self) -> None:
        """End the nodes."""
        if hasattr(self, "cluster"):
            self.cluster.close()

    def pids(self) -> list[int]:
        """Of the nodes."""
        return pids(self.cluster)

    def _cli(self, number: int, *args: str) -> Cost:
        return self.run(sys.executable, str(CLI), f"--node={self.cluster[number].control}", "-q", *args)

    def store(self, source: Path) -> Cost:
        """`store` at the first node."""
        return self._cli(0, "store", str(source))

    def fetch(self, source: Path, target: Path) -> Cost:
        """`get` at the last."""
        return self._cli(2, "get", source.name, "-o", str(target))

    put = store
    get = fetch
