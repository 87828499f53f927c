"""What `status` and `explain` say, against a census that is taken by walking the disks (kit.truth)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kit import truth
from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client
from p2pfs.client.reports import Status
from p2pfs.core.cid import CID

KIB = 1024
PATIENCE_S = 60.0
OPTIONS = {
    "cluster__replicas": "2", "cluster__write_quorum": "2", "storage__chunker": "fixed-256KiB",
    "repair__sync_interval": "200ms", "repair__out_after": "1h",
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes, two copies, and nobody's shards are taken over within the test."""
    with Cluster(tmp_path, 3, **OPTIONS) as nodes:
        yield nodes


class Kept(NamedTuple):
    """A file that was stored."""

    path: Path
    cid: CID
    copies: int


def store(node: Node, folder: Path, name: str, copies: int = 2, size: int = 3000 * KIB) -> Kept:
    path = folder / name
    path.write_bytes(random.randbytes(size))
    receipt = node.json("store", f"--replicas={copies}", str(path))[0]
    assert receipt["replicas"] == copies
    return Kept(path, CID.parse(receipt["cid"]), copies)


class Census(NamedTuple):
    """Blocks and bytes, as the field of STATUS's `health` that begins so: by the copies on some disks."""

    live: tuple[int, int]
    below: tuple[int, int]
    single: tuple[int, int]
    none: tuple[int, int]


def census(cluster: Cluster, kept: Sequence[Kept]) -> Census:
    """What the disks of the nodes that run hold of these files, whose blocks all differ."""
    everywhere = [truth.Truth().disk(node.data_dir) for node in cluster]
    reached = [truth.Truth().disk(node.data_dir) for node in cluster.running()]
    rows: list[tuple[int, int, int]] = []
    for file in kept:
        root = truth.count_root(everywhere, file.cid)
        for block in (*root.branches, *root.leaves):
            sizes = [disk.blocks[block].stat().st_size for disk in everywhere if block in disk.blocks]
            rows.append((sizes[0], sum(block in disk.blocks for disk in reached), file.copies))

    def amount(found: list[int]) -> tuple[int, int]:
        return len(found), sum(found)

    return Census(
        amount([size for size, _, _ in rows]),
        amount([size for size, copies, wanted in rows if copies < wanted]),
        amount([size for size, copies, wanted in rows if copies == 1 < wanted]),
        amount([size for size, copies, _ in rows if not copies]),
    )


def status(node: Node) -> Status:
    with Client(str(node.control)) as client:
        return client.status()


def told(found: Status) -> Census:
    """The same from STATUS."""
    health = found.health
    assert health is not None
    return Census(
        (health.live_blocks, health.live_bytes), (health.below_blocks, health.below_bytes),
        (health.single_blocks, health.single_bytes),
        (health.silent_blocks + health.lost_blocks, health.silent_bytes + health.lost_bytes),
    )


def wait_told(nodes: Sequence[Node], expected: Census, verdict: str) -> None:
    """Until all these nodes say that, with the exit code that belongs to it."""
    for node in nodes:
        def agrees(node: Node = node) -> bool:
            found = status(node)
            return (told(found), found.verdict) == (expected, verdict)

        try:
            wait_until(agrees, PATIENCE_S, f"{node.name} says so")
        except TimeoutError:
            found = status(node)
            assert (told(found), found.verdict) == (expected, verdict), f"{node.name}: {found}"
        done = node.cli("--json", "status", check=False)
        assert done.returncode == (0 if verdict == "healthy" else 1)


def explained(node: Node, kept: Kept) -> tuple[dict[str, set[str]], dict[str, Any]]:
    """The names of the holders of each block, and what they add up to."""
    done = node.cli("--json", "explain", str(kept.cid), check=False)
    *rows, end = map(json.loads, done.stdout.splitlines())
    assert done.returncode == (1 if end["below_wanted"] else 0)
    return {row["cid"]: set(row["holders"]) for row in rows}, end


def on_disks(nodes: Sequence[Node], cids: Sequence[str]) -> dict[str, set[str]]:
    disks = [truth.Truth().disk(node.data_dir) for node in nodes]
    return {cid: {disk.name for disk in disks if CID.parse(cid).multihash in disk.blocks} for cid in cids}


def assert_explained(cluster: Cluster, kept: Kept) -> dict[str, Any]:
    """Every running node names exactly the holders that the disks show; what one of them adds them up to."""
    for node in cluster.running():
        holders, end = explained(node, kept)
        assert holders == on_disks(cluster.running(), list(holders))
        below = [names for names in holders.values() if len(names) < kept.copies]
        assert (end["below_wanted"], end["lost"]) == (len(below), sum(not names for names in below))
        assert end["fewest"] == min(map(len, holders.values()))
        assert (end["blocks"], end["wanted"]) == (len(holders), kept.copies)
    return end


def test_healthy_then_copies_of_a_killed_node_are_missed_then_healthy_again(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    kept = [store(a, tmp_path, "two"), store(b, tmp_path, "three", copies=3)]
    whole = census(cluster, kept)
    assert whole.below == (0, 0)
    wait_told([a, b, c], whole, "healthy")
    found = status(a)
    assert (found.left_bytes, found.time_to_go_s, found.lost_pins) == (0, 0.0, [])
    assert not found.reasons
    for file in kept:
        assert assert_explained(cluster, file)["unreachable"] == []
    c.kill()
    hurt = census(cluster, kept)
    assert 0 < hurt.single[0] < hurt.below[0]  # of the file with three copies two are left
    wait_told([a, b], hurt, "at-risk")
    found = status(b)
    assert found.left_bytes == hurt.below[1]
    assert found.time_to_go_s is not None and 0 < found.time_to_go_s <= 3600 + 60
    assert any("node-c" in reason for reason in found.reasons)
    for file in kept:
        assert assert_explained(cluster, file)["unreachable"] == ["node-c"]
    c.start()
    wait_told([a, b, c], whole, "healthy")
    assert status(a).left_bytes == 0


def test_degraded_when_copies_are_missing_and_none_is_the_last_one(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    kept = [store(a, tmp_path, "three", copies=3)]
    wait_told([a], census(cluster, kept), "healthy")
    c.kill()
    hurt = census(cluster, kept)
    assert hurt.single == (0, 0)
    wait_told([a, b], hurt, "degraded")
    assert status(a).left_bytes == hurt.below[1]
    b.kill()
    wait_told([a], census(cluster, kept), "at-risk")
    b.start()
    c.start()
    wait_told([a, b, c], census(cluster, kept), "healthy")


def test_lost_names_the_pin_and_the_bytes_until_it_is_stored_again(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    hurt, whole = store(a, tmp_path, "hurt"), store(b, tmp_path, "whole")
    wait_told([a, b, c], census(cluster, [hurt, whole]), "healthy")
    live = census(cluster, [hurt, whole]).live
    holders, _ = explained(a, hurt)
    victim = next(cid for cid, names in holders.items() if len(names) == 2)
    files = [truth.Truth().disk(node.data_dir).blocks.get(CID.parse(victim).multihash) for node in cluster]
    size = next(path.stat().st_size for path in files if path)
    for path in files:
        if path:
            path.unlink()
    codes = [node.cli("audit", "--wait", check=False).returncode for node in cluster]
    assert codes.count(1) == 2  # its two owners tell that they cannot fetch it
    lost = (1, size)
    wait_told([a, b, c], Census(live, lost, (0, 0), lost), "lost")
    for node in cluster:
        found = status(node)
        assert found.health is not None and (found.health.lost_blocks, found.health.silent_blocks) == (1, 0)
        assert found.lost_pins is not None
        assert [tuple(pin) for pin in found.lost_pins] == [(hurt.cid, "hurt", *lost)]
        assert found.time_to_go_s is None  # it does not come back by itself
        shown = node.cli("status", check=False).stdout
        assert shown.startswith("lost") and str(hurt.cid) in shown
    end = assert_explained(cluster, hurt)
    assert (end["lost"], end["below_wanted"]) == (1, 1)
    assert assert_explained(cluster, whole)["lost"] == 0
    assert c.json("store", str(hurt.path))[0]["new_blocks"] == 1
    wait_told([a, b, c], census(cluster, [hurt, whole]), "healthy")
    assert status(b).lost_pins == []


def test_what_is_stored_again_or_shared_counts_once_and_gets_the_most_copies(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    kept = store(a, tmp_path, "kept", size=1000 * KIB)
    wait_told([a, b, c], census(cluster, [kept]), "healthy")
    live = census(cluster, [kept]).live
    b.cli("store", str(kept.path))
    c.cli("store", "--name=another", str(kept.path))
    wait_told([a, b, c], Census(live, (0, 0), (0, 0), (0, 0)), "healthy")
    b.cli("store", "--name=more", "--replicas=3", str(kept.path))
    more = kept._replace(copies=3)
    wait_until(lambda: census(cluster, [more]).below == (0, 0), PATIENCE_S, "three copies of each block")
    wait_told([a, b, c], Census(live, (0, 0), (0, 0), (0, 0)), "healthy")
    assert_explained(cluster, more)


def test_what_only_a_stopped_node_holds_is_out_of_reach_and_not_lost(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    kept = [store(a, tmp_path, "one", copies=1)]
    whole = census(cluster, kept)
    wait_told([a], whole, "healthy")
    assert c.stop() == 0
    hurt = census(cluster, kept)
    assert hurt.none[0] > 0
    wait_told([a, b], hurt, "at-risk")
    found = status(a)
    assert found.health is not None
    assert (found.health.silent_blocks, found.health.silent_bytes) == hurt.none
    assert found.health.lost_blocks == 0 and found.lost_pins == []
    assert found.time_to_go_s is None  # nobody can know
    assert any("bring back node-c" in reason for reason in found.reasons)
    assert "node-c" in assert_explained(cluster, kept[0])["advice"]
    c.start()
    wait_told([a, b, c], whole, "healthy")


def test_bytes_left_and_time_to_go_fall_to_nothing_while_it_is_repaired(tmp_path: Path) -> None:
    options = {**OPTIONS, "repair__out_after": "1s", "repair__rate": "512KiB"}
    with Cluster(tmp_path, 3, **options) as cluster:
        a, b, c = cluster
        kept = [store(a, tmp_path, "two", size=6000 * KIB)]
        wait_told([a], census(cluster, kept), "healthy")
        c.kill()
        hurt = census(cluster, kept)
        seen: list[tuple[int, float]] = []

        def is_repaired() -> bool:
            found = status(b)
            assert found.health is not None and found.left_bytes is not None
            assert found.left_bytes <= hurt.below[1] + 256 * KIB * 3  # those that are on their way
            if found.left_bytes and found.time_to_go_s is not None:
                seen.append((found.left_bytes, found.time_to_go_s))
            return bool(seen) and not found.left_bytes

        wait_until(is_repaired, PATIENCE_S, "no bytes are left to copy")
        assert max(seen)[0] > min(seen)[0], "it was seen to fall"
        assert seen[-1][1] < max(time_to_go_s for _, time_to_go_s in seen)
        again = census(cluster, kept)
        assert (again.live, again.below) == (hurt.live, (0, 0))
        wait_told([a, b], again, "degraded")  # node-c is away still
        a.cli("forget", "node-c")
        wait_told([a, b], again, "healthy")
        assert status(a).time_to_go_s == 0.0
