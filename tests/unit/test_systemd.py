"""sd_notify against a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    is_path = request.param == "path"
    address = str(tmp_path / "notify") if is_path else f"@p2pfs-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(address if is_path else "\0" + address[1:])
        yield server, address


def test_messages(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("listening\nREADY=0")
    assert server.recv(4096) == b"READY=1\nSTATUS=listening READY=0"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = server.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, microseconds = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000
    notifier.stopping("bye")
    assert server.recv(4096) == b"STOPPING=1\nSTATUS=bye"
    notifier.alive()
    assert server.recv(4096) == b"WATCHDOG=1"


def test_nobody_listens() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.ready("x")
    notifier.alive()
    assert notifier.watchdog_s is None


def test_a_gone_or_strange_manager_is_logged_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert "cannot tell systemd READY=1" in caplog.text
    Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("x")
    assert "vsock:2:1234" in caplog.text


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_watchdog(environ: dict[str, str], interval_s: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/x", **environ}).watchdog_s == interval_s
