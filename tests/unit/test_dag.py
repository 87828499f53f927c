"""Reading DAGs: ranges, paths, walks; and strangers' DAGs that lie, loop or never end."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import dag, dagpb, unixfs
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.directory import Entry, build_directory, build_symlink
from p2pfs.core.layout import Block
from p2pfs.core.multihash import IDENTITY, SHA2_256, multihash
from p2pfs.core.profile import Profile
from tests.unit.dags import Blocks, add_file, content, file_node, node, raw

SMALL = Profile(max_links=3).with_chunk(10)
CONTENT = bytes(range(256)) * 4


def inline_file(data: bytes, children: list[tuple[CID, int]] | None = None) -> Block:
    """A file node with data in it, as CIDv0 leaves and trickle branches have."""
    children = children or []
    total = len(data) + sum(size for _, size in children)
    message = b"\x08\x02\x12%b%b\x18%b" % (varint(len(data)), data, varint(total))
    message += b"".join(b"\x20" + varint(size) for _, size in children)
    return node([(cid, b"", size) for cid, size in children], message)


def varint(value: int) -> bytes:
    from p2pfs.core import varint

    return varint.encode(value)


def size_message(sizes: list[int], filesize: int) -> bytes:
    return b"\x08\x02\x18" + varint(filesize) + b"".join(b"\x20" + varint(size) for size in sizes)


# --- ranges ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, len(CONTENT)), st.integers(0, 1100), st.integers(0, 1100))
def test_any_range_of_a_file(size: int, start: int, stop: int) -> None:
    store = Blocks()
    root = add_file([CONTENT[:size]], SMALL, store).cid
    if root.codec == RAW:
        start, stop = min(start, size), min(stop, size)
    store.loaded.clear()
    spans = list(dag.spans(store.load, root, start, stop))
    assert b"".join(dag.span_payload(span, store.block(span.cid)) for span in spans) == CONTENT[:size][start:stop]
    position = start
    for span in spans:
        assert span.offset == position
        assert span.length > 0
        position += span.length
    assert all(cid.codec == DAG_PB for cid in store.loaded)
    assert root.codec == RAW or dag.file_size(root, store.block(root)) == size


def test_a_short_range_loads_one_branch_a_level() -> None:
    store = Blocks()
    root = add_file([CONTENT], SMALL, store).cid
    store.loaded.clear()
    assert len(list(dag.spans(store.load, root, 505, 506))) == 1
    assert len(store.loaded) == 5  # 103 leaves, three children a branch


def test_inline_data_comes_before_the_links() -> None:
    leaf, deeper_leaf = raw(b"-leaf"), inline_file(b"-old leaf")
    branch = inline_file(b"-inner", [(deeper_leaf.cid, 9)])
    root = inline_file(b"first", [(leaf.cid, 5), (branch.cid, 15)])
    store = Blocks([leaf, deeper_leaf, branch, root])
    whole = b"first-leaf-inner-old leaf"
    assert dag.file_size(root.cid, root.data) == len(whole)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 2):
            assert b"".join(content(store, root.cid, start, stop)) == whole[start:stop]


def test_identity_leaves_and_branches_need_no_block() -> None:
    leaf = CID(RAW, multihash(IDENTITY, b"data"))
    small = inline_file(b"inner")
    branch = CID(DAG_PB, multihash(IDENTITY, small.data))
    root = file_node([(leaf, 4), (branch, 5)])
    store = Blocks([root])
    assert b"".join(content(store, root.cid)) == b"datainner"
    assert [visit.cid for visit in dag.walk(store.load, root.cid)] == [root.cid]


LEAF = raw(b"0123456789")


@pytest.mark.parametrize("root", [
    node([(LEAF.cid, b"", 10)], size_message([10], 11)),  # filesize lies
    node([(LEAF.cid, b"", 10)], size_message([10, 5], 15)),  # a blocksize more
    node([(LEAF.cid, b"", 10)], size_message([], 0)),  # a blocksize less
    node([(LEAF.cid, b"name", 10)], size_message([10], 10)),  # a named chunk
    file_node([(LEAF.cid, 9)]),  # the leaf is longer
    file_node([(LEAF.cid, 11)]),  # the leaf is shorter
    file_node([(inline_file(b"0123456789").cid, 9)]),  # the branch is longer
    file_node([(inline_file(b"0123456789").cid, 11)]),
    file_node([(node([], unixfs.DIRECTORY_DATA).cid, 10)]),  # a directory in a file
    file_node([(CID(RAW, multihash(IDENTITY, b"abc")), 4)]),
    file_node([(CID(0x71, LEAF.cid.multihash), 10)]),  # a codec that cannot be read
    node([], b"\x08\x03"),  # metadata
    node([], b"\x08\x07"),
    node([], b""),
    Block(CID(DAG_PB, multihash(SHA2_256, b"")), b""),
    Block(CID(0x71, multihash(SHA2_256, b"x")), b"x"),
])
def test_files_that_lie_are_malformed_never_wrong(root: Block) -> None:
    store = Blocks([root, LEAF, inline_file(b"0123456789"), node([], unixfs.DIRECTORY_DATA)])
    with pytest.raises(errors.Malformed):
        list(content(store, root.cid))


def test_a_raw_root_that_is_shorter_than_the_range_is_malformed() -> None:
    (span,) = dag.spans(Blocks().load, LEAF.cid, 0, 11)
    with pytest.raises(errors.Malformed):
        dag.span_payload(span, LEAF.data)


def test_what_is_no_file_is_not_read_as_one() -> None:
    _, link = build_symlink(b"target", Profile())
    folder = node([], unixfs.DIRECTORY_DATA)
    for block in (link, folder):
        with pytest.raises(errors.UsageError):
            list(dag.spans(Blocks([block]).load, block.cid, 0, 1))
        with pytest.raises(errors.UsageError):
            dag.file_size(block.cid, block.data)
    with pytest.raises(errors.UsageError):
        dag.symlink_target(folder.cid, folder.data)
    with pytest.raises(errors.UsageError):
        list(dag.entries(Blocks([link]).load, link.cid))
    with pytest.raises(errors.UsageError):
        list(dag.entries(Blocks().load, LEAF.cid))


# --- paths -------------------------------------------------------------------------------------------


def test_paths() -> None:
    store = Blocks([LEAF])
    inner, blocks = build_directory([Entry(b"file", LEAF.cid, 10)], Profile())
    for block in blocks:
        store.put(block)
    outer, blocks = build_directory([Entry(b"sub", inner.cid, inner.tsize)], Profile())
    for block in blocks:
        store.put(block)
    assert dag.resolve(store.load, outer.cid, []) == outer.cid
    assert dag.resolve(store.load, outer.cid, [b"sub"]) == inner.cid
    assert dag.resolve(store.load, outer.cid, [b"sub", b"file"]) == LEAF.cid
    for path, why in [
        ([b"nothing"], "nothing"), ([b"sub", b"file", b"x"], "no directory"), ([b"..", b"sub"], r"\.\."),
        ([b"sub", b"\xff\n"], r"\\xff"),
    ]:
        with pytest.raises(errors.NotFound, match=why):
            dag.resolve(store.load, outer.cid, path)


def test_one_bad_link_does_not_hide_the_other_entries() -> None:
    data = dagpb.encode([(b"\x01\x55\x13\x40" + bytes(64), b"bad", 1), (LEAF.cid.encode(), b"good", 10)], b"\x08\x01")
    root = Block(CID(DAG_PB, multihash(SHA2_256, data)), data)
    store = Blocks([root])
    assert dag.resolve(store.load, root.cid, [b"good"]) == LEAF.cid
    with pytest.raises(errors.Malformed, match="sha2-512"):
        dag.resolve(store.load, root.cid, [b"bad"])


# --- walks -------------------------------------------------------------------------------------------


def test_a_walk_is_depth_first_in_link_order_and_each_block_once() -> None:
    a, b, c = raw(b"a"), raw(b"b"), raw(b"c")
    left, right = file_node([(a.cid, 1), (b.cid, 1)]), file_node([(b.cid, 1), (c.cid, 1)])
    root = file_node([(left.cid, 2), (right.cid, 2), (left.cid, 2), (a.cid, 1)])
    store = Blocks([left, right, root])
    assert list(dag.walk(store.load, root.cid)) == [
        (root.cid, True, len(root.data)), (left.cid, True, len(left.data)), (a.cid, False, 1), (b.cid, False, 1),
        (right.cid, True, len(right.data)), (c.cid, False, 1),
    ]
    assert len(store.loaded) == 3


def test_a_walk_of_a_raw_root_loads_nothing() -> None:
    store = Blocks()
    assert list(dag.walk(store.load, LEAF.cid, 10)) == [(LEAF.cid, False, 10)]
    assert not store.loaded


def test_bytes_that_are_linked_as_raw_first_do_not_hide_what_they_link_to() -> None:
    leaf = raw(b"precious")
    branch = file_node([(leaf.cid, 8)])
    as_raw = CID(RAW, branch.cid.multihash)
    above = file_node([(branch.cid, 8)])
    for order in ([as_raw, branch.cid], [branch.cid, as_raw], [as_raw, above.cid], [above.cid, as_raw]):
        root = file_node([(cid, 8) for cid in order])
        found = [visit.cid for visit in dag.walk(Blocks([branch, above, root]).load, root.cid)]
        assert leaf.cid in found
        assert branch.cid in found


def test_cidv0_and_cidv1_of_one_block_are_one_block() -> None:
    folder = node([], unixfs.DIRECTORY_DATA)
    old = CID(DAG_PB, folder.cid.multihash, 0)
    root = node([(folder.cid, b"new", 4), (old, b"old", 4)], unixfs.DIRECTORY_DATA)
    assert len(list(dag.walk(Blocks([folder, root]).load, root.cid))) == 2


def test_an_absent_branch_ends_a_walk_an_absent_leaf_does_not() -> None:
    branch = file_node([(LEAF.cid, 10)])
    root = file_node([(branch.cid, 10)])
    with pytest.raises(errors.NotFound):
        list(dag.walk(Blocks([root]).load, root.cid))
    assert len(list(dag.walk(Blocks([root, branch]).load, root.cid))) == 3


def nested(depth: int, name: bytes) -> tuple[CID, Blocks]:
    block = node([], unixfs.DIRECTORY_DATA) if name else inline_file(b"x")
    store = Blocks([block])
    for _ in range(depth):
        message = unixfs.DIRECTORY_DATA if name else unixfs.encode_file([1])
        block = node([(block.cid, name, 1)], message)
        store.put(block)
    return block.cid, store


@pytest.mark.parametrize(("name", "limit"), [(b"d", dag.MAX_PATH_DEPTH), (b"", dag.MAX_FILE_DEPTH - 1)])
def test_depth_has_a_limit(name: bytes, limit: int) -> None:
    root, store = nested(limit, name)
    assert len(list(dag.walk(store.load, root))) == limit + 1
    if not name:
        assert b"".join(content(store, root)) == b"x"
    root, store = nested(limit + 1, name)
    with pytest.raises(errors.Malformed, match="too deep"):
        list(dag.walk(store.load, root))
    if not name:
        with pytest.raises(errors.Malformed, match="branches"):
            list(content(store, root))


def test_a_wide_and_deep_dag_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag, "MAX_PENDING", 500)
    block = inline_file(b"x")
    store = Blocks([block])
    for level in range(10):
        wide = [(raw(b"%d.%d" % (level, index)).cid, 1) for index in range(100)]
        block = file_node([(block.cid, 1 + 100 * level), *wide])
        store.put(block)
    with pytest.raises(errors.Malformed, match="wide and deep"):
        list(dag.walk(store.load, block.cid))
    with pytest.raises(errors.Malformed, match="wide and deep"):
        list(dag.spans(store.load, block.cid, 0, 2000))


def test_a_walk_visits_so_many_blocks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag, "MAX_BLOCKS", 20)
    store = Blocks()
    root = add_file([CONTENT], SMALL, store).cid
    with pytest.raises(errors.Malformed, match="more than 20"):
        list(dag.walk(store.load, root))


# --- any bytes ---------------------------------------------------------------------------------------

messages = st.one_of(
    st.binary(max_size=20),
    st.lists(st.integers(0, 12), max_size=4).map(unixfs.encode_file),
    st.just(unixfs.DIRECTORY_DATA),
    st.integers(0, 3).map(unixfs.encode_shard),
    st.just(unixfs.encode_symlink(b"t")),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(messages, st.lists(st.tuples(st.integers(0, 9), st.sampled_from([b"", b"00", b"00a", b"b"]))
                                             , max_size=4)), min_size=1, max_size=8))
def test_any_dag_is_read_or_refused(
    nodes: list[tuple[bytes, list[tuple[int, bytes]]]]
) -> None:
    blocks = [LEAF]
    for message, links in nodes:
        blocks.append(node([(blocks[at % len(blocks)].cid, name, 10) for at, name in links], message))
    store = Blocks(blocks)
    root = blocks[-1].cid
    walked = list(dag.walk(store.load, root))
    assert len({visit.cid.multihash for visit in walked}) == len(walked)
    for read in (
        lambda: list(content(store, root, 0, 200)), lambda: list(dag.entries(store.load, root)),
        lambda: dag.resolve(store.load, root, [b"a", b"b"]), lambda: dag.kind(root, store.block(root)),
    ):
        with contextlib.suppress(errors.Malformed, errors.UsageError, errors.NotFound):
            read()
