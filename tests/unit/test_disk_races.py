"""Threads that meet within one block or shard, brought about by force instead of by luck."""

import os
import threading
from pathlib import Path

import pytest

from p2pfs.core.multihash import SHA2_256, multihash, shard_of
from p2pfs.store import blockfile, files, folders
from p2pfs.store.changes import Changes
from p2pfs.store.disk import DiskStore

DATA = memoryview(b"contended")
BLOCK = multihash(SHA2_256, DATA)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    monkeypatch.setattr(folders, "make_shards", lambda blocks: None)
    return DiskStore(tmp_path)


def test_a_renewal_between_the_look_and_the_removal_of_a_discard_is_no_promise(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = store.put(BLOCK, DATA)
    assert token
    looked, renewed = threading.Event(), threading.Event()
    real_renew, real_unlink = blockfile.renew, os.unlink

    def unlink(path: str) -> None:
        looked.set()
        assert renewed.wait(30)
        real_unlink(path)

    def renew(path: str) -> None:
        monkeypatch.setattr(blockfile, "renew", real_renew)
        discarding = threading.Thread(target=store.discard, args=(BLOCK, token))
        discarding.start()
        assert looked.wait(30)
        real_renew(path)
        renewed.set()
        discarding.join(30)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(blockfile, "renew", renew)
    assert not store.has(BLOCK, renew=True), "it is gone"


def test_a_block_that_is_put_while_its_shard_is_counted_is_counted_once(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(BLOCK, DATA)
    candidates = (b"%d" % number for number in range(1_000_000))
    other = next(data for data in candidates if shard_of(multihash(SHA2_256, data)) == shard_of(BLOCK))
    real = blockfile.look

    def look(path: str) -> os.stat_result | None:
        monkeypatch.setattr(blockfile, "look", real)
        store.put(multihash(SHA2_256, other), memoryview(other))
        return real(path)

    monkeypatch.setattr(blockfile, "look", look)
    assert store.recount() == (2, len(DATA) + len(other), True)


def test_a_count_waits_for_a_change_that_is_under_way(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_named, may_sync = threading.Event(), threading.Event()
    real = files.sync_folder

    def sync_later(path: str) -> None:
        is_named.set()
        assert may_sync.wait(30)
        real(path)

    store.put(BLOCK, DATA)
    store.delete(BLOCK)
    monkeypatch.setattr(blockfile, "sync_folder", sync_later)
    settle = Changes.settle

    def settle_and_let_go(changes: Changes, shard: int) -> None:
        may_sync.set()
        settle(changes, shard)

    monkeypatch.setattr(Changes, "settle", settle_and_let_go)
    putting = threading.Thread(target=store.put, args=(BLOCK, DATA))
    putting.start()
    assert is_named.wait(30)
    assert store.recount() == (1, len(DATA), True)
    may_sync.set()
    putting.join(30)
    assert store.usage() == (1, len(DATA), True)
