"""What must hold under load: nobody is taken for dead, and memory does not grow. Slow; `make test-slow` runs these."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kit.bench.bench import cli
from kit.cluster import Cluster

MIB = 1024 * 1024
LOAD_S = 60.0
BLOCKED_S = 0.25
"""Longer than a thread waits for its turn on two busy cores; shorter than what would be noticed."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def random_file(path: Path, size: int) -> Path:
    """Random bytes from the kernel: quicker than any generator in Python."""
    with path.open("wb") as file:
        for _ in range(size // (8 * MIB)):
            file.write(os.urandom(8 * MIB))
    return path


def test_nobody_is_declared_dead_under_bulk_load_and_full_cpu(tmp_path: Path) -> None:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with Cluster(tmp_path, 3, cluster__replicas="2") as cluster:
            end = time.monotonic() + LOAD_S
            failures: list[BaseException] = []

            def work(number: int) -> None:
                node, path = cluster[number], tmp_path / f"f{number}"
                while time.monotonic() < end and not failures:
                    try:
                        random_file(path, 128 * MIB)
                        node.cli("store", str(path))
                        cluster[(number + 1) % 3].cli("get", "--force", path.name, "-o", str(path.with_suffix(".back")))
                    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                        failures.append(error)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures
            for node in cluster:
                assert " is dead" not in node.log()
    finally:
        for burner in burners:
            burner.kill()


def test_the_hub_is_never_blocked_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # gevent's own monitor: a native thread that looks whether the hub gets to run, and else logs what it is at.
    monkeypatch.setenv("GEVENT_MONITOR_THREAD_ENABLE", "true")
    monkeypatch.setenv("GEVENT_MAX_BLOCKING_TIME", str(BLOCKED_S))
    big, tree = random_file(tmp_path / "big", 512 * MIB), tmp_path / "tree"
    tree.mkdir()
    for number in range(3000):
        (tree / str(number)).write_bytes(os.urandom(4096))
    with Cluster(tmp_path, 3, cluster__replicas="2") as cluster:
        for path in (big, tree):
            cluster[0].cli("store", str(path))
            cluster[1].cli("get", path.name, "-o", str(tmp_path / f"{path.name}.back"))
        cluster[2].cli("audit", "--wait")
        cluster[0].cli("rm", "tree")
        for node in cluster:
            assert "appears to be blocked" not in node.log()


def test_memory_does_not_depend_on_the_size_of_a_file(tmp_path: Path) -> None:
    peaks = {}
    for size in (1024, 8192):
        path = random_file(tmp_path / f"f{size}", size * MIB)
        with Cluster(tmp_path / f"c{size}", 1) as cluster:
            stored = cli(cluster, 0, "store", str(path))
            got = cli(cluster, 0, "get", path.name, "-o", str(tmp_path / "back"))
            peaks[size] = max(stored.daemon_mib, got.daemon_mib), max(stored.client_mib, got.client_mib)
        path.unlink()
        (tmp_path / "back").unlink()
        subprocess.run(["rm", "-r", str(tmp_path / f"c{size}")], check=True)
    print("MiB of node and client:", peaks)
    assert peaks[8192][0] < 1.1 * peaks[1024][0]
    assert peaks[8192][1] < 1.1 * peaks[1024][1]
    assert peaks[8192][0] < 180
    assert peaks[8192][1] < 45


def test_memory_with_four_clients_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", 1) as cluster:
        node = cluster[0]
        assert node.memory() / MIB < 70

        def work(number: int) -> None:
            path = random_file(tmp_path / f"f{number}", 1024 * MIB)
            node.cli("store", str(path))
            node.cli("get", path.name, "-o", str(path.with_suffix(".back")))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak = node.memory("VmHWM") / MIB
        print(f"{peak:.0f} MiB")
        assert peak < 180
        assert len(node.json("ls")) == 4
