"""Real nodes for the tests of this folder: `bin/p2pfs-node` processes, TLS on loopback, disks in a temporary folder."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, two copies; shared by the tests of a module, which leave all nodes running."""
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, cluster__replicas="2", cluster__write_quorum="2") as nodes:
        yield nodes


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """12 MiB and a bit that no other test has stored."""
    path = tmp_path / "big.bin"
    path.write_bytes(random.Random().randbytes(12 * 1024 * 1024 + 12345))
    return path
