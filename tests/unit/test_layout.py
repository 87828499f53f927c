"""The balanced layout against a builder that sees all leaves at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core import dagpb, unixfs
from p2pfs.core.layout import BalancedLayout, Block, Link
from p2pfs.core.profile import Profile
from tests.unit.dags import raw


def leaf(index: int) -> Link:
    return Link(raw(b"%d" % index).cid, index + 1, index + 1)


def lay_out(count: int, max_links: int) -> tuple[Link, list[Block]]:
    layout = BalancedLayout(Profile(max_links=max_links))
    blocks = []
    for index in range(count):
        blocks += layout.add(leaf(index))
    root, rest = layout.finish()
    return root, blocks + rest


@given(st.integers(1, 200), st.integers(2, 6))
def test_every_level_is_filled_from_the_left(count: int, max_links: int) -> None:
    root, blocks = lay_out(count, max_links)
    by_cid = {block.cid.encode(): block for block in blocks}
    level = [leaf(index).cid.encode() for index in range(count)]
    while len(level) > 1:
        groups = [level[start : start + max_links] for start in range(0, len(level), max_links)]
        level = [next(c for c, b in by_cid.items() if [h for h, _, _ in dagpb.decode(b.data)[0]] == g) for g in groups]
    assert level == [root.cid.encode()]
    assert root.size == sum(range(1, count + 1))
    assert root.tsize == root.size + sum(len(block.data) for block in blocks)


@given(st.integers(2, 200), st.integers(2, 6))
def test_children_come_before_their_parents(count: int, max_links: int) -> None:
    root, blocks = lay_out(count, max_links)
    seen = {leaf(index).cid.encode() for index in range(count)}
    for block in blocks:
        links, data = dagpb.decode(block.data)
        assert {hash for hash, _, _ in links} <= seen
        assert data is not None
        assert len(unixfs.decode(data).blocksizes) == len(links) <= max_links
        seen.add(block.cid.encode())
    assert blocks[-1].cid == root.cid


def test_one_leaf_is_the_file_and_none_is_the_empty_block() -> None:
    assert lay_out(1, 3) == (leaf(0), [])
    root, blocks = lay_out(0, 3)
    assert str(root.cid) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert (root.size, root.tsize, blocks) == (0, 0, [Block(root.cid, b"")])


def test_memory_is_a_list_of_links_a_level() -> None:
    layout = BalancedLayout(Profile(max_links=4))
    for index in range(4000):
        layout.add(leaf(index))
    assert sum(len(links) for links in layout._levels) <= 4 * 6
