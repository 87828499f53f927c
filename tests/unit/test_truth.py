"""The census of disks that other tests hold p2pfs against: it has to see what is wrong, and only that."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import blake3
import pytest

from kit.truth import Truth, catalog, count_root
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.layout import BalancedLayout, Block, Link
from p2pfs.core.multihash import BLAKE3, SHA2_256, multihash
from p2pfs.core.pins import Pin
from p2pfs.core.profile import Profile
from p2pfs.store.catalog import Catalog

LEAVES = [bytes([number]) * 1000 for number in range(3)]


def write(data_dir: Path, name: str, data: bytes) -> Path:
    """A file where a node would have put it, by no code of p2pfs."""
    path = data_dir / "blocks" / name[:3] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put(data_dir: Path, data: bytes) -> Path:
    """A block of sha2-256."""
    return write(data_dir, hashlib.sha256(data).hexdigest(), data)


def file_of(leaves: list[bytes]) -> tuple[CID, list[Block]]:
    """A file of these leaves: its root and its branches."""
    layout = BalancedLayout(Profile())
    for leaf in leaves:
        layout.add(Link(CID(RAW, multihash(SHA2_256, leaf)), len(leaf), len(leaf)))
    link, branches = layout.finish()
    return link.cid, branches


def test_valid_blocks_are_found_by_their_multihash(tmp_path: Path) -> None:
    put(tmp_path, b"one")
    write(tmp_path, blake3.blake3(b"two").hexdigest() + ".blake3", b"two")
    disk = Truth().disk(tmp_path)
    assert set(disk.blocks) == {multihash(SHA2_256, b"one"), multihash(BLAKE3, b"two")}
    assert not disk.bad
    assert not disk.foreign
    assert not disk.leftovers


@pytest.mark.parametrize("data", [b"", b"on", b"onf", b"one "])
def test_a_partial_or_damaged_file_under_a_final_name_is_bad(tmp_path: Path, data: bytes) -> None:
    path = put(tmp_path, b"one")
    path.write_bytes(data)
    disk = Truth().disk(tmp_path)
    assert disk.bad == [path]
    assert not disk.blocks


def test_what_is_no_block_is_foreign(tmp_path: Path) -> None:
    name = hashlib.sha256(b"one").hexdigest()
    wrong_folder = tmp_path / "blocks" / "000" / name
    wrong_folder.parent.mkdir(parents=True)
    wrong_folder.write_bytes(b"one")
    others = [write(tmp_path, "0a0" + "z" * 61, b""), write(tmp_path, name + ".temp", b"one")]
    assert sorted(Truth().disk(tmp_path).foreign) == sorted([wrong_folder, *others])


def test_leftovers_and_quarantine(tmp_path: Path) -> None:
    for name in ("temp/3/17", "catalog.jsonl.temp", "quarantine/3fa.17"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    disk = Truth().disk(tmp_path)
    assert {path.name for path in disk.leftovers} == {"17", "catalog.jsonl.temp"}
    assert disk.quarantined == 1


def test_a_file_that_changes_after_it_was_hashed_is_hashed_again(tmp_path: Path) -> None:
    truth, path = Truth(), put(tmp_path, b"one")
    os.utime(path, (1, 1))
    assert not truth.disk(tmp_path).bad
    before = path.stat()
    path.write_bytes(b"onf")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert truth.disk(tmp_path).bad == [path]
    assert Truth().disk(tmp_path, rehash=True).bad == [path]


def test_copies_of_a_root_over_several_disks(tmp_path: Path) -> None:
    root, branches = file_of(LEAVES)
    a, b = tmp_path / "a", tmp_path / "b"
    for data in [*LEAVES, *(block.data for block in branches)]:
        put(a, data)
    shutil.copytree(a, b)
    truth = Truth()
    found = count_root([truth.disk(a), truth.disk(b)], root)
    assert (found.blocks, found.fewest, found.lost) == (4, 2, [])
    assert found.bytes == sum(map(len, LEAVES)) + len(branches[0].data)
    assert found.below(2, 2) == 0

    put(b, LEAVES[1]).write_bytes(b"damaged")
    found = count_root([truth.disk(a), truth.disk(b)], root)
    assert found.fewest == 1
    assert found.leaves[multihash(SHA2_256, LEAVES[1])] == 1
    assert (found.below(2, 2), found.below(3, 2), found.below(1, 3)) == (1, 3, 1)

    put(a, LEAVES[1]).unlink()
    found = count_root([truth.disk(a), truth.disk(b)], root)
    assert (found.fewest, found.lost) == (0, [multihash(SHA2_256, LEAVES[1])])


def test_a_lost_branch_is_lost_and_a_lost_root_too(tmp_path: Path) -> None:
    root, _ = file_of(LEAVES)
    for data in LEAVES:
        put(tmp_path, data)
    assert root.codec == DAG_PB
    found = count_root([Truth().disk(tmp_path)], root)
    assert (found.blocks, found.fewest, found.lost) == (1, 0, [root.multihash])
    leaf = CID(RAW, multihash(SHA2_256, LEAVES[0]))
    assert count_root([], leaf).lost == [leaf.multihash]
    found = count_root([Truth().disk(tmp_path)], leaf)
    assert (found.blocks, found.bytes, found.fewest, found.lost) == (1, 1000, 1, [])


def test_the_catalog_is_read_without_touching_it(tmp_path: Path) -> None:
    cid = CID(RAW, multihash(SHA2_256, b"one"))
    books = Catalog(tmp_path / "catalog.sqlite")
    books.merge([Pin(cid, "kept", 3, None, 2, 1, 0, 5, "x"), Pin(cid, "gone", 3, None, 2, 1, 0, 6, "x", True)])
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "catalog.sqlite-wal" in files  # as after a kill: not folded in yet
    records = catalog(tmp_path)
    assert {key[1]: record.removed for key, record in records.items()} == {"kept": False, "gone": True}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    books.close()
