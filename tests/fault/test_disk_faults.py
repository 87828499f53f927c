"""Damaged, missing and unreadable files; full and failing disks. Wrong bytes never come back."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core.multihash import SHA2_256, Buffer, multihash
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import disk, folders
from p2pfs.store.disk import DiskStore
from tests.fault.small_disk import run_on_small_disk

BUFFER = memoryview(bytearray(MAX_BLOCK))
DATA = memoryview(b"some sixty bytes, of which each one is going to be damaged.")
BLOCK = multihash(SHA2_256, DATA)
NAME = BLOCK[2:].hex()


@pytest.fixture(autouse=True)
def few_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shard folders are made when they are needed: 4096 of them for each test would take most of its time."""
    monkeypatch.setattr(folders, "make_shards", lambda blocks: None)


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    store = DiskStore(tmp_path)
    store.put(BLOCK, DATA)
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blocks" / NAME[:3] / NAME


def files_below(folder: Path) -> list[str]:
    return sorted(name for _, _, names in os.walk(folder) for name in names)


def replace(path: Path, data: bytes | bytearray) -> None:
    path.unlink()
    path.write_bytes(data)


def check_condemned(store: DiskStore, match: str = "does not|do not have the hash") -> None:
    """The read fails, the bad copy is in quarantine, and a good one can take its place."""
    before = store.quarantined()
    with pytest.raises(errors.Corrupt, match=match):
        store.read(BLOCK, BUFFER)
    assert store.quarantined() == before + 1
    assert not store.has(BLOCK)
    with pytest.raises(errors.NotFound):
        store.read(BLOCK, BUFFER)
    assert store.put(BLOCK, DATA)
    assert BUFFER[: store.read(BLOCK, BUFFER)] == DATA


def test_each_flipped_byte_is_detected(store: DiskStore, path: Path, tmp_path: Path) -> None:
    for position in range(len(DATA)):
        damaged = bytearray(DATA)
        damaged[position] ^= 1 << position % 8
        replace(path, damaged)
        check_condemned(store)
    kept = files_below(tmp_path / "quarantine")
    assert len(kept) == len(DATA), "several of one block in one second do not replace each other"
    assert all(name.startswith(f"{NAME}.") for name in kept)
    assert store.recount() == (1, len(DATA), True)


@pytest.mark.parametrize(
    "data", [bytes(DATA[:-1]), b"", bytes(DATA) + b"\0", bytes(MAX_BLOCK), bytes(DATA) + bytes(MAX_BLOCK)],
    ids=["truncated", "emptied", "extended", "other", "over-2-MiB"],
)
def test_a_file_of_another_length_is_detected(store: DiskStore, path: Path, data: bytes) -> None:
    replace(path, data)
    check_condemned(store)


def test_a_full_block_with_more_behind_it_is_detected(tmp_path: Path) -> None:
    store, data = DiskStore(tmp_path), memoryview(bytes(MAX_BLOCK))
    block = multihash(SHA2_256, data)
    store.put(block, data)
    path = next((tmp_path / "blocks").glob("*/*"))
    replace(path, bytes(MAX_BLOCK + 1))
    with pytest.raises(errors.Corrupt):
        store.read(block, BUFFER)
    assert store.quarantined() == 1


def test_a_file_that_vanished_is_not_found(store: DiskStore, path: Path) -> None:
    path.unlink()
    assert not store.has(BLOCK) and not store.delete(BLOCK)
    with pytest.raises(errors.NotFound):
        store.read(BLOCK, BUFFER)


def test_a_shard_folder_that_vanished_is_made_again(store: DiskStore, path: Path) -> None:
    shutil.rmtree(path.parent)
    assert not store.has(BLOCK) and list(store.iterate(int(NAME[:3], 16))) == []
    assert store.put(BLOCK, DATA)
    assert store.read(BLOCK, BUFFER) == len(DATA)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"kept")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_folder, make_loop, os.mkfifo])
def test_what_is_no_file_goes_to_quarantine(
    store: DiskStore, path: Path, make: Callable[[Path], None]
) -> None:
    path.unlink()
    make(path)
    check_condemned(store, match="cannot be read|do not have the hash")


@pytest.mark.parametrize("make", [make_folder, os.mkfifo])
def test_put_replaces_what_is_no_file(store: DiskStore, path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)
    assert store.put(BLOCK, DATA)
    assert store.read(BLOCK, BUFFER) == len(DATA) and store.quarantined() == 1


def test_foreign_files_are_left_alone(store: DiskStore, path: Path) -> None:
    foreign = [path.with_name(name) for name in ("README", f"{NAME}.bak", NAME[:-1], "0" * 64)]
    for file in foreign:
        file.write_bytes(b"not ours")
    assert list(store.iterate(int(NAME[:3], 16))) == [BLOCK]
    assert store.recount() == (1, len(DATA), True)
    assert all(file.exists() for file in foreign)


def fail_with(number: int) -> Callable[..., Any]:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("call", "number"), [("readv", errno.EIO), ("open", errno.EIO), ("open", errno.EACCES)]
)
def test_an_unreadable_file_goes_to_quarantine(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with(number))
        with pytest.raises(errors.Corrupt, match=f"cannot be read: {os.strerror(number)}; moved to"):
            store.read(BLOCK, BUFFER)
    assert store.quarantined() == 1 and not store.has(BLOCK)


def test_too_many_open_files_condemn_nothing(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail_with(errno.EMFILE))
        with pytest.raises(errors.Busy, match="LimitNOFILE"):
            store.read(BLOCK, BUFFER)
    assert store.quarantined() == 0 and store.read(BLOCK, BUFFER)


def test_a_bad_copy_that_cannot_be_moved_is_still_not_served(
    store: DiskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(path, b"bad")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_with(errno.ENOSPC))
        for _ in range(2):
            with pytest.raises(errors.Corrupt, match="could not be moved to quarantine") as found:
                store.read(BLOCK, BUFFER)
            assert found.value.is_in_place
    check_condemned(store)


def test_a_bad_copy_goes_to_quarantine_after_somebody_removed_the_folder(
    store: DiskStore, path: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "quarantine")
    assert store.quarantined() == 0
    replace(path, bytes(len(DATA)))
    check_condemned(store)
    assert store.usage() == (1, len(DATA), True)


def test_a_bad_copy_that_has_nowhere_to_go_is_not_said_to_be_gone(
    store: DiskStore, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "quarantine").rmdir()
    (tmp_path / "quarantine").write_bytes(b"no folder")
    replace(path, bytes(len(DATA)))
    with pytest.raises(errors.Corrupt, match="could not be moved to quarantine") as found:
        store.read(BLOCK, BUFFER)
    assert found.value.is_in_place and path.exists()


def test_a_good_copy_that_replaced_a_bad_one_stays(
    store: DiskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads read a bad copy; until the second condemns it, a good one has been fetched."""
    replace(path, b"bad")

    def matches_late(block: bytes, data: Buffer) -> bool:
        path.rename(path.with_name("aside"))  # kept, so that its inode number is not given again
        path.write_bytes(DATA)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(disk, "matches", matches_late)
        with pytest.raises(errors.Corrupt, match="replaced meanwhile"):
            store.read(BLOCK, BUFFER)
    assert store.read(BLOCK, BUFFER) == len(DATA) and store.quarantined() == 0


@pytest.mark.parametrize("step", ["open", "write", "fdatasync", "fstat", "rename", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE])
def test_a_put_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    store = DiskStore(tmp_path, max_size=100)
    store.put(BLOCK, DATA)
    data = memoryview(b"another")
    block = multihash(SHA2_256, data)
    before = files_below(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail_with(number))
        with pytest.raises(errors.NoSpace, match=os.strerror(number)):
            store.put(block, data)
    assert files_below(tmp_path) == before and not store.has(block)
    assert store.usage() == (1, len(DATA), True)
    assert store.free_bytes() == 100 - len(DATA), "what was reserved is free again"
    assert store.put(block, data)


@pytest.mark.parametrize("step", ["write", "fdatasync", "fstat", "rename", "fsync"])
def test_in_a_batch_only_what_failed_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store = DiskStore(tmp_path)
    blocks = [(multihash(SHA2_256, data), data) for data in (memoryview(b"batched %d" % number) for number in range(6))]
    assert len({block[:3] for block, _ in blocks}) > 1, "in folders of their own"
    real: Callable[..., Any] = getattr(os, step)
    calls = 0

    def fail_twice(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **options)

    with monkeypatch.context() as patch:
        if step == "fsync":  # of the folders; those that are made on the way sync their parent with it
            for block, _ in blocks:
                (tmp_path / "blocks" / block[2:].hex()[:3]).mkdir(exist_ok=True)
        patch.setattr(os, step, fail_twice)
        outcomes = store.put_many(blocks)
    kept = [block for (block, _), outcome in zip(blocks, outcomes, strict=True) if isinstance(outcome, int)]
    assert len(kept) == 4 and sum(isinstance(outcome, errors.NoSpace) for outcome in outcomes) == 2
    assert [block for block, _ in blocks if store.has(block)] == kept
    assert not files_below(tmp_path / "temp") and store.usage() == store.recount() and store.usage().blocks == 4
    assert [outcome is None for outcome in store.put_many(blocks)] == [block in kept for block, _ in blocks]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    store = DiskStore(tmp_path)
    assert store.put(BLOCK, DATA)
    assert BUFFER[: store.read(BLOCK, BUFFER)] == DATA


FULL_DISK = """
import os, sys
from p2pfs import errors
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.store.disk import DiskStore
from p2pfs.store.space import Space

folder, is_checked = sys.argv[1], sys.argv[2] == "checked"
if not is_checked:  # the file system itself has to refuse
    Space._check_disk = lambda *args: None
store, names, into = DiskStore(folder), [], memoryview(bytearray(2 << 20))
def put(number):
    data = memoryview(number.to_bytes(4, "big") * 50_000)
    names.append(multihash(SHA2_256, data))
    store.put(names[-1], data)
try:
    for number in range(1000):
        put(number)
    raise SystemExit("the disk never became full")
except errors.NoSpace as error:
    print(error)
refused = names.pop()
assert len(names) > 3 and not store.has(refused)
assert not [name for _, _, files in os.walk(folder + "/temp") for name in files]
assert store.usage() == (len(names), 200_000 * len(names), True) == store.recount()
for name in names:
    store.read(name, into)
assert store.delete(names[0]) and store.delete(names[1])
put(number)
store.close()
assert DiskStore(folder).usage().is_exact
"""


@pytest.mark.parametrize("who_refuses", ["checked", "by-the-disk"])
def test_a_full_disk(tmp_path: Path, who_refuses: str) -> None:
    printed = run_on_small_disk(tmp_path, "4m", FULL_DISK, who_refuses)
    assert ("reserve_free" if who_refuses == "checked" else "No space left on device") in printed


def test_after_an_unclean_stop_a_limit_is_kept_by_counting_first(tmp_path: Path) -> None:
    limited = len(DATA) + 10
    DiskStore(tmp_path).put(BLOCK, DATA)  # and no close
    store = DiskStore(tmp_path, max_size=limited)
    assert store.usage() == (0, 0, False)
    with pytest.raises(errors.NoSpace, match=f"max_size is {limited} and {len(DATA)} are in use"):
        store.put(multihash(SHA2_256, b"eleven byte"), memoryview(b"eleven byte"))
    assert store.usage() == (1, len(DATA), True)
    assert store.put(multihash(SHA2_256, b"ten bytes!"), memoryview(b"ten bytes!"))


def test_a_read_only_place_is_a_clear_error() -> None:
    with pytest.raises(errors.P2pfsError, match="cannot open the block store /proc/p2pfs"):
        DiskStore("/proc/p2pfs")
