"""Nodes that join, go for good in good order, are struck or replaced, while files are stored and read."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.cluster import Cluster, Node, wait_until
from p2pfs import errors
from p2pfs.core.cid import CID
from tests.cluster.disks import (
    MIB,
    above,
    below,
    branches,
    content,
    disks,
    id_of,
    is_at_rest,
    leaves,
    make_file,
    peers,
    placement,
    share,
    state,
    store,
    total,
)

COMING_S = 60.0


def nodes(folder: Path, size: int, **options: str) -> Cluster:
    """Two copies; a dead node's shards are taken over after 2 s."""
    return Cluster(folder, size, **{
        "cluster__replicas": "2", "cluster__write_quorum": "2", "repair__out_after": "2s",
        "repair__sync_interval": "500ms", **options,
    })


def filled(cluster: Cluster, folder: Path, count: int = 4, size: int = 8 * MIB) -> dict[CID, bytes]:
    """Files in the cluster, all their copies in place."""
    files = {}
    for number in range(count):
        path = make_file(folder / f"filled-{number}", size)
        files[store(cluster[number % len(cluster.running())], path)] = path.read_bytes()
    wait_until(lambda: not below(disks(cluster), files, 2), COMING_S, "all copies are there at first")
    wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest")
    return files


@contextmanager
def in_use(node: Node, folder: Path, files: dict[CID, bytes]) -> Iterator[dict[CID, bytes]]:
    """Stores and gets go on through a node while the body runs, and all of them come to a good end.

    Yields what was stored meanwhile, as it grows.
    """
    is_over = threading.Event()
    problems: list[str] = []
    stored: dict[CID, bytes] = {}
    rounds = 0

    def use() -> None:
        nonlocal rounds
        try:
            while not is_over.is_set():
                path = make_file(folder / f"meanwhile-{rounds}", MIB)
                stored[store(node, path)] = path.read_bytes()
                for cid, right in [*files.items(), *stored.items()]:
                    if content(node, cid) != right:
                        problems.append(f"{cid}: other bytes")
                rounds += 1
        except errors.P2pfsError as error:
            problems.append(repr(error))

    thread = threading.Thread(target=use)
    thread.start()
    try:
        yield stored
        wait_until(lambda: rounds > 0 or not thread.is_alive(), 60, "all was read at least once")
    finally:
        is_over.set()
        thread.join(60)
    assert problems == []
    assert rounds


def wait_healthy(node: Node) -> None:
    """Until it says so: a member that was late with its answer is named for a moment."""
    wait_until(lambda: node.json("status", check=False)[0]["verdict"] == "healthy", 60, f"{node.name}: all is well")


def newcomer(cluster: Cluster, name: str) -> Node:
    """One more member, not started yet."""
    first = cluster[0]
    node = Node(cluster.folder, name, {
        key: value for key, value in first.options.items() if not key.startswith("node.") and key != "cluster.seeds"
    })
    node.options["cluster.seeds"] = ",".join(it.address for it in cluster)
    cluster.nodes.append(node)
    return node


def test_a_joining_node_gets_its_share_and_nothing_else_is_copied(tmp_path: Path) -> None:
    with nodes(tmp_path, 3) as cluster:
        old = list(cluster)
        files = filled(cluster, tmp_path)
        sizes = leaves(disks(old), files)
        repaired = total(old, "p2pfs_bytes_repaired_total")
        with in_use(cluster[1], tmp_path, files) as stored:
            new = newcomer(cluster, "node-d").start()
            cluster.wait_alive()
            owners = placement(peers(old[0]))
            ideal = share(sizes, owners, id_of(old[0], new), 2)
            wait_until(lambda: ideal <= disks([new])[0].blocks.keys(), COMING_S, "the newcomer has its share")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest")
        everything = {**files, **stored}
        wait_until(lambda: not above(disks(cluster), everything, 2), COMING_S, "the others gave up what is surplus")
        found = disks(cluster)
        assert not below(found, everything, 2)
        for node, disk in zip(cluster, found, strict=True):
            right = share(leaves(found, everything), owners, id_of(old[0], node), 2)
            assert set(disk.blocks) == right | branches(found, everything)
        moved = new.metric("p2pfs_bytes_repaired_total")
        ideal_bytes = sum(sizes[leaf] for leaf in ideal)
        meanwhile_bytes = sum(len(data) for data in stored.values())  # some of it may have gone to the old owners
        assert ideal_bytes > 8 * MIB
        assert ideal_bytes <= moved <= 1.1 * ideal_bytes + meanwhile_bytes
        assert total(old, "p2pfs_bytes_repaired_total") - repaired <= meanwhile_bytes


def test_a_joining_node_without_room_fetches_nothing_in_vain(tmp_path: Path) -> None:
    with nodes(tmp_path, 2) as cluster:
        files = filled(cluster, tmp_path)
        roots = list(files)
        small = newcomer(cluster, "node-z")
        small.options["storage.max_size"] = "1MiB"
        small.start()

        def is_displaced() -> bool:
            health = small.json("status", check=False)[0]["health"]
            return health["displaced_blocks"] > 0 and not health["missing_blocks"]

        wait_until(is_displaced, COMING_S, "it knows that others hold its share")
        wait_healthy(cluster[0])
        status = cluster[0].json("status", check=False)[0]
        assert any("no room" in reason and "node-z" in reason for reason in status["reasons"])
        assert below(disks(cluster), roots, 2) == 0
        fetched = small.metric("p2pfs_blocks_fetched_total")
        small.cli("audit", "--wait", check=False)
        assert small.metric("p2pfs_blocks_fetched_total") <= fetched + 1, "nothing is fetched to be refused"
        assert is_displaced()


def test_a_drain_leaves_nothing_behind_and_the_node_goes_by_itself(tmp_path: Path) -> None:
    with nodes(tmp_path, 4) as cluster:
        stay, going = list(cluster)[:3], cluster[3]
        files = filled(cluster, tmp_path)
        with in_use(cluster[0], tmp_path, files) as stored:
            done = going.json("drain", "--wait")[0]
        assert done["is_drained"]
        assert done["left_blocks"] == 0
        # At this moment, not a while later: the operator pulls the plug when the command has ended.
        with cluster.standing_still():
            assert not below(disks(stay), files, 2)
        wait_until(lambda: state(stay[0], going) == "draining", 60, "it is not suspected by mistake, either")
        wait_until(lambda: not below(disks(stay), stored, 2), 60, "the others have what came at last")
        assert going.stop() == 0
        for node in stay:
            wait_until(lambda node=node: state(node, going) in ("", "left"), 60, f"{node.name}: it left the table")
        wait_until(lambda: all(is_at_rest(node) for node in stay), 60, "and that was all")
        wait_healthy(stay[0])


def test_a_drain_goes_on_after_a_kill_and_can_be_taken_back(tmp_path: Path) -> None:
    with nodes(tmp_path, 4, repair__rate="2MiB", repair__out_after="10m") as cluster:
        stay, going = list(cluster)[:3], cluster[3]
        files = filled(cluster, tmp_path)
        left = going.json("drain")[0]
        assert left["is_draining"]
        assert not left["is_drained"]
        wait_until(lambda: total(stay, "p2pfs_blocks_repaired_total") > 2, 60, "it has begun")
        going.kill()
        with cluster.standing_still():
            assert below(disks(stay), files, 2), "the kill came too late to be in the middle"
        going.start()
        assert going.json("status", check=False)[0]["is_draining"]
        assert going.json("drain", "--wait")[0]["is_drained"]
        with cluster.standing_still():
            assert not below(disks(stay), files, 2)
        # And back: its share comes to it again.
        assert not going.json("drain", "--cancel")[0]["is_draining"]
        owners = placement(peers(going))
        assert id_of(going, going) in owners.order(0)
        right = share(leaves(disks(stay), files), owners, id_of(going, going), 2)
        wait_until(lambda: right <= disks([going])[0].blocks.keys(), COMING_S, "it has its share again")
        going.kill()
        going.start()
        assert not going.json("status", check=False)[0]["is_draining"]


def test_a_drain_is_refused_when_too_few_would_remain(tmp_path: Path) -> None:
    with nodes(tmp_path, 2) as cluster:
        refused = cluster[1].cli("drain", check=False)
        assert refused.returncode == 8
        assert "2 copies" in refused.stderr
        assert "node-a" in refused.stderr
        assert not cluster[1].json("status", check=False)[0]["is_draining"]
        assert state(cluster[0], cluster[1]) == "alive"


def test_forget_strikes_a_dead_member_everywhere_and_no_other(tmp_path: Path) -> None:
    with nodes(tmp_path, 4, repair__out_after="10m") as cluster:
        a, gone = cluster[0], cluster[3]
        assert a.cli("forget", gone.name, check=False).returncode == 9
        unknown = a.cli("forget", "nobody", check=False)
        assert unknown.returncode == 3
        assert "node-d" in unknown.stderr  # whom there is
        files = filled(cluster, tmp_path, 1)
        gone.kill()
        wait_until(lambda: state(a, gone) == "dead", 60, "it counts as dead")
        assert a.json("forget", gone.name)[0]["name"] == gone.name
        for node in cluster.running():
            wait_until(lambda node=node: state(node, gone) in ("", "left"), 60, f"{node.name} heard of it")
        # Struck means for good: nobody waits out_after for it.
        wait_until(lambda: not below(disks(cluster.running()), files, 2), COMING_S, "its copies are made up for")
        gone.start()  # and should it live after all, it is a member again
        wait_until(lambda: state(a, gone) == "alive", 60, "it said so")


def test_a_replaced_node_costs_no_data(tmp_path: Path) -> None:
    with nodes(tmp_path, 3) as cluster:
        stay, broken = list(cluster)[:2], cluster[2]
        files = filled(cluster, tmp_path)
        with in_use(cluster[0], tmp_path, files) as stored:
            was = id_of(cluster[0], broken)
            broken.kill()
            shutil.rmtree(broken.data_dir)
            wait_until(lambda: state(cluster[0], broken) == "dead", 60, "it counts as dead")
            broken.start()  # another disk, under the old name and address
            wait_until(lambda: len([row for row in peers(cluster[0]) if row.name == broken.name]) == 2, 60, "it is new")
            assert cluster[0].json("forget", broken.name)[0]["id"] == was
        everything = {**files, **stored}
        wait_until(lambda: not below(disks(cluster), everything, 2), COMING_S, "every copy is back")
        for node in cluster:
            wait_until(lambda node=node: [row.state for row in peers(node)] == ["alive"] * 3, 60, "three again")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest")
        wait_healthy(cluster[0])
        for cid, right in everything.items():
            assert content(broken, cid) == right
        assert not [node for node in stay if node.process is None or node.process.poll() is not None]
