"""Nodes that die, hang, lie about who they are, or run out of room. Each test has a cluster of its own."""

from __future__ import annotations

import datetime
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from kit.cluster import CLI, Cluster, Node, wait_until
from p2pfs.daemon import DESCRIPTORS

MIB = 1024 * 1024


def make_file(path: Path, size: int) -> Path:
    """Random bytes."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(random.randbytes(MIB))
    return path


def said_at(node: Node, words: str) -> float:
    """When the node logged that first, by the clock that all have in common."""
    line = next(line for line in node.log().splitlines() if words in line)
    return datetime.datetime.fromisoformat(line.split()[0]).timestamp()


def written(node: Node) -> int:
    """Bytes that the process has written so far, by proc(5): a node that works hard answers no question so soon."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def three(folder: Path, **options: str) -> Cluster:
    """Three nodes, two copies."""
    return Cluster(folder, 3, **{"cluster__replicas": "2", "cluster__write_quorum": "2", **options})


def test_a_killed_node_is_dead_for_all_within_five_seconds_and_files_survive(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 5 * MIB)
    with three(tmp_path) as cluster:
        a, b, c = cluster
        a.cli("store", str(path))
        killed_at = time.time()
        a.kill()
        for node in (b, c):
            wait_until(lambda node=node: node.states()["node-a"] == "dead", 60, f"{node.name} notices")
            assert said_at(node, "member node-a is dead") - killed_at < 5
        status = b.cli("--json", "status", check=False)
        assert status.returncode == 1
        assert "node-a" in status.stdout
        for node in (b, c):
            node.cli("get", "f", "-o", str(tmp_path / node.name / "back"))
            assert (tmp_path / node.name / "back").read_bytes() == path.read_bytes()
        a.start()
        wait_until(lambda: b.states()["node-a"] == "alive", 60, "node-a is back")
        wait_until(lambda: len(a.json("ls")) == 1, 60, "its catalog is")


def test_a_paused_node_refutes_and_comes_back(tmp_path: Path) -> None:
    with three(tmp_path) as cluster:
        a, b, c = cluster
        before = {row["name"]: row["incarnation"] for row in b.json("peers")}["node-c"]
        c.signal(signal.SIGSTOP)
        wait_until(lambda: b.states()["node-c"] in ("suspect", "dead"), 60, "it is suspected")
        c.signal(signal.SIGCONT)
        for node in (a, b):
            wait_until(lambda node=node: node.states()["node-c"] == "alive", 60, "it is alive again")
        assert {row["name"]: row["incarnation"] for row in b.json("peers")}["node-c"] > before


def test_members_are_remembered_and_the_seed_may_be_gone(tmp_path: Path) -> None:
    with three(tmp_path) as cluster:
        a, b, c = cluster
        for node in (b, c):
            assert node.stop() == 0  # a clean stop writes the list, too
        a.kill()
        b.start()
        c.start()
        wait_until(lambda: c.states().get("node-b") == "alive", 60, "they find each other without the seed")
        assert c.states()["node-a"] in ("alive", "suspect", "dead")


def test_too_few_nodes_for_the_wanted_durability(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 3 * MIB)
    with three(tmp_path) as cluster:
        a, b, c = cluster
        b.kill()
        c.kill()
        wait_until(lambda: set(a.states().values()) == {"alive", "dead"}, 60, "both are dead")
        done = a.cli("store", str(path), check=False)
        assert done.returncode == 8, done.stderr
        assert a.json("ls") == []
        receipt = a.json("store", "--replicas=1", str(path))[0]
        assert receipt["replicas"] == 1


def test_a_store_goes_on_when_an_owner_dies_and_the_next_rank_takes_over(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 200 * MIB)
    with three(tmp_path) as cluster:
        a, b, c = cluster
        before = written(c)
        process = subprocess.Popen(
            [sys.executable, str(CLI), f"--node={a.control}", "--json", "store", str(path)], stdout=subprocess.PIPE
        )
        wait_until(lambda: written(c) > before + 5 * MIB, 60, "node-c takes blocks")
        c.kill()
        assert process.wait(60) == 0
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_get_goes_on_when_a_holder_dies_and_nothing_partial_is_seen(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 300 * MIB)
    target = tmp_path / "back"
    with three(tmp_path) as cluster:
        a, b, c = cluster
        a.cli("store", str(path))
        before = written(b)
        process = subprocess.Popen([sys.executable, str(CLI), f"--node={b.control}", "get", "f", "-o", str(target)])
        wait_until(lambda: written(b) > before + 20 * MIB, 60, "it fetches")
        c.kill()
        assert not target.exists() or process.wait(60) == 0
        assert process.wait(60) == 0
        assert target.read_bytes() == path.read_bytes()


def test_a_get_and_a_store_go_on_when_a_node_hangs(tmp_path: Path) -> None:
    path, other = make_file(tmp_path / "f", 60 * MIB), make_file(tmp_path / "g", 60 * MIB)
    with three(tmp_path) as cluster:
        a, b, c = cluster
        a.cli("store", str(path))
        c.signal(signal.SIGSTOP)
        begin = time.monotonic()
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        hedged_s = time.monotonic() - begin
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        assert hedged_s < 10  # each block waits for its hedge at most, not for a deadline
        assert a.json("store", str(other))[0]["replicas"] == 2
        assert time.monotonic() - begin < 60
        c.signal(signal.SIGCONT)
        wait_until(lambda: a.states()["node-c"] == "alive", 60, "it is back")


def test_an_interrupted_get_leaves_nothing_under_the_name_and_continues(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 300 * MIB)
    target = tmp_path / "back"
    with three(tmp_path) as cluster:
        a, b, _ = cluster
        a.cli("store", str(path))
        at_first = written(b)
        process = subprocess.Popen([sys.executable, str(CLI), f"--node={b.control}", "get", "f", "-o", str(target)])
        wait_until(lambda: written(b) > at_first + 40 * MIB, 60, "it fetches")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert not target.exists()
        before = b.metric("p2pfs_blocks_fetched_total")
        b.cli("get", "f", "-o", str(target))
        assert target.read_bytes() == path.read_bytes()
        total = b.metric("p2pfs_blocks_fetched_total")
        assert total - before < 100  # a third of 300 leaves is missing here; some of it was there already
        assert before > 3


def test_an_interrupted_store_is_invisible_and_continues(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 300 * MIB)
    with three(tmp_path) as cluster:
        a = cluster[0]
        before = written(a)
        process = subprocess.Popen([sys.executable, str(CLI), f"--node={a.control}", "store", str(path)])
        wait_until(lambda: written(a) > before + 30 * MIB, 60, "it stores")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert a.json("ls") == []
        receipt = a.json("store", str(path))[0]
        assert receipt["new_blocks"] < receipt["blocks"] - 10


def test_a_full_disk_refuses_shows_nothing_and_is_usable_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, storage__max_size="20MiB") as cluster:
        a = cluster[0]
        done = a.cli("store", str(make_file(tmp_path / "large", 40 * MIB)), check=False)
        assert done.returncode == 6, done.stderr
        assert "max_size" in done.stderr
        assert a.json("ls") == []
        wait_until(lambda: a.json("status", check=False)[0]["stored_bytes"] < MIB, 60, "the space is free again")
        a.cli("store", str(make_file(tmp_path / "fits", 15 * MIB)))
        a.cli("get", "fits", "-o", str(tmp_path / "back"))


def test_a_full_owner_makes_the_next_rank_take_the_block(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 30 * MIB)
    with three(tmp_path) as cluster:
        a, b, c = cluster
        c.stop()
        c.options["storage.max_size"] = "2MiB"
        c.start()
        cluster.wait_alive()
        assert a.json("store", str(path))[0]["replicas"] == 2
        c.kill()
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_node_with_another_secret_gets_nothing(tmp_path: Path) -> None:
    with three(tmp_path) as cluster:
        stranger = Node(tmp_path, "stranger", {
            "cluster.secret": secrets.token_hex(32), "cluster.seeds": cluster[0].address,
        })
        stranger.start()
        try:
            wait_until(lambda: cluster[0].address in stranger.log(), 60, "it tries")
            assert set(stranger.states()) == {"stranger"}
            assert "stranger" not in cluster[0].states()
            assert "secret" in stranger.log()
        finally:
            stranger.kill()


def test_two_nodes_with_one_identity_the_later_one_gives_way(tmp_path: Path) -> None:
    with three(tmp_path) as cluster:
        a, b, _ = cluster
        double = Node(tmp_path, "double", {**b.options, "node.name": "double"})
        double.options["node.data_dir"], double.options["node.listen"] = str(double.data_dir), double.address
        shutil.copytree(b.data_dir, double.data_dir, ignore=shutil.ignore_patterns("*.sock", "lock", "catalog*"))
        double.start(wait=False)
        assert double.process is not None
        assert double.process.wait(60) == 9, double.log()
        assert "identity" in double.log()
        wait_until(lambda: a.states().get("node-b") == "alive", 60, "the first one is a member under its name again")


def test_a_clock_that_is_an_hour_off_is_named_and_the_newest_pin_still_wins(tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 3600\n")
    with three(tmp_path) as cluster:
        a, b, c = cluster
        c.stop()
        c.environment["PYTHONPATH"] = str(shim)
        c.start()
        cluster.wait_alive()
        first = c.json("store", "--name=doc", str(make_file(tmp_path / "one", MIB)))[0]["cid"]
        wait_until(lambda: a.json("stat", "doc")[0]["cid"] == first, 60, "the pin of the future arrived")
        second = a.json("store", "--name=doc", str(make_file(tmp_path / "two", MIB)))[0]["cid"]
        for node in (a, b, c):
            wait_until(lambda node=node: node.json("stat", "doc")[0]["cid"] == second, 60, "the later one wins")
        wait_until(lambda: a.cli("status", check=False).returncode == 0, 60, "all is well but for the clock")
        status = a.json("status", check=False)[0]
        assert any("node-c" in reason and "clock" in reason for reason in status["reasons"])


def test_a_clock_that_is_set_wrong_while_a_node_runs_is_noticed_before_anything_is_collected(tmp_path: Path) -> None:
    shim, wrong = tmp_path / "shim", tmp_path / "wrong"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(
        f"import os, time\nreal = time.time\ntime.time = lambda: real() + 3600 * os.path.exists({str(wrong)!r})\n"
    )
    with three(tmp_path) as cluster:
        a, _, c = cluster
        c.stop()
        c.environment["PYTHONPATH"] = str(shim)
        c.start()
        cluster.wait_alive()
        wait_until(lambda: a.cli("gc", check=False).returncode == 0, 60, "nothing speaks against collecting")
        wrong.touch()
        done = a.cli("gc", check=False)
        assert done.returncode == 1
        assert re.search(r"the clock of node-c is \+3(600|59\d) s off ours", done.stderr)  # less what the answer took
        assert any("the clock of node-c" in reason for reason in a.json("status", check=False)[0]["reasons"])
        wrong.unlink()
        wait_until(lambda: a.cli("gc", check=False).returncode == 0, 60, "nothing speaks against it any more")


def test_what_a_start_can_stumble_over(tmp_path: Path) -> None:
    first = Node(tmp_path, "first", {}).start()
    try:
        same_port = Node(tmp_path, "port", {"node.listen": first.address})
        same_port.start(wait=False)
        assert same_port.process is not None
        assert same_port.process.wait(60) == 9
        assert "in use" in same_port.log()
        same_dir = Node(tmp_path, "dir", {"node.data_dir": str(first.data_dir)})
        same_dir.start(wait=False)
        assert same_dir.process is not None
        assert same_dir.process.wait(60) == 9
        assert f"pid {first.process.pid if first.process else 0}" in same_dir.log()
    finally:
        assert first.stop() == 0
    other = Node(tmp_path, "first", {"cluster.secret": secrets.token_hex(32)})
    other.start()  # a node that was alone may join a cluster ...
    other.stop()
    another = Node(tmp_path, "first", {"cluster.secret": secrets.token_hex(32)})
    another.start(wait=False)  # ... but not change from one to another by accident
    assert another.process is not None
    assert another.process.wait(60) == 9
    assert "another cluster" in another.log()


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    node = Node(tmp_path, "n", {"node.data_dir": str(tmp_path / "file" / "data")})
    node.data_dir = tmp_path / "unused"
    node.start(wait=False)
    assert node.process is not None
    assert node.process.wait(60) in (2, 9)
    assert str(tmp_path / "file") in node.log()


def test_seeds_that_are_silent_or_something_else(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"127.0.0.1:{silent.getsockname()[1]}"
        node = Node(tmp_path, "n", {"cluster.seeds": f"{dead},127.0.0.1:1", "cluster.secret": secrets.token_hex(32)})
        node.start()
        try:
            wait_until(lambda: dead in node.log() and "127.0.0.1:1:" in node.log(), 60, "both are named")
            assert node.log().index("node ready") < node.log().index(dead), "it does not wait for them"
            status = node.json("status", check=False)[0]
            assert status["verdict"] == "degraded"
            assert any("any seed" in reason for reason in status["reasons"])
            small = make_file(tmp_path / "small", 1000)
            done = node.cli("store", str(small), check=False)
            assert done.returncode == 8, "it is not alone, so it does not decide alone"
        finally:
            assert node.stop() == 0


def test_a_damaged_block_is_never_returned_and_comes_back(tmp_path: Path) -> None:
    path = make_file(tmp_path / "f", 10 * MIB)
    with three(tmp_path) as cluster:
        a, b, _ = cluster
        a.cli("store", str(path))
        damaged = 0
        for block in (b.data_dir / "blocks").rglob("*"):
            if block.is_file():
                block.chmod(0o600)
                with block.open("r+b") as file:
                    file.seek(random.randrange(block.stat().st_size))
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1]))
                damaged += 1
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        assert b.json("status", check=False)[0]["quarantined"] == damaged
        (tmp_path / "back").unlink()
        a.kill()
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_node_takes_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    node = cluster[0]
    node.prefix = ["sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh"]
    with cluster:
        tree = tmp_path / "tree"
        tree.mkdir()
        for number in range(600):
            (tree / str(number)).write_text(str(number))
        assert node.json("store", str(tree))[0]["new_blocks"] == 601
        assert node.process is not None
        limits = Path(f"/proc/{node.process.pid}/limits").read_text()
    row = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()
    assert int(row[3]) == min(int(row[4]), DESCRIPTORS)
