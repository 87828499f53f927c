"""What this node should hold and does not: found by the audit part by part, worked off by the repair."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple

from p2pfs.core.audit import Live
from p2pfs.core.multihash import Multihash, digest_of

PARTS = 256
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
    """Blocks to fetch. Each is `todo` until it is here, or set aside: failed for now, or displaced for want of room."""

    def __init__(self) -> None:
        self._parts: list[dict[Multihash, Live]] = [{} for _ in range(PARTS)]
        self._beyond = [NOTHING] * PARTS
        self._set_aside: dict[Multihash, str] = {}
        self._displaced_in = [0] * PARTS
        self._remembered = 0
        self._queue: collections.deque[Live] = collections.deque()
        self._in_work: set[Multihash] = set()
        self.missing = NOTHING
        """Not here, all of them."""
        self.displaced = NOTHING
        """Of those, the ones that other ranks hold, because there is no room here."""

    @property
    def is_idle(self) -> bool:
        """There is nothing to try, and nothing being tried."""
        return not self._queue and not self._in_work

    def is_missing_in(self, part: int) -> bool:
        """Something in this part is not here, and not because there is no room: only other changes can help that."""
        return len(self._parts[part]) > self._displaced_in[part] or self._beyond[part].blocks > 0

    def replace(self, part: int, lives: Iterable[Live]) -> None:
        """All that is missing in a part, in place of what was known of it."""
        for live in list(self._parts[part].values()):
            self._forget(live)
        self.missing = self.missing.plus(-self._beyond[part].blocks, -self._beyond[part].bytes)
        self._beyond[part] = NOTHING
        self.add(lives)

    def add(self, lives: Iterable[Live]) -> None:
        """These are missing, too."""
        for live in lives:
            part = part_of(live.block)
            if live.block in self._parts[part]:
                continue
            self.missing = self.missing.plus(1, live.size)
            if self._remembered >= MOST:
                self._beyond[part] = self._beyond[part].plus(1, live.size)
                continue
            self._parts[part][live.block] = live
            self._remembered += 1
            self._queue.append(live)

    def take(self) -> Live | None:
        """The next to fetch, until `done` or `set_aside` is said of it; None when there is none."""
        while self._queue:
            live = self._queue.popleft()
            is_known = self._parts[part_of(live.block)].get(live.block) is live
            if is_known and live.block not in self._in_work and live.block not in self._set_aside:
                self._in_work.add(live.block)
                return live
        return None

    def done(self, live: Live) -> None:
        """It is here now."""
        self._in_work.discard(live.block)
        known = self._parts[part_of(live.block)].get(live.block)
        if known is not None:
            self._forget(known)

    def set_aside(self, live: Live, why: str) -> None:
        """It cannot be fetched before the next comparison: it `failed`, or is `displaced`."""
        self._in_work.discard(live.block)
        if live.block in self._parts[part_of(live.block)] and live.block not in self._set_aside:
            self._set_aside[live.block] = why
            if why == "displaced":
                self._count_displaced(live, 1)

    def _forget(self, live: Live) -> None:
        del self._parts[part_of(live.block)][live.block]
        self._remembered -= 1
        self.missing = self.missing.plus(-1, -live.size)
        if self._set_aside.pop(live.block, "") == "displaced":
            self._count_displaced(live, -1)

    def _count_displaced(self, live: Live, count: int) -> None:
        self._displaced_in[part_of(live.block)] += count
        self.displaced = self.displaced.plus(count, count * live.size)
