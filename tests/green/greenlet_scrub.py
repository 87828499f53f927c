"""The scrub's worker on real greenlets and a real disk: runs, interruptions, failures, a full disk."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfs import errors, green
from p2pfs.config.options import Config, Repair, Storage
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import scrub
from p2pfs.node.local import LocalStore
from p2pfs.node.scrub import Scrub
from p2pfs.store import files, folders, verified
from p2pfs.store.disk import DiskStore
from p2pfs.store.files import prepare_data_dir

DAY_S = 86_400.0
BLOCKS = [b"block %d" % number for number in range(40)]
NAMES = [multihash(SHA2_256, data) for data in BLOCKS]


@pytest.fixture(autouse=True)
def few_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "make_shards", lambda blocks: None)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStore]:
    prepare_data_dir(tmp_path)
    local = LocalStore(DiskStore(tmp_path), 2)
    for name, data in zip(NAMES, BLOCKS, strict=True):
        local.put(name, memoryview(data))
    yield local
    local.close()


class World:
    """A scrub that can be begun again, and a configuration that can be changed."""

    def __init__(self, local: LocalStore, folder: Path) -> None:
        self.local = local
        self.folder = folder
        self.config = Config(storage=Storage(scrub_period=30 * DAY_S), repair=Repair(rate=2**30))
        self.scrub = self.new()

    def new(self) -> Scrub:
        self.scrub = Scrub(self.local, self.folder, lambda: self.config)
        return self.scrub

    def set_rate(self, rate: int) -> None:
        self.config = dataclasses.replace(self.config, repair=Repair(rate=rate))

    def path(self, block: Multihash) -> Path:
        digest = block[2:].hex()
        return self.folder / "blocks" / digest[:3] / digest

    def damage(self, block: Multihash) -> None:
        self.path(block).unlink()
        self.path(block).write_bytes(b"rotten")

    def make_old(self) -> None:
        """The data directory was made ten days ago."""
        born = (self.folder / "format").stat().st_mtime - 10 * DAY_S
        os.utime(self.folder / "format", (born, born))


@pytest.fixture
def world(local: LocalStore, tmp_path: Path) -> Iterator[World]:
    world = World(local, tmp_path)
    yield world
    world.scrub.stop()


def fail_with(number: int, when: Callable[[str], bool]) -> Callable[[str], list[str]]:
    real = os.listdir

    def fail(path: str) -> list[str]:
        if when(path):
            raise OSError(number, os.strerror(number))
        return real(path)

    return fail


def test_a_run_reads_everything_and_proves_it(world: World) -> None:
    world.make_old()
    scrub = world.new()
    assert (scrub.oldest_s() or 0) > 9 * DAY_S
    scrub.start()
    run = scrub.run_now()
    assert scrub.run_now() is run, "a second one joins"
    assert scrub.progress()["is_running"]
    assert run.result()["is_done"] is False
    assert run.over.wait(30)
    found = run.result()
    assert (found["blocks"], found["bytes"], found["bad_blocks"]) == (40, sum(map(len, BLOCKS)), 0)
    assert found["is_done"] and run.progress()["done"] == 4096
    assert (scrub.oldest_s() or 0) < DAY_S
    assert not scrub.progress()["is_running"]
    assert (world.new().oldest_s() or 0) < DAY_S, "it was saved before the run was over"


def test_what_came_back_counts_as_healed(world: World) -> None:
    bad = NAMES[:3]
    told: list[Multihash] = []

    def heal(block: Multihash) -> None:
        told.append(block)
        if block != bad[2]:
            world.local.store.put(block, memoryview(BLOCKS[NAMES.index(block)]))

    world.local.on_corrupt = heal
    for block in bad:
        world.damage(block)
    world.scrub.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrub, "HEAL_S", 0.2)
        patch.setattr(scrub, "HEAL_STEP_S", 0.01)
        run = world.scrub.run_now()
        assert run.over.wait(30)
    assert sorted(told) == sorted(bad)
    assert (run.bad_blocks, run.healed_blocks) == (3, 2)
    assert world.local.have(bad) == [True, True, False]


def test_a_shard_that_cannot_be_read_fails_the_run_and_is_not_proven(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make_old()
    scrub = world.new()
    shard = world.path(NAMES[0]).parent
    monkeypatch.setattr(os, "listdir", fail_with(errno.EIO, lambda path: path == str(shard)))
    scrub.start()
    run = scrub.run_now()
    assert run.over.wait(30)
    with pytest.raises(errors.NoSpace, match="1 of 4096 shards could not be verified"):
        run.result()
    assert run.done == 4096 and run.blocks == 39
    assert (scrub.oldest_s() or 0) > 9 * DAY_S


def test_a_bad_copy_that_stays_in_its_place_is_neither_healed_nor_proven(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if "quarantine" in target:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        rename(source, target)

    world.make_old()
    scrub = world.new()
    world.local.on_corrupt = lambda block: None
    world.damage(NAMES[0])
    scrub.start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        run = scrub.run_now()
        assert run.over.wait(30)
    with pytest.raises(errors.Corrupt, match=r"1 of 4096 shards could not be verified.*could not be moved"):
        run.result()
    assert (run.blocks, run.bad_blocks, run.healed_blocks) == (39, 1, 0)
    assert (scrub.oldest_s() or 0) > 9 * DAY_S


def test_a_stop_ends_a_run_and_keeps_what_it_proved(world: World) -> None:
    world.make_old()
    world.set_rate(64 * 1024)  # a block a second
    scrub = world.new()
    scrub.start()
    run = scrub.run_now()
    with green.deadline(30, "the first shard"):
        while not run.done:
            assert not run.over.wait(0.05)
    scrub.stop()
    assert run.over.is_set()
    with pytest.raises(errors.Interrupted):
        run.result()
    begun = verified.load(world.folder).begun
    proven = [began for began in begun if began > min(begun) + DAY_S]
    assert 0 < len(proven) < 4096
    assert begun[run.done - 1] in proven


def test_in_the_background_everything_is_verified_within_the_period(world: World) -> None:
    """Late by far: it reads as fast as it may, without anybody asking."""
    world.config = dataclasses.replace(world.config, storage=Storage(scrub_period=60.0))
    world.make_old()
    scrub = world.new()
    world.damage(NAMES[7])
    scrub.start()
    end = time.monotonic() + 30
    while (scrub.oldest_s() or 0) >= 60 and time.monotonic() < end:
        assert not scrub._group.join(0.05), "the worker lives"
    found = scrub.progress()
    assert (found["oldest_s"] or 0) < 60
    assert found["blocks"] >= 39 and found["bad_blocks"] == 1


def test_a_run_takes_over_from_the_background_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a shard, which is then not proven; and it does not wait for the background's next block."""
    monkeypatch.setattr(world.local.store, "iterate", lambda shard: iter(NAMES if shard == 0 else ()))
    world.make_old()
    world.set_rate(64 * 1024)  # a block a second, after the first 30
    world.config = dataclasses.replace(world.config, storage=Storage(scrub_period=DAY_S))
    scrub = world.new()
    scrub.start()
    in_background = 0
    with green.deadline(30, "the first ones are over"):
        while not in_background or in_background < scrub.progress()["blocks"]:
            in_background = scrub.progress()["blocks"]
            assert not scrub._group.join(0.3)
    assert 0 < in_background < len(NAMES)
    world.set_rate(2**30)
    run = scrub.run_now()
    assert run.over.wait(30)
    assert run.blocks == len(NAMES)
    assert scrub.progress()["blocks"] - run.blocks <= in_background + 1


def test_on_a_full_disk_it_goes_on_in_memory_and_says_so_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.make_old()
    scrub = world.new()
    scrub.start()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        for _ in range(2):
            run = scrub.run_now()
            assert run.over.wait(30) and run.result()["is_done"]
        assert (scrub.oldest_s() or 0) < DAY_S
        assert not (world.folder / verified.FILE).exists()
    assert caplog.text.count("is not remembered on disk") == 1
    scrub.stop()
    assert (world.new().oldest_s() or 0) < DAY_S, "at the stop there was room"
