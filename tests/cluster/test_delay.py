"""A member that is far away: the way there is as long as it should be, and more blocks travel on it at once."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from kit.bench.__main__ import main
from kit.bench.delay import PORT, distances, far
from kit.cluster import Node
from kit.processes import MIB
from p2pfs.core.window import LEAST
from p2pfs.node.peer import LANES

ROUND_TRIP_S = 0.06
FILE_MIB = 48
ESTABLISHED = "01"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip") or not os.path.exists("/dev/net/tun"),
                       reason="network namespaces and their links take root, ip and /dev/net/tun"),
    pytest.mark.timeout(300),
]


def connections(node: Node, address: str) -> int:
    """How many a node has to a member, by proc(5)."""
    host, port = address.split(":")
    other = bytes(map(int, host.split(".")))[::-1].hex().upper() + f":{int(port):04X}"
    assert node.process is not None
    rows = Path(f"/proc/{node.process.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[2:4] == [other, ESTABLISHED] for row in rows)


def test_a_far_member_gets_more_blocks_at_once(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(random.randbytes(FILE_MIB * MIB))
    with distances(ROUND_TRIP_S) as links, far(tmp_path, links) as cluster:
        delays_ms = [row["rtt_ms"] for row in cluster[0].json("peers") if row["rtt_ms"] is not None]
        assert min(delays_ms) >= 1000 * ROUND_TRIP_S
        cluster[0].cli("store", str(file))
        assert connections(cluster[0], f"{links.ip(1)}:{PORT}") > LEAST + sum(LANES.values())
        cluster[2].cli("get", file.name, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_the_bench_measures_it(tmp_path: Path) -> None:
    assert main(["--runs=1", "--size=32", "delay"]) == 0
