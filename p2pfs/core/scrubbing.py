"""Which shard of this disk is read and hashed again next, and when. Decisions only.

Times are seconds on a clock that never goes back and that counts while the machine sleeps. What the wall clock says
matters only where they have to outlive the process: `to_unix`, `from_unix`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN = -math.inf
"""When a shard was verified of which nothing is known."""
SPREAD = 0.8
"""The part of the period that the shards are spread over; the rest is for what comes between."""
RETRY = 0.01
"""The part of the period after which a shard is tried again that could not be verified."""
LATE = 0.01
"""The part of the period by which to be late before the gentle rate is left for the highest one."""
MIN_RATE = 1024 * 1024
"""Bytes a second that are gentle on any disk."""
BLOCK_COST = 64 * 1024
"""What opening a file costs a disk, as bytes: one that moves its head reads about as many meanwhile."""
CLOCK_ERROR_S = 60.0
"""A wall clock may go back by this much between two runs and still be believed."""


class Next(NamedTuple):
    """What to verify next."""

    shard: int
    at: float
    """When to begin; a time that has passed when it is late."""


class Schedule:
    """When the last complete verification of each shard began, and what follows from it.

    The shard that was verified longest ago comes next. Each is begun within SPREAD of the period after its last time,
    and the beginnings are spread as evenly as that allows: after a burst they are even again one round later.
    """

    def __init__(self, begun: Sequence[float], period_s: float) -> None:
        self.period_s = period_s
        """May be changed at any time."""
        self._begun = list(begun)
        self._held_until: dict[int, float] = {}
        self._last = max(begun)

    @property
    def begun(self) -> tuple[float, ...]:
        """For each shard when its last complete verification began."""
        return tuple(self._begun)

    def begin(self, shard: int, now: float) -> None:
        """The verification of a shard begins. Should it fail, in whatever way, others have their turn first."""
        self._last = now
        self._held_until[shard] = now + RETRY * self.period_s

    def verified(self, shard: int, began: float) -> None:
        """Every block that was in the shard at `began` has been read."""
        self._begun[shard] = began
        self._held_until.pop(shard, None)

    def next(self, now: float) -> Next:
        """What to verify next, as things stand now."""
        self._held_until = {shard: until for shard, until in self._held_until.items() if until > now}
        ready = sorted((began, shard) for shard, began in enumerate(self._begun) if shard not in self._held_until)
        if not ready:
            shard = min(self._held_until, key=self._held_until.__getitem__)
            return Next(shard, self._held_until[shard])
        goal_s = SPREAD * self.period_s
        oldest, shard = ready[0]
        if oldest + goal_s <= now:
            return Next(shard, oldest + goal_s)
        # Beginning one every `gap_s` from the last one on, the n-th of them must not begin after its goal.
        gap_s = min((began + goal_s - self._last) / n for n, (began, _) in enumerate(ready, 1))
        return Next(shard, self._last + gap_s)

    def oldest_s(self, now: float) -> float | None:
        """How long ago the block that nobody looked at for longest was verified, at most; None: unknown."""
        oldest = min(self._begun)
        return None if oldest == UNKNOWN else max(0.0, now - oldest)

    def rate(self, stored_cost: int, late_s: float, ceiling: int) -> int:
        """Bytes (as `cost` has them) to read in a second: twice what the period needs, all that may be when late.

        `stored_cost` is the cost of all that is stored, `late_s` how long ago the shard should have been begun.
        """
        if late_s > LATE * self.period_s:
            return ceiling
        needed = stored_cost / (SPREAD * self.period_s)
        return min(ceiling, max(MIN_RATE, math.ceil(2 * needed)))


def cost(blocks: int, size: int) -> int:
    """What reading blocks of `size` bytes together costs, in bytes."""
    return size + blocks * BLOCK_COST


def to_unix(begun: Sequence[float], wall: float, now: float) -> tuple[int, ...]:
    """The times as whole seconds of the wall clock, which says `wall` at `now`; 0 for UNKNOWN."""
    return tuple(0 if began == UNKNOWN else max(0, math.floor(wall - (now - began))) for began in begun)


def from_unix(saved: Sequence[int], saved_at: int, wall: float, now: float) -> tuple[float, ...]:
    """The times that `to_unix` gave at `saved_at`, in another run maybe.

    Nothing is known when the wall clock has gone back since: it proves nothing then. (That it went back by less than
    passed meanwhile cannot be seen.)
    """
    if saved_at > wall + CLOCK_ERROR_S:
        return (UNKNOWN,) * len(saved)
    return tuple(
        now - max(0.0, wall - began) if 0 < began <= wall + CLOCK_ERROR_S else UNKNOWN for began in saved
    )
