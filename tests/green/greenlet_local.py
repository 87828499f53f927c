"""This node's own disk for greenlets, after an unclean stop: what is stored is counted while others read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.node.local import LocalStore
from p2pfs.node.node import Node
from p2pfs.store.disk import DiskStore

DATA = memoryview(bytes(range(256)) * 300)
BLOCK = multihash(SHA2_256, DATA)
THREADS = 2


class Site:
    """A disk whose count waits in its thread until a test lets it go on."""

    def __init__(self, folder: Path) -> None:
        DiskStore(folder).put(BLOCK, DATA)  # and no clean stop
        store = DiskStore(folder, max_size=10 * len(DATA))
        sizes, self.may_count = store._recount._sizes, threading.Event()
        self.counts, self.counting = 0, threading.Event()

        def wait_for(shard: int) -> Iterator[int]:
            self.counts += shard == 0
            self.counting.set()
            assert self.may_count.wait(30)
            yield from sizes(shard)

        store._recount._sizes = wait_for
        self.local = LocalStore(store, THREADS)
        self.group = green.Group("puts")
        self.kept = 0

    def put(self, size: int) -> None:
        data = memoryview(bytes(size))
        is_new = self.local.put(multihash(SHA2_256, data), data) is not None
        self.kept += is_new

    def await_counting(self) -> None:
        """Until the count has begun; all that was spawned had its turn by then."""
        waits = green.NativePool("waits", 1)
        assert waits.run(self.counting.wait, 30)
        waits.close()

    def close(self) -> None:
        self.may_count.set()
        self.group.close()
        self.local.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_many_that_write_while_the_disk_is_counted_keep_nobody_from_reading(site: Site) -> None:
    for number in range(4 * THREADS):
        site.group.spawn("put", site.put, 100 + 70_000 * (number % 2) + number)  # small ones take another way
    site.await_counting()
    with green.deadline(10.0, "reading"):
        assert site.local.read(BLOCK, memoryview(bytearray(wire.MAX_BLOCK))) == len(DATA)
        assert site.local.have([BLOCK], renew=True) == [True]
    with pytest.raises(errors.Busy, match="is being counted"):
        site.local.await_count(0.01)
    assert site.kept == 0
    site.may_count.set()
    assert site.group.join(30)
    assert (site.kept, site.counts) == (4 * THREADS, 1)
    assert site.local.usage() == site.local.store.recount()


def test_a_node_that_stops_does_not_wait_for_the_count(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    put = site.group.spawn("put", site.put, 1)
    site.await_counting()
    site.local.store.stop_counting()
    site.may_count.set()
    put.join(30)
    assert put.dead and (site.kept, site.counts) == (0, 1)
    assert site.local.store.needs_count, "and the next start counts again"
    caplog.clear()
    node = SimpleNamespace(services=SimpleNamespace(local=site.local))
    assert Node._recount(cast(Any, node)) > 0
    assert caplog.text == "", "nothing is wrong"


def test_a_count_that_fails_fails_those_that_write_and_the_next_one_may_succeed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise errors.Refused("a folder cannot be listed")

    site.may_count.set()
    with monkeypatch.context() as patch:
        patch.setattr(site.local.store, "recount", fail)
        with pytest.raises(errors.Refused, match="cannot be listed"):
            site.put(1)
    site.put(1)
    assert site.kept == 1
