"""Which members own a shard, in which order: a pure function of the membership, so nobody asks anybody.

Weighted rendezvous hashing. Every member draws a number for every shard; the members in the order of their
draws own it (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998). A draw `u`
becomes a score by the logarithm method, `-weight / ln(u)`, the highest first (Schindelhauer and Schomaker,
"Weighted distributed hash tables", 2005): so a member wins in proportion to its weight, and a changed weight
moves only that member's shards.

Two additions:

- Stratified draws. Independent draws would give a member of twenty its share of 4096 shards with an error of
  10 % too often. So a member's 4096 hashes are sorted, and the place in that order, not the hash itself,
  gives `u`: each member draws each of the 4096 bands of (0, 1) exactly once (Latin hypercube sampling; McKay,
  Beckman and Conover 1979). A draw still depends on nothing but shard and node id, so movement stays minimal.
- Zones. The best member of each zone comes first, then each zone's second, and so on; in each pass the best
  score first.

With several owners a shard and unequal weights a member's share follows its weight only as far as it can:
nobody owns more than one copy of a shard, and the heavier ones come a little short. With zones, every zone
gets the same share while there are no more zones than owners, whatever its members weigh.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import xxhash

SHARDS = 4096
_PREFIXES = [shard.to_bytes(2, "big") for shard in range(SHARDS)]


class Candidate(NamedTuple):
    """A member that may own shards."""

    id: str
    weight: float
    """Share of the shards, relative to the others'. 0: owns nothing, stands last in every order."""
    zone: str
    """What fails together. Empty: the member is a zone of its own."""


@lru_cache(maxsize=1024)
def _draws(id: str) -> array[float]:
    """`-ln(u)` of a member for each shard; one in each of 4096 bands of u. 32 KiB."""
    name = id.encode("utf-8", "surrogatepass")
    hashes = [xxhash.xxh3_64_intdigest(prefix + name) for prefix in _PREFIXES]
    draws = array("d", bytes(8 * SHARDS))
    for place, shard in enumerate(sorted(range(SHARDS), key=hashes.__getitem__)):
        # The hash again, now as the offset inside the band: two members never draw the same number.
        u = (place + (hashes[shard] + 0.5) / 2**64) / SHARDS
        draws[shard] = -math.log(u)
    return draws


def prepare(id: str) -> None:
    """Make a member's draws now, 2 ms of work, so that the first order which it is part of does not have to."""
    _draws(id)


class Placement:
    """The order of the members for every shard, for one membership. Computed when asked for, and kept.

    Never changes what it answers, so native threads may ask while greenlets do.

    The order does not depend on the order in which the candidates are given. Raises ValueError when two
    candidates have one id, or a weight is no finite number of at least 0.
    """

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self.candidates: tuple[Candidate, ...] = tuple(sorted(candidates))
        self._ids = [candidate.id for candidate in self.candidates]
        if len(set(self._ids)) != len(self._ids):
            raise ValueError("two candidates have one id")
        for candidate in self.candidates:
            if not 0 <= candidate.weight < math.inf:
                raise ValueError(f"{candidate.id} has weight {candidate.weight}")
        # The zone of a member without one is its index: no zone's name is a number.
        self._zones = [candidate.zone or index for index, candidate in enumerate(self.candidates)]
        self._has_zones = any(candidate.zone for candidate in self.candidates)
        self._owning = [index for index, candidate in enumerate(self.candidates) if candidate.weight > 0]
        self._idle = [index for index, candidate in enumerate(self.candidates) if candidate.weight == 0]
        self._orders: list[array[int] | None] = [None] * SHARDS

    def _order(self, shard: int) -> array[int]:
        found = self._orders[shard]
        if found is None:
            found = self._orders[shard] = array("H", self._sort(shard))
        return found

    def _sort(self, shard: int) -> list[int]:
        # Lowest -ln(u) / weight is highest -weight / ln(u). Equal ones stand by index, that is by id.
        members = self.candidates
        scores = [(_draws(members[index].id)[shard] / members[index].weight, index) for index in self._owning]
        ranked = [index for _, index in sorted(scores)]
        if self._has_zones:
            ranked = self._spread(ranked)
        return ranked + sorted(self._idle, key=lambda index: _draws(self._ids[index])[shard])

    def _spread(self, ranked: Sequence[int]) -> list[int]:
        """One zone at a time: pass 0 has each zone's best member, pass 1 each one's second, ..."""
        seen: dict[str | int, int] = {}
        passes: list[list[int]] = []
        for index in ranked:
            zone = self._zones[index]
            turn = seen.get(zone, 0)
            seen[zone] = turn + 1
            if turn == len(passes):
                passes.append([])
            passes[turn].append(index)
        return [index for turn in passes for index in turn]

    def order(self, shard: int) -> tuple[str, ...]:
        """All members, the first owner first; those of weight 0 last."""
        return tuple(self._ids[index] for index in self._order(shard))

    def owners(self, shard: int, n: int) -> tuple[str, ...]:
        """The first n of the order that may own anything; fewer when there are fewer."""
        return tuple(self._ids[index] for index in self._order(shard)[: min(n, len(self._owning))])
