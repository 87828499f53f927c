"""Tahoe-LAFS: an introducer and three nodes; each share is a whole copy, two of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kit.cluster import free_port
from kit.peers.peer import Does, Peer, environment, first_line, until
from kit.processes import Cost

PACKAGE = "tahoe-lafs"
NODES = 3


class Tahoe(Peer):
    """`shares.needed` 1 of 2: the same redundancy as the others'; its default, 3 of 10, needs ten nodes."""

    name = "Tahoe-LAFS"
    does = Does("2 (1 of 2)", "TLS, and AES the nodes cannot read", "Merkle tree of SHA-256", "no", "per user")
    note = "fetched at a third node"
    pypi = PACKAGE
    tree_share = 0.01

    @classmethod
    def version(cls) -> str:
        """Of tahoe."""
        return first_line([environment(PACKAGE, "tahoe"), "--version"]).rpartition("/")[2]

    def start(self) -> None:
        """The introducer tells the nodes of each other."""
        self._tahoe = environment(PACKAGE, "tahoe")
        introducer = self.folder / "introducer"
        self._create("create-introducer", introducer)
        furl = introducer / "private" / "introducer.furl"
        until(lambda: furl.exists() and furl.read_text(), "the introducer has an address")
        self._nodes = [self.folder / f"node-{number}" for number in range(NODES)]
        for node in self._nodes:
            self._create("create-node", node, f"--introducer={furl.read_text().strip()}", "--shares-needed=1",
                         "--shares-happy=2", "--shares-total=2", f"--webport=tcp:{free_port()}:interface=127.0.0.1")
        until(lambda: self._do(0, "create-alias", "bench").returncode == 0, "two nodes take shares")
        alias = (self._nodes[0] / "private" / "aliases").read_text().partition(": ")[2].strip()
        until(lambda: self._do(NODES - 1, "ls", alias).returncode == 0, "the last node finds shares")
        self._do(NODES - 1, "add-alias", "bench", alias)

    def _create(self, verb: str, folder: Path, *options: str) -> None:
        port = free_port()
        subprocess.run([self._tahoe, verb, f"--port=tcp:{port}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{port}",
                        *options, str(folder)], check=True, capture_output=True)
        self.daemon(self._tahoe, "run", "--allow-stdin-close", str(folder))

    def _words(self, number: int, *words: str) -> list[str]:
        return [self._tahoe, "-d", str(self._nodes[number]), *words]

    def _do(self, number: int, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self._words(number, *words), check=False, capture_output=True)

    def store(self, source: Path) -> Cost:
        """Into a directory, so that it has a name."""
        return self.run(*self._words(0, "put", str(source), f"bench:{source.name}"))

    def fetch(self, source: Path, target: Path) -> Cost:
        """At the last node."""
        return self.run(*self._words(NODES - 1, "get", f"bench:{source.name}", str(target)))

    def put(self, source: Path) -> Cost:
        """`cp -r`."""
        return self.run(*self._words(0, "cp", "-r", str(source), "bench:"))

    def get(self, source: Path, target: Path) -> Cost:
        """`cp -r` at the last node, which makes a directory of the same name."""
        cost = self.run(*self._words(NODES - 1, "cp", "-r", f"bench:{source.name}", str(target.parent)))
        if not target.exists():
            (target.parent / source.name).rename(target)
        return cost
