"""Collection on real nodes: what it takes, what it says it would take, and each thing that holds it up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit import truth
from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client
from p2pfs.core import car
from p2pfs.core.cid import CID, DAG_PB
from p2pfs.core.multihash import Multihash, digest_of

KIB = 1024
HOUR_S = 3600
GRACE_S = 24 * HOUR_S
"""Unless a test says otherwise."""
OPTIONS = {
    "cluster__replicas": "2", "cluster__write_quorum": "2", "storage__chunker": "fixed-256KiB",
    "repair__sync_interval": "200ms", "repair__out_after": "1h",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, two copies, a grace of a day; shared, and all nodes run after each test."""
    with Cluster(tmp_path_factory.mktemp("collection"), 3, **OPTIONS) as nodes:
        yield nodes


def store(node: Node, folder: Path, name: str, size: int = 700 * KIB) -> Path:
    """A file of three leaves, stored under its name."""
    path = folder / name
    path.write_bytes(random.randbytes(size))
    node.cli("store", str(path))
    return path


def disk(node: Node) -> dict[Multihash, Path]:
    return truth.Truth().disk(node.data_dir).blocks


def plant(node: Node, count: int) -> dict[str, int]:
    """Blocks that no pin ever wanted, twice as old as the grace: what remains of stores that failed. Size by name."""
    planted = {}
    for number in range(count):
        data = random.randbytes(1000 + number)
        name = hashlib.sha256(data).hexdigest()
        path = node.data_dir / "blocks" / name[:3] / name
        path.write_bytes(data)
        path.chmod(0o444)
        make_old(path)
        planted[name] = len(data)
    return planted


def make_old(*paths: Path) -> None:
    then = time.time() - 2 * GRACE_S
    for path in paths:
        os.utime(path, (then, then))


def planted_here(node: Node, planted: dict[str, int]) -> set[str]:
    return {path.name for path in disk(node).values()} & planted.keys()


def gc(node: Node, *options: str) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it says."""
    done = node.cli("--json", "gc", *options, check=False)
    said: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, said


def wait_first_audit(cluster: Cluster) -> None:
    """Nobody has the pass before him that each node makes by itself at its start."""
    for node in cluster:
        with Client(str(node.control)) as client:
            wait_until(lambda client=client: client.status().audit.last_end is not None, 60, "the first audit")


def assert_equal(node: Node, path: Path) -> None:
    back = path.with_name(f"{path.name}.back")
    node.cli("get", path.name, "-o", str(back), "--force")
    assert back.read_bytes() == path.read_bytes()


def test_what_was_removed_is_kept_for_the_grace_and_restored_by_another_node(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    path = store(a, tmp_path, "kept")
    before = [disk(node) for node in cluster]
    for blocks in before:
        make_old(*blocks.values())  # the age of the blocks is no protection: the removed pin is
    a.cli("rm", "kept")
    for node in cluster:
        code, said = gc(node)
        assert (code, said["collected_blocks"], said["held_up"]) == (0, 0, "")
        assert said["waiting_blocks"] >= 1
    assert [disk(node).keys() for node in cluster] == [blocks.keys() for blocks in before]
    b.cli("restore", "kept")
    assert_equal(c, path)


def test_a_dry_run_removes_nothing_and_tells_what_the_next_one_collects(cluster: Cluster, tmp_path: Path) -> None:
    a = cluster[0]
    path = store(a, tmp_path, "beside")
    wait_first_audit(cluster)
    planted = plant(a, 5)
    before = disk(a).keys()
    dry = gc(a, "--dry-run")
    assert dry == gc(a, "--dry-run")
    assert disk(a).keys() == before
    code, said = gc(a)
    assert (code, said) == (0, {**dry[1], "dry_run": False})
    assert (said["collected_blocks"], said["collected_bytes"], said["held_up"]) == (5, sum(planted.values()), "")
    assert not planted_here(a, planted)
    assert len(disk(a)) == len(before) - 5
    assert gc(a)[1]["collected_blocks"] == 0
    assert_equal(a, path)


def test_a_branch_that_nobody_has_holds_it_up_everywhere_until_it_is_back(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    broken, whole = store(a, tmp_path, "broken"), store(b, tmp_path, "whole")
    cid = CID.parse(a.json("stat", "broken")[0]["cid"])
    for node in cluster:
        # Whatever a node remembers of the branch is gone with the process.
        assert node.stop() == 0
        (node.data_dir / "blocks" / digest_of(cid.multihash).hex()[:3] / digest_of(cid.multihash).hex()).unlink()
        make_old(*disk(node).values())
    for node in cluster:
        node.start()
    cluster.wait_alive()
    wait_first_audit(cluster)
    planted = plant(a, 2)
    before = [disk(node).keys() for node in cluster]
    for node in cluster:
        code, said = gc(node)
        assert (code, said["collected_blocks"]) == (1, 0)
        assert str(cid) in said["held_up"]
        assert gc(node, "--dry-run")[0] == 0
    assert [disk(node).keys() for node in cluster] == before  # neither these blocks, nor what lies below that branch
    assert str(cid) in a.json("status", check=False)[0]["audit"]["unreadable"]
    assert_equal(c, whole)
    receipt = c.json("store", str(broken))[0]
    assert receipt["new_blocks"] == 1
    assert gc(a)[0] == 0
    assert not planted_here(a, planted)
    assert_equal(b, broken)


def test_a_member_that_is_away_holds_it_up_until_it_is_forgotten(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3, **OPTIONS) as cluster:
        a, b, c = cluster
        path = store(a, tmp_path, "held")
        wait_first_audit(cluster)
        planted = plant(a, 3)
        c.kill()
        code, said = gc(a)  # nobody has noticed yet
        assert (code, said["collected_blocks"]) == (1, 0)
        assert "node-c" in said["held_up"]
        wait_until(lambda: a.states()["node-c"] == "dead", 60, "it counts as dead")
        done = a.cli("gc", check=False)
        assert done.returncode == 1
        assert "node-c" in done.stderr and "forget" in done.stderr
        assert planted_here(a, planted) == planted.keys()
        assert any("node-c" in reason for reason in a.json("status", check=False)[0]["reasons"])
        b.cli("forget", "node-c")
        wait_until(lambda: gc(a)[0] == 0, 60, "nothing holds it up")
        assert not planted_here(a, planted)
        assert_equal(b, path)


def test_a_node_without_room_for_a_pin_keeps_its_blocks_and_says_so_everywhere(tmp_path: Path) -> None:
    options = {**OPTIONS, "cluster__replicas": "3", "storage__gc_grace": "1s"}
    nodes = Cluster(tmp_path, 3, **options)
    nodes.nodes[2].options["storage.max_pins"] = "1"
    with nodes as cluster:
        a, _, c = cluster
        wait_first_audit(cluster)
        store(a, tmp_path, "first")
        wait_until(lambda: len(c.json("ls")) == 1, 60, "the pin is everywhere")
        path = store(a, tmp_path, "second")
        blocks = wanted_of([truth.Truth().disk(a.data_dir)], a.json("stat", "second")[0])
        wait_until(lambda: disk(c).keys() >= blocks, 60, "the third copy is there")
        assert len(c.json("ls")) == 1
        planted = plant(a, 1)
        make_old(*disk(c).values())
        code, said = gc(c)
        assert (code, said["collected_blocks"]) == (1, 0)
        assert "full with 1 records; see [storage] max_pins on this node" in said["held_up"]
        assert disk(c).keys() >= blocks
        code, said = gc(a)
        assert (code, said["collected_blocks"]) == (1, 0)
        assert "node-c (its catalog is full; see [storage] max_pins there)" in said["held_up"]
        assert any("max_pins" in reason for reason in c.json("status", check=False)[0]["reasons"])
        assert c.stop() == 0
        del c.options["storage.max_pins"]
        c.start()
        wait_until(lambda: gc(c)[0] == gc(a)[0] == 0, 60, "nothing holds it up")
        assert disk(c).keys() >= blocks
        assert not planted_here(a, planted)
        assert_equal(c, path)


def test_what_a_restore_or_a_partial_car_finds_in_one_copy_has_two_when_it_is_acknowledged(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2, **OPTIONS, repair__rate="64KiB") as cluster:  # the repair would take 4 s for each leaf
        a, b = cluster
        path = store(a, tmp_path, "thin", 4 * 256 * KIB)
        root = CID.parse(a.json("stat", "thin")[0]["cid"])
        blocks = wanted_of([truth.Truth().disk(a.data_dir)], a.json("stat", "thin")[0])
        a.cli("export", "thin", "-o", str(tmp_path / "whole.car"))
        leave_branches_only(tmp_path / "whole.car", tmp_path / "part.car")

        def take_away_one_copy_each() -> None:
            a.cli("rm", str(root))
            leaves = sorted(truth.count_root([truth.Truth().disk(a.data_dir)], root).leaves)
            for node, gone in ((a, leaves[:2]), (b, leaves[2:])):
                for block in gone:
                    disk(node)[block].unlink()

        take_away_one_copy_each()
        b.cli("restore", "thin")
        assert disk(a).keys() == disk(b).keys() == blocks
        take_away_one_copy_each()
        receipt = b.json("import", "--name=thin", str(tmp_path / "part.car"))[0]
        assert disk(a).keys() == disk(b).keys() == blocks
        assert (receipt["blocks"], receipt["replicas"]) == (1, 2)
        assert a.json("ls")[0]["blocks"] == len(blocks)
        assert_equal(a, path)
        take_away_one_copy_each()
        b.kill()
        done = a.cli("restore", "thin", check=False)
        assert done.returncode == 3  # half of it was on the other one only
        assert "missing" in done.stderr


def leave_branches_only(whole: Path, part: Path) -> None:
    """A CAR without the leaves of another one."""
    with whole.open("rb") as source, part.open("wb") as target:
        reader = car.CarReader(source.read)
        target.write(car.header(reader.roots))
        for cid, data in reader:
            if cid.codec == DAG_PB:
                target.write(car.frame(cid, data) + data)


def test_what_was_collected_cannot_be_restored_and_that_is_said(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3, **OPTIONS, storage__gc_grace="1s") as cluster:
        a, b, c = cluster
        other = store(c, tmp_path, "other")
        store(a, tmp_path, "gone")
        cid = a.json("stat", "gone")[0]["cid"]
        a.cli("rm", "gone")

        def is_gone() -> bool:
            for node in cluster:
                gc(node)
            disks = [truth.Truth().disk(node.data_dir) for node in cluster]
            return {block for found in disks for block in found.blocks} == wanted_of(disks, b.json("stat", "other")[0])

        wait_until(is_gone, 60, "the blocks of the other file are all there is")
        done = b.cli("restore", "gone", check=False)
        assert done.returncode == 3
        assert cid in done.stderr
        assert "gone" not in {row["name"] for node in cluster for row in node.json("ls")}
        assert_equal(b, other)


def wanted_of(disks: list[truth.Disk], row: dict[str, Any]) -> set[Multihash]:
    root = truth.count_root(disks, CID.parse(row["cid"]))
    return {*root.leaves, *root.branches}


def test_a_catalog_begun_anew_on_a_cluster_of_one_collects_nothing_until_it_is_put_back(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        (a,) = cluster
        path = store(a, tmp_path, "only")
        assert a.stop() == 0
        journal = (a.data_dir / "catalog.jsonl").read_bytes()
        for part in a.data_dir.glob("catalog.*"):
            part.unlink()
        planted = plant(a, 2)
        before = disk(a)
        make_old(*before.values())
        a.start()
        assert a.json("ls") == []
        code, said = gc(a)
        assert (code, said["collected_blocks"]) == (1, 0)
        assert "catalog" in said["held_up"]
        a.kill()
        a.start()  # it knows that after a restart, too
        assert gc(a)[0] == 1
        assert disk(a).keys() == before.keys()
        assert a.stop() == 0
        for part in a.data_dir.glob("catalog.*"):
            part.unlink()
        (a.data_dir / "catalog.jsonl").write_bytes(journal)
        a.start()
        wait_until(lambda: gc(a)[0] == 0, 60, "nothing holds it up")
        assert not planted_here(a, planted)
        assert_equal(a, path)


def test_a_full_node_collects_and_takes_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, storage__max_size="2MiB", storage__gc_grace="1s") as cluster:
        (a,) = cluster
        store(a, tmp_path, "large", 2048 * KIB - 1000)
        next_one = tmp_path / "next"
        next_one.write_bytes(random.randbytes(1500 * KIB))
        assert a.cli("store", str(next_one), check=False).returncode == 6
        a.cli("rm", "large")
        wait_until(lambda: gc(a)[0] == 0 and not disk(a), 60, "all is collected")
        a.cli("store", str(next_one))
        assert_equal(a, next_one)
