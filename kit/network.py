"""Network namespaces with cables between them, which can be cut or slow while processes inside go on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from kit.detour import detour
from kit.processes import run
from kit.started import Started

SUBNET = "10.77.0.0/24"
NOWHERE = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent there is lost silently, as behind a firewall."""


class Network(Started):
    """So many namespaces, numbered from 0, each with a cable to a common bridge. Needs root."""

    def __init__(self, size: int) -> None:
        tag = f"kit-{os.getpid() % 1_000_000}"
        self.bridge = f"{tag}-br"
        self.names = [f"{tag}-{number}" for number in range(size)]
        """Of the namespaces, and of the bridge's ends of their cables."""

    @staticmethod
    def ip(number: int) -> str:
        """The address in a namespace."""
        return f"10.77.0.{number + 1}"

    def inside(self, number: int) -> list[str]:
        """What a command begins with that is to run in a namespace."""
        return ["ip", "netns", "exec", self.names[number]]

    def start(self) -> None:
        """Make all of it. Raises RuntimeError."""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        for number, name in enumerate(self.names):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", self.bridge, "up")
            run("ip", "-n", name, "addr", "add", f"{self.ip(number)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")

    def close(self) -> None:
        """Remove all of it; what is not there is no error."""
        for name in self.names:
            _try("ip", "netns", "del", name)
            # At once; with its namespace it would go a moment later.
            _try("ip", "link", "del", name)
        _try("ip", "link", "del", self.bridge)

    # --- faults ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def cut(self, sender: int, receiver: int) -> Iterator[None]:
        """What the one sends to the other is lost meanwhile; the other direction stays."""
        neighbour = (self.ip(receiver), "dev", "eth0")
        run("ip", "-n", self.names[sender], "neigh", "replace", *neighbour, "lladdr", NOWHERE, "nud", "permanent")
        try:
            yield
        finally:
            run("ip", "-n", self.names[sender], "neigh", "del", *neighbour)

    def slow(self, sender: int, delay_s: float, loss: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """What it sends is delayed meanwhile, and this share of it, 0 to 1, is lost."""
        return detour(self.names[sender], SUBNET, delay_s, loss)


def _try(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False, timeout=30)
