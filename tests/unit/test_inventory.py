"""The inventory of an audit: nothing is forgotten, in memory, on disk, and when the disk is full."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.core.audit import Live
from p2pfs.core.multihash import BLAKE3, SHA2_256, multihash
from p2pfs.store import inventory
from p2pfs.store.inventory import BUCKETS, Inventory

RECORD_BYTES = 41
FEW_BLOCKS = [multihash(code, b"%d" % number) for number in range(6) for code in (SHA2_256, BLAKE3)]
LIVES = st.lists(
    st.builds(Live, st.sampled_from(FEW_BLOCKS), st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=40
)


def lives(count: int, copies: int = 1) -> list[Live]:
    return [Live(multihash(SHA2_256, b"%d" % number), copies, number, False) for number in range(count)]


def everything(found: Inventory) -> dict[bytes, Live]:
    return {block: live for number in range(BUCKETS) for block, live in found.bucket(number).items()}


def merged(entered: Iterable[Live]) -> dict[bytes, Live]:
    """As the contract says: the largest copies, a branch if it ever was one."""
    found: dict[bytes, Live] = {}
    for live in entered:
        other = found.get(live.block, live)
        found[live.block] = Live(live.block, max(live.copies, other.copies), max(live.size, other.size),
                                 live.is_branch or other.is_branch)
    return found


def files_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}


def test_what_is_small_stays_in_memory(tmp_path: Path) -> None:
    found = Inventory(tmp_path / "audit", memory_bytes=1000 * RECORD_BYTES)
    found.add(lives(1000))
    assert not (tmp_path / "audit").exists()
    assert everything(found) == merged(lives(1000))


@settings(max_examples=60)
@given(LIVES, st.sets(st.sampled_from(FEW_BLOCKS)))
def test_some_blocks_are_found_as_all_are(entered: list[Live], wanted: set[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = Inventory(folder + "/audit", memory_bytes=10 * RECORD_BYTES)
        found.add(entered)
        for number in range(BUCKETS):
            some = {block: live for block, live in found.bucket(number).items() if block in wanted}
            assert found.find(number, wanted) == some


def test_a_bucket_has_the_digests_that_begin_with_its_number(tmp_path: Path) -> None:
    found = Inventory(tmp_path / "audit")
    found.add(lives(2000))
    for number in range(BUCKETS):
        assert {block[2] for block in found.bucket(number)} <= {number}


def test_what_is_large_goes_to_disk_and_is_removed_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    found = Inventory(folder, memory_bytes=100 * RECORD_BYTES)
    found.add(lives(1000))
    sizes = files_in(folder)
    assert all(name.startswith("bucket-") and len(name) == 9 for name in sizes)
    assert 900 * RECORD_BYTES <= sum(sizes.values()) <= 1000 * RECORD_BYTES, "41 bytes a record"
    assert everything(found) == merged(lives(1000)) == everything(found), "reading changes nothing"
    found.add(lives(1000, copies=3))
    assert everything(found) == merged(lives(1000, copies=3)), "what was added later counts too"
    found.close()
    assert not folder.exists() and not everything(found)


@settings(max_examples=60)
@given(batches=st.lists(LIVES, max_size=6), memory=st.integers(0, 30))
def test_duplicates_are_merged_wherever_they_are(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Live]], memory: int
) -> None:
    found = Inventory(tmp_path_factory.mktemp("inventory"), memory_bytes=memory * RECORD_BYTES)
    for batch in batches:
        found.add(batch)
    assert everything(found) == merged(live for batch in batches for live in batch)
    found.close()


def test_a_full_disk_costs_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 200  # the second time that memory is full, behind what was written the first time

    def write_all(fd: int, data: memoryview) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(fd, data)

    monkeypatch.setattr(inventory, "write_all", write_all)
    found = Inventory(tmp_path / "audit", memory_bytes=300 * RECORD_BYTES)
    found.add(lives(1000))
    found.add(lives(2000))
    assert left == 0, "it does not try again and again"
    assert everything(found) == merged(lives(2000))
    found.close()
    assert not (tmp_path / "audit").exists()


def test_a_folder_that_cannot_be_made_costs_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    found = Inventory(tmp_path / "file" / "audit", memory_bytes=0)
    found.add(lives(100))
    assert everything(found) == merged(lives(100))


def test_files_of_an_earlier_process_are_not_read(tmp_path: Path) -> None:
    Inventory(tmp_path / "audit", memory_bytes=0).add(lives(50))
    again = Inventory(tmp_path / "audit", memory_bytes=0)
    assert not (tmp_path / "audit").exists()
    again.add(lives(3))
    assert everything(again) == merged(lives(3))


def test_a_file_that_lost_its_end_is_an_error_and_no_short_answer(tmp_path: Path) -> None:
    found = Inventory(tmp_path / "audit", memory_bytes=0)
    [live] = lives(1)
    found.add([live, live])
    [name] = files_in(tmp_path / "audit")
    os.truncate(tmp_path / "audit" / name, RECORD_BYTES)
    with pytest.raises(OSError, match=name):
        found.bucket(live.block[2])


def test_false_claims_of_a_catalog_fit(tmp_path: Path) -> None:
    block = FEW_BLOCKS[0]
    found = Inventory(tmp_path / "audit")
    found.add([Live(block, 10**9, 2**53, True)])
    assert found.bucket(block[2]) == {block: Live(block, 2**16 - 1, 2**32 - 1, True)}
    with pytest.raises(ValueError, match="names no stored block"):
        found.add([Live(multihash(0, b"inline"), 1, 6, False)])
