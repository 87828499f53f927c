"""Every way in which one small file on the disk can go bad: each is detected, put aside, and healed by a put."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.core.multihash import BLAKE3, SHA2_256, Multihash, multihash
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import folders
from p2pfs.store.disk import DiskStore

BUFFER = memoryview(bytearray(MAX_BLOCK))
DATA = memoryview(random.Random(7).randbytes(300))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    # Shard folders are made when they are needed: 4096 of them would take most of the time.
    monkeypatch.setattr(folders, "make_shards", lambda blocks: None)
    # Nor is anything here about the loss of power.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    return DiskStore(tmp_path)


@pytest.fixture(params=[SHA2_256, BLAKE3], ids=["sha2-256", "blake3"])
def block(request: pytest.FixtureRequest) -> Multihash:
    return multihash(request.param, DATA)


def file_of(folder: Path) -> Path:
    (path,) = (folder / "blocks").glob("*/*")
    return path


def replace(path: Path, data: bytes | bytearray) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.write_bytes(data)


def check_heals(store: DiskStore, block: Multihash, quarantined: int) -> None:
    """The bad copy is out of the way and counted, `has` says no, and a put brings the block back."""
    assert store.quarantined() == quarantined
    assert not store.has(block)
    assert store.put(block, DATA)
    assert BUFFER[: store.read(block, BUFFER)] == DATA
    assert list(store.iterate(int.from_bytes(block[2:4], "big") >> 4)) == [block]


def damages() -> Iterator[bytes]:
    """Each byte changed, each shorter length, some more behind it."""
    chance = random.Random(8)
    for position in range(len(DATA)):
        flipped = bytearray(DATA)
        flipped[position] ^= chance.randrange(1, 256)
        yield bytes(flipped)
    for length in range(len(DATA)):
        yield bytes(DATA[:length])
    yield bytes(DATA) + b"\0"
    yield bytes(DATA) * 2
    yield bytes(len(DATA))


def test_each_flipped_byte_and_each_length_is_detected_and_healed(
    store: DiskStore, block: Multihash, tmp_path: Path
) -> None:
    store.put(block, DATA)
    path = file_of(tmp_path)
    number = 0
    for number, data in enumerate(damages(), 1):
        replace(path, data)
        with pytest.raises(errors.Corrupt, match="do not have the hash"):
            store.read(block, BUFFER)
        check_heals(store, block, number)
    assert number == 603
    kept = sorted(file.read_bytes() for file in (tmp_path / "quarantine").iterdir())
    assert kept == sorted(damages()), "what was bad is kept as it was found"
    assert store.recount() == (1, len(DATA), True)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(bytes(DATA))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_link_to_folder(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize("make", [make_folder, os.mkfifo, make_loop, make_link_to_folder])
def test_what_is_no_file_is_detected_and_healed(
    store: DiskStore, block: Multihash, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    store.put(block, DATA)
    path = file_of(tmp_path)
    path.unlink()
    make(path)
    with pytest.raises(errors.Corrupt):
        store.read(block, BUFFER)
    check_heals(store, block, 1)


def test_a_link_to_nothing_is_a_missing_block_and_a_put_replaces_it(
    store: DiskStore, block: Multihash, tmp_path: Path
) -> None:
    store.put(block, DATA)
    path = file_of(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(errors.NotFound):
        store.read(block, BUFFER)
    check_heals(store, block, 0)
    assert not path.is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_vanished_block_is_missing_and_healed(store: DiskStore, block: Multihash, tmp_path: Path) -> None:
    store.put(block, DATA)
    file_of(tmp_path).unlink()
    with pytest.raises(errors.NotFound):
        store.read(block, BUFFER)
    check_heals(store, block, 0)


def test_a_fifo_is_no_empty_block(store: DiskStore, tmp_path: Path) -> None:
    empty = multihash(SHA2_256, b"")
    store.put(empty, memoryview(b""))
    path = file_of(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(errors.Corrupt):
        store.read(empty, BUFFER)
