"""Catalog against disk, for one part of the digest space: a job for a native thread.

What is to be done about each block is `core/audit.py`'s to decide; here the disk is looked at, and the decisions are
gathered. Nothing is changed.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from p2pfs.core.audit import Live, Stand, Task, decide
from p2pfs.core.multihash import Multihash, shard_of
from p2pfs.store.base import BlockStore, Seen


class Alike(NamedTuple):
    """Wanted blocks of one shard for which the same is to be done: they differ in name and size only."""

    lives: list[Live]
    is_here: bool


class Comparison(NamedTuple):
    """What was found, block by block; a block may be in several of these."""

    missing: list[Live]
    """Should be here, and is not."""
    surplus: list[tuple[Live, Seen]]
    """Here, and others' to hold."""
    counted: list[Alike]
    """This node is in charge of counting the copies."""
    unwanted: list[tuple[Multihash, Seen]]
    """Here, and no pin wants it."""
    kept: list[Live]
    """Here, and only pins want it that were removed a short while ago."""


def compare(
    store: BlockStore, live: Mapping[Multihash, Live], shards: Iterable[int], stand_in: Callable[[int], Stand]
) -> Comparison:
    """All blocks of these shards: the live ones, and those on the disk. Raises what looking at the disk raises."""
    here = set().union(*map(store.iterate, shards))
    return _compare(store, live, here, stand_in)


def compare_some(
    store: BlockStore, live: Mapping[Multihash, Live], stand_in: Callable[[int], Stand]
) -> Comparison:
    """These live blocks only."""
    here = {block for block in live if store.has(block)}
    return _compare(store, live, here, stand_in)


def _compare(
    store: BlockStore, live: Mapping[Multihash, Live], here: set[Multihash], stand_in: Callable[[int], Stand]
) -> Comparison:
    found = Comparison([], [], [], [], [])
    for lives, is_here in _alike(live.values(), here):
        task = decide(stand_in(shard_of(lives[0].block)), lives[0], is_here)
        if is_here and not lives[0].copies:
            found.kept.extend(lives)
        if task & Task.FETCH:
            found.missing.extend(lives)
        if task & Task.GIVE_UP:
            found.surplus.extend((it, seen) for it in lives if (seen := store.seen(it.block)))
        if task & Task.COUNT:
            found.counted.append(Alike(lives, is_here))
    for block in here - live.keys():
        task = decide(stand_in(shard_of(block)), None, is_here=True)
        if task & Task.COLLECT and (seen := store.seen(block)):
            found.unwanted.append((block, seen))
    return found


def _alike(lives: Iterable[Live], here: set[Multihash]) -> Iterator[Alike]:
    groups: dict[tuple[int, int, bool, bool], list[Live]] = collections.defaultdict(list)
    for live in lives:
        block, copies, _, is_branch = live
        groups[shard_of(block), copies, is_branch, block in here].append(live)
    return (Alike(found, is_here) for (_, _, _, is_here), found in groups.items())
