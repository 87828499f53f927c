"""The main job: what goes in at one node comes out, equal, at another."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kit.cluster import CLI, Cluster, Node, wait_until
from kit.demo import is_same_tree
from p2pfs import CID, Client
from p2pfs.core.profile import CHUNKERS

MIB = 1024 * 1024


def make_tree(folder: Path) -> Path:
    """A tree with everything that a tree can have."""
    tree = folder / f"tree-{random.randrange(10**9)}"
    (tree / "empty").mkdir(parents=True)
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "c" / "deep.txt").write_text("deep\n")
    (tree / "größe-😀.txt").write_text("unicode\n")
    (tree / "nothing").write_bytes(b"")
    (tree / "big").write_bytes(random.randbytes(3 * MIB + 1))
    (tree / "link").symlink_to("a/b/c/deep.txt")
    (tree / "outside").symlink_to("/etc/hostname")
    for number in range(200):
        (tree / "a" / f"{number}.txt").write_text(f"file {number} {random.random()}")
    return tree


def test_a_file_comes_back_from_a_node_that_did_not_store_it(cluster: Cluster, big_file: Path, tmp_path: Path) -> None:
    a, b, c = cluster
    receipt = a.json("store", str(big_file))[0]
    digest = hashlib.sha256(big_file.read_bytes()).hexdigest()
    assert receipt["sha256"] == digest
    assert receipt["size"] == big_file.stat().st_size
    assert receipt["replicas"] == 2
    assert set(receipt["nodes"]) == {"node-a", "node-b", "node-c"}
    assert receipt["cid"] == a.json("id", str(big_file))[0]["cid"]
    for number, node in enumerate((b, c)):
        target = tmp_path / f"back-{number}"
        node.cli("get", receipt["cid"], "-o", str(target))
        assert target.read_bytes() == big_file.read_bytes()


def test_every_way_to_name_a_file(cluster: Cluster, big_file: Path) -> None:
    a, b, _ = cluster
    name = f"named-{random.randrange(10**9)}/part"
    receipt = a.json("store", f"--name={name}", str(big_file))[0]
    for ref in (name, receipt["cid"], f"ipfs://{receipt['cid']}", f"sha256:{receipt['sha256']}"):
        assert b.json("stat", ref)[0]["cid"] == receipt["cid"]


def test_a_pin_that_is_called_like_a_cid_takes_nothing_over(cluster: Cluster, big_file: Path, tmp_path: Path) -> None:
    a, b, _ = cluster
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "inside").write_bytes(random.randbytes(100_000))
    a.cli("store", str(tree))
    inside = a.json("id", str(tree / "inside"))[0]["cid"]
    one = a.json("store", f"--name=one-{inside[-8:]}", str(tree / "inside"))[0]
    other = a.json("store", f"--name={inside}", str(big_file))[0]["cid"]
    assert other != inside == one["cid"]
    assert b.json("stat", inside)[0]["cid"] == inside
    assert b.cli("get", inside, "-o", str(tmp_path / "back")) and (tmp_path / "back").stat().st_size == 100_000
    b.cli("get", "tree", "-o", str(tmp_path / "tree-back"))
    assert is_same_tree(tree, tmp_path / "tree-back")
    assert [row["name"] for row in a.json("rm", inside)] == [one["name"]]
    assert [row["name"] for row in a.json("restore", inside)] == [one["name"]]
    assert [row["name"] for row in a.json("rm", other)] == [inside]


def test_a_tree_comes_back_with_everything_in_it(cluster: Cluster, tmp_path: Path) -> None:
    a, b, _ = cluster
    tree = make_tree(tmp_path)
    receipt = a.json("store", str(tree))[0]
    assert receipt["cid"] == a.json("id", str(tree))[0]["cid"]
    b.cli("get", tree.name, "-o", str(tmp_path / "back"))
    assert is_same_tree(tree, tmp_path / "back")
    assert (tmp_path / "back" / "link").readlink() == Path("a/b/c/deep.txt")
    assert (tmp_path / "back" / "outside").readlink() == Path("/etc/hostname")
    assert b.cli("cat", f"{tree.name}/a/b/c/deep.txt").stdout == "deep\n"
    names = {row["name"]: row["type"] for row in b.json("ls", tree.name)}
    assert names == {
        "empty": "directory", "a": "directory", "größe-😀.txt": "file", "nothing": "file", "big": "file",
        "link": "symlink", "outside": "symlink",
    }


def pinned(node: Node) -> set[str]:
    """The CIDs of its pins. By a client here: a process of the CLI takes long on a busy machine."""
    with Client(str(node.control)) as client:
        return {str(row.cid) for row in client.pins()}


def test_a_pin_is_listed_everywhere_within_two_seconds_and_gone_after_rm(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    path = tmp_path / f"pin-{random.randrange(10**9)}"
    path.write_bytes(random.randbytes(1000))
    cid = a.json("store", str(path))[0]["cid"]
    for node in (a, b, c):
        wait_until(lambda node=node: cid in pinned(node), 2, "the pin is listed")
        assert cid in [row["cid"] for row in node.json("ls")]
    b.cli("rm", path.name)
    for node in (a, b, c):
        wait_until(lambda node=node: cid not in pinned(node), 2, "the pin is gone")
        assert cid not in [row["cid"] for row in node.json("ls")]
    assert a.cli("rm", path.name, check=False).returncode == 3


def test_storing_again_sends_nothing(cluster: Cluster, big_file: Path) -> None:
    a, b, _ = cluster
    first = a.json("store", str(big_file))[0]
    assert first["new_blocks"] == first["blocks"]
    second = b.json("store", "--name=again", str(big_file))[0]
    assert (second["new_blocks"], second["new_bytes"]) == (0, 0)
    assert second["cid"] == first["cid"]


def test_a_dry_run_stores_nothing_and_says_what_it_would(cluster: Cluster, big_file: Path) -> None:
    a, b, _ = cluster
    receipt = a.json("store", "--dry-run", str(big_file))[0]
    assert receipt["new_bytes"] >= big_file.stat().st_size
    assert a.cli("stat", receipt["cid"], check=False).returncode == 3
    b.cli("store", str(big_file))
    assert a.json("store", "--dry-run", str(big_file))[0]["new_bytes"] == 0


@pytest.mark.parametrize("chunker", CHUNKERS)
@pytest.mark.parametrize("hash", ["sha2-256", "blake3"])
def test_every_chunker_and_hash(cluster: Cluster, tmp_path: Path, big_file: Path, chunker: str, hash: str) -> None:
    a, b, _ = cluster
    options = [f"--chunker={chunker}", f"--hash={hash}"]
    cid = a.json("store", *options, str(big_file))[0]["cid"]
    assert cid == a.json("id", *options, str(big_file))[0]["cid"]
    with big_file.open("rb") as stream:
        streamed = a.json("store", *options, "--name=stream", "-", stdin=stream)[0]
    assert (streamed["cid"], streamed["new_bytes"]) == (cid, 0)
    b.cli("get", cid, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big_file.read_bytes()


def test_content_defined_chunks_survive_an_insertion(cluster: Cluster, big_file: Path, tmp_path: Path) -> None:
    a = cluster[0]
    a.cli("store", "--chunker=fastcdc-1MiB", str(big_file))
    shifted = tmp_path / "shifted"
    shifted.write_bytes(b"a few bytes in front" + big_file.read_bytes())
    receipt = a.json("store", "--chunker=fastcdc-1MiB", str(shifted))[0]
    assert receipt["new_bytes"] < receipt["size"] / 2


def test_standard_input_and_output(cluster: Cluster, big_file: Path) -> None:
    a, b, _ = cluster
    content = big_file.read_bytes()
    with big_file.open("rb") as stream:
        receipt = a.json("store", "--name=piped", "-", stdin=stream)[0]
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    command = [sys.executable, str(CLI), f"--node={b.control}", "cat", receipt["cid"]]
    assert subprocess.run(command, capture_output=True, check=True).stdout == content


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (5 * MIB - 1, 2), (12 * MIB, 12345), (0, None), (99 * MIB, 5)])
def test_ranges(cluster: Cluster, big_file: Path, offset: int, length: int | None) -> None:
    a, b, _ = cluster
    cid = a.json("store", str(big_file))[0]["cid"]
    options = [f"--offset={offset}"] + ([] if length is None else [f"--length={length}"])
    command = [sys.executable, str(CLI), f"--node={b.control}", "cat", *options, cid]
    stop = None if length is None else offset + length
    assert subprocess.run(command, capture_output=True, check=True).stdout == big_file.read_bytes()[offset:stop]


def test_a_range_reads_only_its_blocks(cluster: Cluster, tmp_path: Path) -> None:
    # One copy, on one node: whoever does not hold it has to fetch, and counts what it fetched.
    path = tmp_path / "ranged"
    path.write_bytes(random.randbytes(20 * MIB))
    cid = cluster[0].json("store", "--replicas=1", str(path))[0]["cid"]

    def fetched() -> float:
        return sum(node.metric("p2pfs_blocks_fetched_total") for node in cluster)

    before = fetched()
    for node in cluster:
        node.cli("cat", f"--offset={10 * MIB}", "--length=10", cid)
    assert fetched() - before <= 2 * 2


def test_explain_says_what_is_on_the_disks(cluster: Cluster, big_file: Path) -> None:
    a, b, _ = cluster
    receipt = a.json("store", str(big_file))[0]
    *rows, summary = b.json("explain", receipt["cid"])
    assert summary["lost"] == summary["below_wanted"] == 0
    assert len(rows) == receipt["blocks"]
    for row in rows:
        name = CID.parse(row["cid"]).multihash[2:].hex()
        holders = {node.name for node in cluster if (node.data_dir / "blocks" / name[:3] / name).exists()}
        assert set(row["holders"]) == holders
        assert set(row["owners"]) <= holders


def test_a_car_goes_out_and_comes_in(cluster: Cluster, tmp_path: Path) -> None:
    a, b, _ = cluster
    tree = make_tree(tmp_path)
    cid = a.json("store", str(tree))[0]["cid"]
    car = tmp_path / "tree.car"
    b.cli("export", cid, "-o", str(car))
    with Cluster(tmp_path / "elsewhere", 1) as other:
        result = other[0].json("import", "--name=imported", str(car))[0]
        assert [root["cid"] for root in result["roots"]] == [cid]
        other[0].cli("get", "imported", "-o", str(tmp_path / "back"))
    assert is_same_tree(tree, tmp_path / "back")


def test_a_remote_client_needs_only_its_certificate(cluster: Cluster, big_file: Path, tmp_path: Path) -> None:
    a, b, _ = cluster

    def remote(*args: str) -> subprocess.CompletedProcess[str]:
        door = [f"--node={b.address}", f"--tls-dir={a.data_dir / 'client'}"]
        command = [sys.executable, str(CLI), *door, "--json", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    stored = remote("store", str(big_file))
    assert stored.returncode == 0, stored.stderr
    assert remote("get", json.loads(stored.stdout)["cid"], "-o", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == big_file.read_bytes()


def test_peers_and_status(cluster: Cluster) -> None:
    rows = cluster[0].json("peers")
    assert [row["name"] for row in rows] == ["node-a", "node-b", "node-c"]
    assert [row["self"] for row in rows] == [True, False, False]
    assert all(row["state"] == "alive" and row["version"] for row in rows)
    # A member that was late with its answer is named for a moment.
    wait_until(lambda: cluster[0].cli("status", check=False).returncode == 0, 60, "all is well")
    status = cluster[0].json("status")[0]
    assert status["verdict"] == "healthy"
    assert status["replicas_possible"] == 2


@pytest.mark.parametrize(("ref", "code"), [
    ("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", 3), ("no-such-name", 3), ("bafybroken", 3),
    ("sha256:" + "0" * 64, 3), ("sha256:xyz", 2),
])
def test_what_nobody_has(cluster: Cluster, ref: str, code: int) -> None:
    done = cluster[0].cli("get", ref, "-o", "/dev/null/x", check=False)
    assert done.returncode == code, done.stderr
    if ref.startswith("bafkrei"):
        assert "2 of 2 other members do not have it" in done.stderr


def test_an_existing_file_is_not_overwritten(cluster: Cluster, big_file: Path, tmp_path: Path) -> None:
    a = cluster[0]
    a.cli("store", str(big_file))
    target = tmp_path / "there"
    target.write_text("mine")
    assert a.cli("get", "big.bin", "-o", str(target), check=False).returncode == 9
    assert target.read_text() == "mine"
    a.cli("get", "--force", "big.bin", "-o", str(target))
    assert target.stat().st_size == big_file.stat().st_size


def test_no_node(tmp_path: Path) -> None:
    command = [sys.executable, str(CLI), f"--node={tmp_path / 'none.sock'}", "status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    assert "p2pfs-node -c" in done.stderr
    assert os.linesep not in done.stdout
