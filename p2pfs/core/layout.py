"""The balanced layout: how the leaves of a file become a tree (boxo ipld/unixfs/importer/balanced).

All leaves are at the same depth, and every branch has up to `max_links` children, filled from the left. A last
branch with one child stays a branch. A file of one leaf is that leaf, an empty one the empty raw block.
"""

from __future__ import annotations

from typing import NamedTuple

from p2pfs.core import dagpb, unixfs
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.multihash import multihash
from p2pfs.core.profile import Profile


class Block(NamedTuple):
    """A block with its name."""

    cid: CID
    data: bytes


class Link(NamedTuple):
    """What a parent has to know of a child."""

    cid: CID
    size: int
    """File bytes below it; 0 for directories and symbolic links."""
    tsize: int
    """Bytes of its block and of all that it links to, repeats counted again."""


class BalancedLayout:
    """Takes the leaves of one file in order and gives back branches as they become complete, children first.

    Holds at most `max_links` links a level: 1 TiB of 1 MiB leaves are two levels.
    """

    def __init__(self, profile: Profile) -> None:
        self._max_links = profile.max_links
        self._hash_code = profile.hash_code
        self._levels: list[list[Link]] = [[]]

    def add(self, leaf: Link) -> list[Block]:
        """The next leaf; returns the branches that it completed, often none."""
        done: list[Block] = []
        self._push(0, leaf, done)
        return done

    def finish(self) -> tuple[Link, list[Block]]:
        """The file's link, and the blocks still missing. Nothing may be added afterwards."""
        leaves = self._levels[0]
        if not leaves:
            empty = Block(CID(RAW, multihash(self._hash_code, b"")), b"")
            return Link(empty.cid, 0, 0), [empty]
        done: list[Block] = []
        if len(self._levels) == 1 and len(leaves) == 1:
            return leaves[0], done
        level = 0
        branch = self._close(leaves, done)
        while level + 1 < len(self._levels):
            level += 1
            self._push(level, branch, done)
            branch = self._close(self._levels[level], done)
        return branch, done

    def _push(self, level: int, link: Link, done: list[Block]) -> None:
        # A full list is closed only when the next link comes: 1024 leaves are one root, without a root above it.
        while level < len(self._levels):
            links = self._levels[level]
            if len(links) < self._max_links:
                links.append(link)
                return
            self._levels[level] = [link]
            link = self._close(links, done)
            level += 1
        self._levels.append([link])

    def _close(self, links: list[Link], done: list[Block]) -> Link:
        data = dagpb.encode(
            [(link.cid.encode(), b"", link.tsize) for link in links],
            unixfs.encode_file([link.size for link in links]),
        )
        cid = CID(DAG_PB, multihash(self._hash_code, data))
        done.append(Block(cid, data))
        return Link(cid, sum(link.size for link in links), len(data) + sum(link.tsize for link in links))
