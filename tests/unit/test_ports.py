"""The ports of the nodes that tests start: nobody else takes one, neither before its node listens nor later."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from kit import cluster
from kit.cluster import ROOT, free_port


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(cluster.RESERVED)]
    assert len(set(ports)) == len(ports)
    assert len(cluster._reserved) <= cluster.RESERVED


def test_another_run_is_not_given_it_and_no_connection_has_it() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        # Unless the system is set to take nearly all ports for connections.
        given = min(listener.getsockname()[1], one.getsockname()[1])
        assert port < given or cluster._first_of_the_system() == 65536
    program = (
        "from kit import cluster; "
        f"cluster.FIRST_PORT, cluster._first_of_the_system = {port}, lambda: {port + 1}; cluster.free_port()"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "no port is free" in other.stderr


def test_one_that_somebody_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(cluster, "FIRST_PORT", port)
        monkeypatch.setattr(cluster, "_first_of_the_system", lambda: port + 1)
        with pytest.raises(RuntimeError, match="no port is free"):
            free_port()
