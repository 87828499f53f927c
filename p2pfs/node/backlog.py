"""What this node should hold and does not: found by the audit part by part, worked off by the repair."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

from p2pfs.core.audit import Live
from p2pfs.core.multihash import Multihash, digest_of
from p2pfs.store.inventory import BUCKETS

PARTS = BUCKETS
"""Of the digest space, by the first byte: the buckets of `store.inventory`."""
MOST = 50_000
"""Blocks that are remembered one by one, about 15 MB; of more, only how many they are until those are done."""


def part_of(block: Multihash) -> int:
    """The part of the digest space that a block is in."""
    return digest_of(block)[0]


class Amount(NamedTuple):
    """So many blocks."""

    blocks: int = 0
    bytes: int = 0

    def plus(self, blocks: int, size: int) -> Amount:
        """This, and so much more."""
        return Amount(self.blocks + blocks, self.bytes + size)


NOTHING = Amount()


class Backlog:
    """Blocks to fetch. Each is `todo` until it is here, or set aside: failed for now, or displaced for want of room.

    None waits for ever behind those that cannot be fetched: what was set aside gives its place in memory to others, the
    next comparison begins where there was no place left (`in_turn`), and what waits keeps its place in the queue.
    """

    def __init__(self) -> None:
        self._parts: list[dict[Multihash, Live]] = [{} for _ in range(PARTS)]
        self._beyond = [NOTHING] * PARTS
        self._set_aside: dict[Multihash, str] = {}
        self._displaced_in = [NOTHING] * PARTS
        self._remembered = 0
        self._queue: collections.OrderedDict[Multihash, None] = collections.OrderedDict()
        self._in_work: set[Multihash] = set()
        self.missing = NOTHING
        """Not here, all of them."""
        self.displaced = NOTHING
        """Of those, the ones that other ranks hold, because there is no room here."""
        self._first: Multihash = Multihash(bytes(34))
        """From this block on places in memory are given, all around."""
        self._next: Multihash | None = None
        """The first after it that got none since."""

    @property
    def is_idle(self) -> bool:
        """There is nothing to try, and nothing being tried."""
        return not self._queue and not self._in_work

    def is_missing_in(self, part: int) -> bool:
        """Something in this part is not here, and not because there is no room: only other changes can help that."""
        return len(self._parts[part]) + self._beyond[part].blocks > self._displaced_in[part].blocks

    def in_turn(self, parts: Iterable[int]) -> list[int]:
        """The order in which a comparison is to `replace` parts: it begins where the last one had no place left."""
        self._first, self._next = self._next or self._first, None
        return sorted(parts, key=lambda part: (part - part_of(self._first)) % PARTS)

    def replace(self, part: int, lives: Iterable[Live]) -> None:
        """All that is missing in a part, in place of what was known of it."""
        before = self._parts[part].copy()
        ranks = {block: 2 if block in self._set_aside else 0 for block in before}  # 1: not remembered so far
        for live in before.values():
            self._forget(live)
        beyond, displaced = self._beyond[part], self._displaced_in[part]
        self.missing = self.missing.plus(-beyond.blocks, -beyond.bytes)
        self.displaced = self.displaced.plus(-displaced.blocks, -displaced.bytes)
        self._beyond[part] = self._displaced_in[part] = NOTHING
        self.add(sorted(lives, key=lambda live: (ranks.get(live.block, 1), self._place(live.block))))
        for block in before.keys() - self._parts[part].keys():
            self._queue.pop(block, None)

    def add(self, lives: Iterable[Live]) -> None:
        """These are missing, too."""
        for live in lives:
            part = part_of(live.block)
            if live.block in self._parts[part]:
                continue
            self.missing = self.missing.plus(1, live.size)
            if self._remembered >= MOST and not self._make_room():
                self._beyond[part] = self._beyond[part].plus(1, live.size)
                if self._next is None or self._place(live.block) < self._place(self._next):
                    self._next = live.block
                continue
            self._parts[part][live.block] = live
            self._remembered += 1
            if live.block not in self._in_work:
                self._queue[live.block] = None  # where it was, if it still waits

    def _place(self, block: Multihash) -> tuple[bool, bytes]:
        """Sorts blocks by their digests from `_first` on, all around."""
        return block[2:] < self._first[2:], block[2:]

    def _make_room(self) -> bool:
        """Only count, from now on, one that was set aside: it would be tried again after the next comparison only."""
        if not self._set_aside:
            return False
        block, _ = self._set_aside.popitem()
        part = part_of(block)
        self._beyond[part] = self._beyond[part].plus(1, self._parts[part].pop(block).size)
        self._remembered -= 1
        return True

    def take(self) -> Live | None:
        """The next to fetch, until `done` or `set_aside` is said of it; None when there is none."""
        if not self._queue:
            return None
        block, _ = self._queue.popitem(last=False)
        self._in_work.add(block)
        return self._parts[part_of(block)][block]

    def done(self, live: Live) -> None:
        """It is here now."""
        self._in_work.discard(live.block)
        known = self._parts[part_of(live.block)].get(live.block)
        if known is not None:
            self._forget(known)

    def set_aside(self, live: Live, why: str) -> None:
        """It cannot be fetched before the next comparison: it `failed`, or is `displaced`."""
        self._in_work.discard(live.block)
        known = self._parts[part_of(live.block)].get(live.block)
        if known is not None and live.block not in self._set_aside:
            self._set_aside[live.block] = why
            if why == "displaced":
                self._count_displaced(known, 1)

    def _forget(self, live: Live) -> None:
        del self._parts[part_of(live.block)][live.block]
        self._remembered -= 1
        self.missing = self.missing.plus(-1, -live.size)
        if self._set_aside.pop(live.block, "") == "displaced":
            self._count_displaced(live, -1)

    def _count_displaced(self, live: Live, count: int) -> None:
        part = part_of(live.block)
        self._displaced_in[part] = self._displaced_in[part].plus(count, count * live.size)
        self.displaced = self.displaced.plus(count, count * live.size)
