"""Catalog against disk, for one part of the digest space: a job for a native thread.

What is to be done about each block is `core/audit.py`'s to decide; here the disk is looked at, and the decisions are
gathered. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from p2pfs.core.audit import Live, Stand, Task, decide
from p2pfs.core.multihash import Multihash, shard_of
from p2pfs.store.base import BlockStore, Seen


class Comparison(NamedTuple):
    """What was found, block by block; a block may be in several of these."""

    missing: list[Live]
    """Should be here, and is not."""
    surplus: list[tuple[Live, Seen]]
    """Here, and others' to hold."""
    counted: list[tuple[Live, bool]]
    """This node is in charge of counting the copies; with each, whether one is here."""
    unwanted: list[tuple[Multihash, Seen]]
    """Here, and no pin wants it."""
    kept: list[Live]
    """Here, and only pins want it that were removed a short while ago."""


def compare(
    store: BlockStore, live: Mapping[Multihash, Live], shards: Iterable[int], stand_in: Callable[[int], Stand]
) -> Comparison:
    """All blocks of these shards: the live ones, and those on the disk. Raises what looking at the disk raises."""
    here = {block for shard in shards for block in store.iterate(shard)}
    return _compare(store, live, here, stand_in, live.keys() | here)


def compare_some(
    store: BlockStore, live: Mapping[Multihash, Live], stand_in: Callable[[int], Stand]
) -> Comparison:
    """These live blocks only."""
    here = {block for block in live if store.has(block)}
    return _compare(store, live, here, stand_in, live)


def _compare(
    store: BlockStore, live: Mapping[Multihash, Live], here: set[Multihash], stand_in: Callable[[int], Stand],
    blocks: Iterable[Multihash],
) -> Comparison:
    found = Comparison([], [], [], [], [])
    stands: dict[int, Stand] = {}
    for block in blocks:
        shard = shard_of(block)
        stand = stands.get(shard)
        if stand is None:
            stand = stands[shard] = stand_in(shard)
        wanted, is_here = live.get(block), block in here
        task = decide(stand, wanted, is_here)
        if wanted is None:
            if task & Task.COLLECT and (seen := store.seen(block)):
                found.unwanted.append((block, seen))
            continue
        if is_here and not wanted.copies:
            found.kept.append(wanted)
        if task & Task.FETCH:
            found.missing.append(wanted)
        if task & Task.GIVE_UP and (seen := store.seen(block)):
            found.surplus.append((wanted, seen))
        if task & Task.COUNT:
            found.counted.append((wanted, is_here))
    return found
