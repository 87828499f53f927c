"""Sharded directories: the hash, the tree, and shards that lie."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import dag, dagpb, hamt, unixfs, varint
from p2pfs.core.cid import CID
from p2pfs.core.layout import Block
from p2pfs.core.multihash import SHA2_256
from tests.unit.dags import Blocks, node, raw

LEAF = raw(b"x").cid


def build(names: list[bytes]) -> tuple[CID, Blocks]:
    link, blocks = hamt.build([(LEAF.encode(), name, 1) for name in names], SHA2_256)
    return link.cid, Blocks(blocks)


@pytest.mark.parametrize(("name", "hex"), [(b"hello", "cbd8a7b341bd9b02"), (b"470.txt", "006e88df5847e67c")])
def test_known_hashes(name: bytes, hex: str) -> None:
    assert hamt.name_hash(name).hex() == hex


@settings(max_examples=40)
@given(st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=400))
def test_every_name_is_found_and_nothing_else(names: set[bytes]) -> None:
    root, store = build(list(names))
    assert sorted(entry.name for entry in dag.entries(store.load, root)) == sorted(names)
    for name in names:
        store.loaded.clear()
        assert dag.resolve(store.load, root, [name]) == LEAF
        assert len(store.loaded) <= 8
    with pytest.raises(errors.NotFound):
        dag.resolve(store.load, root, [b"thirteen bytes"])


def test_the_tree_does_not_depend_on_the_order() -> None:
    names = [b"%d" % index for index in range(2000)]
    assert build(names)[0] == build(names[::-1])[0]


def test_names_that_agree_in_the_whole_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamt, "name_hash", lambda name: b"\0" * 8)
    with pytest.raises(errors.UsageError, match="same hash"):
        build([b"one", b"two"])


def shard(links: list[tuple[CID, bytes, int]], fanout: int = 256, hash_type: int = 0x22) -> Block:
    return node(links, b"\x08\x05\x12\x01\x01\x28" + varint.encode(hash_type) + b"\x30" + varint.encode(fanout))


@pytest.mark.parametrize(("fanout", "hash_type"), [
    (0, 0x22), (4, 0x22), (100, 0x22), (2048, 0x22), (1 << 40, 0x22), (256, 0x12), (256, 0),
])
def test_shapes_that_are_not_read(fanout: int, hash_type: int) -> None:
    block = shard([], fanout, hash_type)
    with pytest.raises(errors.Malformed):
        list(dag.entries(Blocks([block]).load, block.cid))


@pytest.mark.parametrize("name", [b"", b"0", b"0G", b"0a", b"+1name", b" 1x", b"-1x", b"1_x"])
def test_links_without_their_bucket_are_refused(name: bytes) -> None:
    block = shard([(LEAF, name, 1)])
    with pytest.raises(errors.Malformed, match="bucket"):
        list(dag.entries(Blocks([block]).load, block.cid))


def test_a_fanout_of_8_takes_prefixes_of_one_digit_below_8() -> None:
    block = shard([(LEAF, b"7seven", 1)], fanout=8)
    assert [entry.name for entry in dag.entries(Blocks([block]).load, block.cid)] == [b"seven"]
    block = shard([(LEAF, b"8eight", 1)], fanout=8)
    with pytest.raises(errors.Malformed):
        list(dag.entries(Blocks([block]).load, block.cid))


def test_a_shard_with_more_links_than_buckets_is_refused() -> None:
    block = shard([(LEAF, b"0%d" % index, 1) for index in range(9)], fanout=8)
    with pytest.raises(errors.Malformed, match="9 links and 8 buckets"):
        list(dag.entries(Blocks([block]).load, block.cid))


def test_a_shard_of_another_kind_below_a_shard_is_refused() -> None:
    for lower in (shard([], fanout=16), node([], unixfs.DIRECTORY_DATA), node([], unixfs.encode_file([]))):
        upper = shard([(lower.cid, b"00", 1)])
        with pytest.raises(errors.Malformed):
            list(dag.entries(Blocks([lower, upper]).load, upper.cid))


def test_a_shard_that_comes_twice_is_refused_instead_of_listed_for_ever() -> None:
    blocks = [shard([(LEAF, b"00x", 1)])]
    for _ in range(6):
        below = blocks[-1].cid
        blocks.append(shard([(below, b"00", 1), (below, b"01", 1)]))
    store = Blocks(blocks)
    with pytest.raises(errors.Malformed, match="twice"):
        list(dag.entries(store.load, blocks[-1].cid))


@pytest.mark.parametrize("name", [b"%d" % index for index in range(3)])
def test_shards_deeper_than_the_hash_are_refused(name: bytes) -> None:
    hash = hamt.name_hash(name)
    block = shard([(LEAF, b"FFother", 1)])
    blocks = [block]
    for depth in range(8, -1, -1):
        block = shard([(block.cid, b"%02X" % hash[min(depth, 7)], 1)])
        blocks.append(block)
    store = Blocks(blocks)
    with pytest.raises(errors.Malformed):
        dag.resolve(store.load, block.cid, [name])
    with pytest.raises(errors.Malformed):
        list(dag.entries(store.load, block.cid))


@given(st.binary(max_size=60), st.sampled_from([8, 16, 256, 1024]))
def test_any_name_splits_or_is_malformed(name: bytes, fanout: int) -> None:
    shape = hamt.shape_of(unixfs.decode(dagpb.decode(shard([], fanout).data)[1] or b""))
    try:
        ((entry, _),) = hamt.split_links([(b"h", name, 0)], shape)
    except errors.Malformed:
        return
    assert name[: shape.width] + (entry or b"") == name
