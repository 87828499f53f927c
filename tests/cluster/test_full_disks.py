"""Disks that are full to the last byte or the last inode: a small tmpfs for each data directory (root only)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, wait_until

MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")


@contextlib.contextmanager
def small_disk(node: Node, options: str) -> Iterator[None]:
    """The node's data directory on a disk of its own, `options` as `mount -t tmpfs -o` takes them."""
    node.data_dir.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "p2pfs-test", str(node.data_dir)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.decode()}")
    try:
        yield
    finally:
        node.kill()
        subprocess.run(["umount", "-l", str(node.data_dir)], check=True)


@contextlib.contextmanager
def cluster_with(folder: Path, size: int, full: int, options: str) -> Iterator[Cluster]:
    """A cluster of `size` nodes, one of which has a small disk."""
    limits = {"cluster__replicas": str(min(2, size)), "cluster__write_quorum": str(min(2, size))}
    cluster = Cluster(folder, size, **limits)
    with small_disk(cluster[full], options), cluster:
        yield cluster


def new_file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(random.randbytes(size))
    return path


def fill(node: Node) -> Path:
    """Somebody else's file takes the rest of the disk, to the last byte."""
    path = node.data_dir / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(node.data_dir).f_bavail == 0
    return path


def fill_inodes(node: Node) -> None:
    """Somebody else's files take the rest of the inodes."""
    folder = node.data_dir / "fillers"
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (folder / str(number)).touch()
    assert os.statvfs(node.data_dir).f_favail == 0


def check_blocks(node: Node) -> None:
    """What is there under a final name is whole, and nothing else is left of what was refused."""
    for path in (node.data_dir / "blocks").rglob("*"):
        if path.is_file() and path.name != "lost+found":
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert [path for path in (node.data_dir / "temp").rglob("*") if path.is_file()] == []


def get(node: Node, name: str, path: Path, folder: Path) -> None:
    """The file comes back as it was."""
    target = folder / f"{name}-from-{node.name}-{random.randrange(10**9)}"
    node.cli("get", name, "-o", str(target))
    assert target.read_bytes() == path.read_bytes()


def test_a_full_disk_refuses_with_a_reason_and_goes_on_with_all_else(tmp_path: Path) -> None:
    with cluster_with(tmp_path, 1, 0, "size=16m") as cluster:
        a = cluster[0]
        kept = new_file(tmp_path, "kept", 5 * MIB)
        a.cli("store", str(kept))
        filler = fill(a)
        done = a.cli("store", str(new_file(tmp_path, "more", 3 * MIB)), check=False)
        assert done.returncode == 6, done.stderr
        assert "o space" in done.stderr or "o room" in done.stderr
        check_blocks(a)
        get(a, "kept", kept, tmp_path)
        assert [pin["name"] for pin in a.json("ls")] == ["kept"]
        assert a.json("status", check=False)[0]["free_bytes"] == 0
        a.cli("rm", "kept")
        assert a.json("ls") == []
        a.kill()
        a.start()
        a.cli("restore", "kept")
        a.cli("rm", "kept")
        filler.unlink()
        again = new_file(tmp_path, "again", 3 * MIB)
        a.cli("store", str(again))
        get(a, "again", again, tmp_path)


def test_the_next_rank_takes_what_a_full_disk_refuses(tmp_path: Path) -> None:
    with cluster_with(tmp_path, 3, 2, "size=12m") as cluster:
        a, b, c = cluster
        first, second = new_file(tmp_path, "first", 30 * MIB), new_file(tmp_path, "second", 10 * MIB)
        assert a.json("store", str(first))[0]["replicas"] == 2
        fill(c)
        assert a.json("store", str(second))[0]["replicas"] == 2
        check_blocks(c)
        get(c, "first", first, tmp_path)
        c.kill()
        for name, path in (("first", first), ("second", second)):
            get(b, name, path, tmp_path)


def test_a_disk_without_inodes(tmp_path: Path) -> None:
    # A block store needs 4096 for the folders of its shards.
    with cluster_with(tmp_path, 3, 2, "size=64m,nr_inodes=5000") as cluster:
        a, b, c = cluster
        fill_inodes(c)
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(150):
            new_file(folder, f"f{number}", 2000)
        assert a.json("store", str(folder))[0]["replicas"] == 2
        check_blocks(c)
        c.cli("get", "many", "-o", str(tmp_path / "back"))
        assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(
            path.name for path in folder.iterdir()
        )
        c.cli("rm", "many")
        wait_until(lambda: b.json("ls") == [], 60, "the others know")


def test_a_node_starts_on_a_full_disk_and_serves_what_it_has(tmp_path: Path) -> None:
    with cluster_with(tmp_path, 1, 0, "size=16m") as cluster:
        a = cluster[0]
        kept = new_file(tmp_path, "kept", 5 * MIB)
        a.cli("store", str(kept))
        for end in (a.stop, a.kill):
            end()
            fill(a)
            a.start()
            get(a, "kept", kept, tmp_path)
            (a.data_dir / "filler").unlink()
