"""Real nodes for the tests of this folder: `bin/p2pfs-node` processes, TLS on loopback, disks in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, two copies; shared by the tests of a module, which leave all nodes running."""
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, cluster__replicas="2", cluster__write_quorum="2") as nodes:
        yield nodes
    if not request.session.testsfailed:
        empty_files(nodes.folder)


BIG_BYTES = 64 * 1024


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """pytest's own. After a test that passed its big files are emptied, for the disks of all come to 18 GB."""
    yield tmp_path
    if not request.session.testsfailed:
        empty_files(tmp_path)


def empty_files(folder: Path) -> None:
    """Give back what big files take. The folders and names stay, since removing them has a price (see Makefile)."""
    for place, _, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in names):
            with contextlib.suppress(OSError):  # it is gone by now, or read-only
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode) and found.st_blocks * 512 > BIG_BYTES:
                    os.truncate(path, 0)


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """12 MiB and a bit that no other test has stored."""
    path = tmp_path / "big.bin"
    path.write_bytes(random.Random().randbytes(12 * 1024 * 1024 + 12345))
    return path
