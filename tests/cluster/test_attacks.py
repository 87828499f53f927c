"""A node that strangers and members attack: others are served, limits hold, and nothing of it stays behind.

How much slower others are is `python -m kit.bench attack`.
"""

from __future__ import annotations

import filecmp
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.attacks import ATTACKS, under_attack
from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client, errors
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net.doorman import CONNECTIONS_PER_MEMBER, STRANGERS_PER_HOST
from p2pfs.net.server import Session
from tests.cluster.fake_member import FakeMember

MIB = 1024 * 1024
MEMORY = 200 * MIB
"""No node comes to more, whatever is sent to it."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("attacks"), 3, cluster__replicas="2", cluster__write_quorum="2") as nodes:
        first = nodes.folder / "large"
        first.write_bytes(random.randbytes(40 * MIB))
        nodes[0].cli("store", str(first))
        yield nodes


def descriptors(node: Node) -> int:
    assert node.process is not None
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def greenlets(node: Node) -> int:
    """How many there are, by what the node logs when it is asked what it does."""
    known = len(node.log())
    node.signal(signal.SIGUSR1)
    wait_until(lambda: '<Greenlet "connections/accept-tcp"' in node.log()[known:], 60, "it says what it does")
    return node.log()[known:].count('<Greenlet "')


def refused(node: Node, why: str) -> float:
    with Client(str(node.control)) as client:
        lines = client.metrics().splitlines()
    label = f'p2pfs_refused_connections_total{{why="{why}"}} '
    return sum(float(line.removeprefix(label)) for line in lines if line.startswith(label))


def work(cluster: Cluster, folder: Path, turn: int) -> None:
    """What a user does, at the node that is attacked and at another one."""
    path, back = folder / f"f{turn}", folder / f"back{turn}"
    path.write_bytes(random.randbytes(5 * MIB))
    receipt = cluster[0].json("store", str(path))[0]
    assert receipt["replicas"] >= 2
    cluster[1].cli("get", receipt["cid"], "-o", str(back))
    assert filecmp.cmp(back, path, shallow=False)
    assert cluster[0].cli("cat", receipt["cid"], "--length=10", check=False).returncode == 0


def names(node: Node) -> set[str]:
    return {row["name"] for row in node.json("peers")}


def no_ghosts(cluster: Cluster) -> None:
    for node in cluster:
        assert not any(name.startswith("ghost") for name in names(node))
        with Client(str(node.control)) as client:
            client.status()


def no_garbage(cluster: Cluster) -> None:
    for node in cluster:
        for row in node.json("peers"):
            assert row["incarnation"] < 2**50
    wait_until(lambda: "over a day in the future" in cluster[0].log(), 60, "rows of the far future are named")
    wait_until(lambda: "hours in the future" in cluster[0].log(), 60, "stamps of the far future are named")


def silent_ones_went(cluster: Cluster) -> None:
    wait_until(lambda: refused(cluster[0], "crowd") > 0, 60, "the silent ones go when others come")


def too_many_were_refused(cluster: Cluster) -> None:
    wait_until(lambda: refused(cluster[0], "member") + refused(cluster[0], "rate") > 0, 60, "too many are refused")
    assert cluster[0].metric("p2pfs_connections") < 10 * CONNECTIONS_PER_MEMBER


def too_fast_were_refused(cluster: Cluster) -> None:
    wait_until(lambda: refused(cluster[0], "rate") > 0, 60, "those that come too fast are refused")


def nothing_more(cluster: Cluster) -> None:
    pass


CHECKS: dict[str, Callable[[Cluster], None]] = {
    "trickle": silent_ones_went, "handshakes": too_fast_were_refused, "knocks": too_fast_were_refused,
    "connections": too_many_were_refused, "crawl": too_many_were_refused, "ghosts": no_ghosts, "clocks": no_garbage,
}


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "pins"])
def test_others_are_served_under_attack_and_nothing_stays(cluster: Cluster, tmp_path: Path, attack: str) -> None:
    victim = cluster[0]
    work(cluster, tmp_path, 0)
    before, open_before = descriptors(victim), victim.metric("p2pfs_connections")
    running_before = greenlets(victim)
    with under_attack(attack, victim.address, victim.options["cluster.secret"]):
        for turn in range(1, 4):
            work(cluster, tmp_path, turn)
        states = [node.states() for node in cluster]
        assert all(found[node.name] == "alive" for found in states for node in cluster), states
        CHECKS.get(attack, nothing_more)(cluster)
    for node in cluster:
        assert node.memory("VmHWM") < MEMORY
        assert node.metric("p2pfs_greenlet_failures_total") == 0, node.log()[-3000:]
    few = STRANGERS_PER_HOST // 4
    wait_until(lambda: victim.metric("p2pfs_connections") <= open_before + few, 60, "the connections are over")
    wait_until(lambda: descriptors(victim) <= before + few, 60, "the descriptors are closed")
    wait_until(lambda: greenlets(victim) <= running_before + few, 60, "the greenlets are over")
    wait_until(lambda: victim.json("status", check=False)[0]["buffers_in_use"] == 0, 60, "the buffers are free")


def test_a_million_pins_fill_the_catalog_and_no_more(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2, cluster__replicas="2", cluster__write_quorum="2", storage__max_pins="1500") as cluster:
        victim, other = cluster
        path = tmp_path / "mine"
        path.write_bytes(b"before all of it")
        victim.cli("store", str(path))
        with under_attack("pins", victim.address, victim.options["cluster.secret"]):
            wait_until(lambda: "the catalog is full" in victim.log(), 60, "it is full")
            done = victim.cli("store", "--name=new", str(path), check=False)
            assert done.returncode == errors.NoSpace.exit_code
            assert "max_pins" in done.stderr
            other.cli("get", "mine", "-o", str(tmp_path / "back"))
            victim.cli("rm", "mine")
            victim.cli("restore", "mine")
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        for node in cluster:
            status = node.json("status", check=False)[0]
            assert status["pins"] + status["tombstones"] <= 1500
            assert node.memory("VmHWM") < MEMORY
            assert node.metric("p2pfs_greenlet_failures_total") == 0
        assert any("nearly full" in reason for reason in victim.json("status", check=False)[0]["reasons"])


GARBAGE: dict[str, dict[str, Any]] = {
    "time beyond all floats": {"time_ms": 10**400}, "time before all time": {"time_ms": -1},
    "time of a word": {"time_ms": "now"}, "time of 9 million years": {"time_ms": 2**53 + 1},
    "no instance": {"instance": ""},
    "instance of a megabyte": {"instance": "0" * MIB}, "a name with escapes": {"name": "\x1b[2J"},
    "somebody else's id": {"id": "a" * 52}, "an id that is none": {"id": "../../etc"},
    "another protocol": {"version": "p2pfs/2" * 1000},
}


def test_garbage_in_hello_is_refused_and_others_are_served(tmp_path: Path) -> None:
    options = {"cluster__replicas": "2", "cluster__write_quorum": "2", "repair__sync_interval": "1s"}
    with Cluster(tmp_path, 2, **options) as cluster, FakeMember(tmp_path, cluster) as fake:
        told: dict[str, Any] = {}

        def hello(member: FakeMember, session: Session, line: Line) -> None:
            answer = {"version": wire.VERSION, "id": member.member.id, "instance": "0" * 16, "time_ms": 0}
            session.reply(wire.dump_json(answer | {"name": "fake"} | told))

        fake.does["HELLO"] = hello
        for number, garbage in enumerate(GARBAGE.values()):
            told.clear()
            told.update(garbage)
            asked = fake.asked["HELLO"]
            wait_until(lambda asked=asked: fake.asked["HELLO"] > asked, 60, f"somebody says HELLO for {garbage}")
            work(cluster, tmp_path, number)
        for node in cluster:
            assert node.metric("p2pfs_greenlet_failures_total") == 0, node.log()[-3000:]
            assert abs(max(row["clock_ahead_s"] for row in node.json("peers"))) < 2**44
            assert "Traceback" not in node.log()
