"""Installs the competitors: each package of PyPI into an environment of its own, those of Debian only as root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kit.peers.peer import ENVIRONMENTS, Peer

POLICY = Path("/usr/sbin/policy-rc.d")


def install(peers: Iterable[type[Peer]]) -> None:
    """What a peer has already is left as it is."""
    peers = list(peers)
    for package in [peer.pypi for peer in peers if peer.pypi]:
        folder = ENVIRONMENTS / package
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", package],
                       check=True)
    packages = sorted({word for peer in peers for word in peer.debian.split()})
    if not packages:
        return
    if os.geteuid():
        print(f"not root: apt-get install --no-install-recommends {' '.join(packages)}")
        return
    with _no_services():
        subprocess.run(["apt-get", "update", "--quiet=2"], check=True)
        subprocess.run(["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", *packages], check=True,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Packages start no daemon while the body runs: by invoke-rc.d's policy, which answers 101, "not allowed"."""
    if POLICY.exists():
        yield  # the machine has a policy of its own, as containers do
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
