"""Directories: names, order, the threshold, symbolic links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import dag, dagpb
from p2pfs.core.directory import Entry, build_directory, build_symlink, check_name
from p2pfs.core.profile import HAMT_THRESHOLD_BYTES, Profile
from tests.unit.dags import Blocks, raw

LEAF = raw(b"x").cid
names = st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "replace")).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(st.dictionaries(names, st.integers(0, 2**60), max_size=20), st.randoms())
def test_entries_come_back_sorted_whatever_their_order(sizes: dict[bytes, int], random) -> None:  # type: ignore[no-untyped-def]
    entries = [Entry(name, LEAF, size) for name, size in sizes.items()]
    random.shuffle(entries)
    link, blocks = build_directory(entries, Profile())
    store = Blocks(blocks)
    assert list(dag.entries(store.load, link.cid)) == sorted(entries)
    assert link.size == 0
    assert link.tsize == len(store.block(link.cid)) + sum(sizes.values())
    for name in sizes:
        assert dag.resolve(store.load, link.cid, [name]) == LEAF


@pytest.mark.parametrize(("name", "why"), [
    (b"", "empty"), (b".", "reserved"), (b"..", "reserved"), (b"a/b", "slash"), (b"a\0b", "NUL"), (b"/", "slash"),
    (b"caf\xe9", "UTF-8"), ("é".encode() * 128, "256 bytes"), (b"\xed\xa0\x80", "UTF-8"),
])
def test_names_that_no_file_may_have_are_refused(name: bytes, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why):
        check_name(name)
    with pytest.raises(errors.UsageError, match=why):
        build_directory([Entry(b"good", LEAF, 1), Entry(name, LEAF, 1)], Profile())


def test_a_name_of_255_bytes_is_taken() -> None:
    check_name(b"n" * 255)


def test_a_name_that_comes_twice_is_refused_by_name() -> None:
    with pytest.raises(errors.UsageError, match="twin"):
        build_directory([Entry(b"twin", LEAF, 1), Entry(b"a", LEAF, 1), Entry(b"twin", LEAF, 2)], Profile())


@given(st.lists(st.tuples(st.integers(1, 255), st.integers(0, 2**64 - 1)), max_size=40))
def test_the_size_that_decides_is_the_size_of_the_block(shapes: list[tuple[int, int]]) -> None:
    from p2pfs.core.directory import _size

    links = [(LEAF.encode(), b"n" * length, tsize) for length, tsize in shapes]
    assert _size(links, Profile()) == len(dagpb.encode(links, b"\x08\x01"))
    old = Profile(counts_block_bytes=False)
    assert _size(links, old) == sum(36 + length for length, _ in shapes)


@pytest.mark.parametrize("counts_block_bytes", [True, False])
def test_a_directory_is_sharded_only_beyond_the_threshold(counts_block_bytes: bool) -> None:
    made = Profile(counts_block_bytes=counts_block_bytes)
    # 45 bytes around each name in a block, 36 for the CID alone in the old way of counting.
    each = (45 if counts_block_bytes else 36) + 100
    count, rest = divmod(HAMT_THRESHOLD_BYTES - (4 if counts_block_bytes else 0), each)
    rest -= counts_block_bytes  # The last name has over 127 bytes, so its length has two.
    entries = [Entry(b"%0100d" % index, LEAF, 1) for index in range(count - 1)]
    at = [*entries, Entry(b"n" * (100 + rest), LEAF, 1)]
    over = [*entries, Entry(b"n" * (101 + rest), LEAF, 1)]
    assert len(list(build_directory(at, made)[1])) == 1
    assert len(list(build_directory(over, made)[1])) > 1


def test_symbolic_links_keep_their_target() -> None:
    link, block = build_symlink(b"../a\xff b", Profile())
    assert dag.kind(link.cid, block.data) == "symlink"
    assert dag.symlink_target(link.cid, block.data) == b"../a\xff b"
    assert (link.size, link.tsize) == (0, len(block.data))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4097])
def test_targets_that_no_link_can_have_are_refused(target: bytes) -> None:
    with pytest.raises(errors.UsageError):
        build_symlink(target, Profile())
