"""A cable that is silent one way only, as behind a firewall: one node has a network namespace of its own (root)."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, wait_until

MIB = 1024 * 1024
SPACE = f"p2pfs-{secrets.token_hex(3)}"
OUTSIDE, INSIDE = f"o{SPACE[-6:]}", f"i{SPACE[-6:]}"
HERE, THERE = "10.213.77.1", "10.213.77.2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces take root, and ip"),
]


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """A network namespace with one cable to this one."""
    try:
        run(f"ip netns add {SPACE}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    try:
        run(f"ip link add {OUTSIDE} type veth peer name {INSIDE} netns {SPACE}")
        run(f"ip addr add {HERE}/24 dev {OUTSIDE}")
        run(f"ip link set {OUTSIDE} up")
        run(f"ip -n {SPACE} addr add {THERE}/24 dev {INSIDE}")
        run(f"ip -n {SPACE} link set {INSIDE} up")
        run(f"ip -n {SPACE} link set lo up")
        yield
    finally:
        for command in (["link", "del", OUTSIDE], ["netns", "del", SPACE]):  # the cable outlives its namespace a while
            subprocess.run(["ip", *command], check=False, capture_output=True)


def drop(direction: str) -> None:
    """From now on nothing gets to the node in the namespace (`to`), or nothing from it (`from`)."""
    # By a neighbour's address that nobody has: needs no packet filter, and is as silent as one.
    where, whom = (f"dev {OUTSIDE}", THERE) if direction == "to" else (f"dev {INSIDE}", HERE)
    ip = "ip" if direction == "to" else f"ip -n {SPACE}"
    run(f"{ip} neigh replace {whom} lladdr 02:00:00:00:00:99 nud permanent {where}")


@pytest.mark.parametrize("direction", ["to", "from"])
def test_gets_and_stores_go_on(tmp_path: Path, direction: str) -> None:
    cluster = Cluster(tmp_path, 3, cluster__replicas="2", cluster__write_quorum="2")
    for node, host in zip(cluster, (HERE, HERE, THERE), strict=True):
        node.address = f"{host}:{node.port}"
        node.options["node.listen"] = node.address
    for node in cluster.nodes[1:]:
        node.options["cluster.seeds"] = cluster[0].address
    cluster[2].prefix = ["ip", "netns", "exec", SPACE]
    path, other = tmp_path / "f", tmp_path / "g"
    for file in (path, other):
        file.write_bytes(random.randbytes(40 * MIB))
    with namespace(), cluster:
        a, b, _ = cluster
        a.cli("store", str(path))
        begin = time.monotonic()
        b.cli("get", "f", "-o", str(tmp_path / "usual"))
        usual_s = time.monotonic() - begin
        drop(direction)
        begin = time.monotonic()
        b.cli("get", "f", "-o", str(tmp_path / "back"))
        get_s = time.monotonic() - begin
        begin = time.monotonic()
        assert a.json("store", str(other))[0]["replicas"] == 2
        store_s = time.monotonic() - begin
        print(f"\nnothing {direction} it: get {usual_s:.2f} s before, {get_s:.2f} s; store {store_s:.2f} s")
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        assert get_s < 2 * usual_s + 2
        assert store_s < 15
        for node in (a, b):
            wait_until(lambda node=node: node.states()["node-c"] == "dead", 60, f"{node.name} finds it dead")
        b.cli("get", "g", "-o", str(tmp_path / "other"))
        assert (tmp_path / "other").read_bytes() == other.read_bytes()
