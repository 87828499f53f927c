"""Real nodes that lose their catalog: it comes back, from the others and from the journal, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, wait_until


def store(node: Node, folder: Path, name: str) -> Path:
    """A small file of that name, stored."""
    path = folder / name
    path.write_bytes(random.randbytes(100_000))
    node.cli("store", str(path))
    return path


def names(node: Node) -> set[str]:
    return {row["name"] for row in node.json("ls")}


def remove(database: Path) -> None:
    for part in database.parent.glob(database.name + "*"):
        part.unlink()


def spoil(database: Path) -> None:
    """Garbage over all but the first page and the last one, and no log that could mend it."""
    for log in database.parent.glob(database.name + "-*"):
        log.unlink()
    size = max(database.stat().st_size, 8 * 4096)
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(size - 2 * 4096))


@pytest.mark.parametrize("harm", [remove, spoil])
def test_one_of_three_nodes_loses_its_catalog(cluster: Cluster, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    a, b, c = cluster
    path = store(a, tmp_path, f"{harm.__name__}.bin")
    wait_until(lambda: path.name in names(c), 60, "all know the pin")
    known = names(c)
    assert c.stop() == 0
    store(b, tmp_path, f"{harm.__name__}-meanwhile.bin")
    harm(c.data_dir / "catalog.sqlite")
    (c.data_dir / "catalog.jsonl").unlink()
    c.start()
    wait_until(lambda: names(c) == known | {f"{harm.__name__}-meanwhile.bin"}, 60, "the others told it")
    c.cli("get", path.name, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert list((c.data_dir / "quarantine").glob("catalog.sqlite.*")) or harm is remove
    cluster.wait_alive()


@pytest.mark.parametrize("harm", [remove, spoil])
def test_a_cluster_of_one_loses_its_catalog_right_after_a_store(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    with Cluster(tmp_path, 1) as alone:
        (node,) = alone
        old = store(node, tmp_path, "old.bin")
        gone = store(node, tmp_path, "gone.bin")
        node.cli("rm", "gone.bin")
        new = store(node, tmp_path, "new.bin")
        node.kill()
        harm(node.data_dir / "catalog.sqlite")
        node.start()
        assert names(node) == {"old.bin", "new.bin"}
        for path in (old, new):
            node.cli("get", path.name, "-o", str(tmp_path / "back"), "--force")
            assert (tmp_path / "back").read_bytes() == path.read_bytes()
        node.cli("restore", "gone.bin")
        node.cli("get", "gone.bin", "-o", str(tmp_path / "back"), "--force")
        assert (tmp_path / "back").read_bytes() == gone.read_bytes()


def test_what_one_node_removed_another_one_restores(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    path = store(a, tmp_path, "wanted.bin")
    (row,) = [row for row in a.json("ls") if row["name"] == "wanted.bin"]
    for ref in ("wanted.bin", row["cid"], f"sha256:{row['sha256']}"):
        a.cli("rm", ref)
        wait_until(lambda: "wanted.bin" not in names(b), 60, "the tombstone is there")
        (restored,) = b.json("restore", ref)
        assert (restored["cid"], restored["name"]) == (row["cid"], "wanted.bin")
        wait_until(lambda: "wanted.bin" in names(c), 60, "it is known again")
    (again,) = b.json("restore", "wanted.bin")
    assert again == restored
    (now,) = [row for row in c.json("ls") if row["name"] == "wanted.bin"]
    assert now == row
    c.cli("get", "wanted.bin", "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    missing = b.cli("restore", "never-stored.bin", check=False)
    assert missing.returncode == 3
