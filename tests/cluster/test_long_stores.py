"""A store that takes longer than unwanted blocks are kept: what it has placed stays young until its pin is made."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

from kit.cluster import CLI, Cluster, Node, wait_until

MIB = 1024 * 1024
GRACE_S = 8.0
TICK_S = 0.1
"""Longer than a tick of the clock that the kernel stamps files with."""


def blocks(node: Node) -> list[Path]:
    """The files of its blocks."""
    return [path for path in (node.data_dir / "blocks").rglob("*") if path.is_file()]


def age_s(path: Path) -> float:
    """How old a collector would take it for."""
    return time.time() - path.stat().st_mtime


def begin_store(node: Node, name: str) -> subprocess.Popen[bytes]:
    """A store whose source has yet to come."""
    return subprocess.Popen(
        [sys.executable, str(CLI), f"--node={node.control}", "--json", "store", f"--name={name}", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def test_a_slow_source_finds_its_first_blocks_young_at_the_end(tmp_path: Path) -> None:
    data = random.randbytes(3 * MIB + 1)
    options = {"cluster__replicas": "2", "cluster__write_quorum": "2", "storage__gc_grace": f"{GRACE_S:g}s"}
    with Cluster(tmp_path, 3, **options) as cluster:
        process = begin_store(cluster[0], "slow")
        assert process.stdin is not None
        process.stdin.write(data[: 2 * MIB])
        process.stdin.flush()
        wait_until(lambda: sum(len(blocks(node)) for node in cluster) == 4, 60, "two leaves, twice")
        first = [path for node in cluster for path in blocks(node)]
        end = time.monotonic() + 1.5 * GRACE_S

        def is_over() -> bool:
            assert max(map(age_s, first)) < GRACE_S / 2  # nobody would collect them
            return time.monotonic() > end

        wait_until(is_over, 60, "the grace is over")
        process.stdin.write(data[2 * MIB :])
        at_the_end = time.time() - TICK_S
        process.stdin.close()
        assert process.wait(60) == 0
        assert min(path.stat().st_mtime for path in first) >= at_the_end  # renewed right before the pin was made
        cluster[1].cli("get", "slow", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data


def test_a_store_whose_block_was_lost_meanwhile_fails_and_a_second_one_sends_that_only(tmp_path: Path) -> None:
    data = random.randbytes(4 * MIB)
    with Cluster(tmp_path, 2, storage__gc_grace="4s") as cluster:
        process = begin_store(cluster[0], "lost")
        assert process.stdin is not None
        process.stdin.write(data[: 3 * MIB])
        process.stdin.flush()
        wait_until(lambda: len(blocks(cluster[0])) == len(blocks(cluster[1])) == 3, 60, "three leaves, twice")
        victim = blocks(cluster[0])[0].name
        for node in cluster:
            next(path for path in blocks(node) if path.name == victim).unlink()
        with contextlib.suppress(BrokenPipeError):
            for byte in data[3 * MIB : 3 * MIB + 60]:
                process.stdin.write(bytes([byte]))
                process.stdin.flush()
                if process.poll() is not None:
                    break
                time.sleep(0.05)  # a source that is slow
        _, text = process.communicate(timeout=60)
        assert process.returncode == 8, text
        assert b"store it again" in text
        assert cluster[0].json("ls") == []
        path = tmp_path / "lost"
        path.write_bytes(data)
        receipt = cluster[1].json("store", str(path))[0]
        assert receipt["replicas"] == 2
        assert receipt["new_blocks"] == 3  # that leaf, the one that never came, the branch
