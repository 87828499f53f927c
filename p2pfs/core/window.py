"""How many blocks travel between this node and one member at once: the more, the farther it is.

Each connection moves one block and waits for its answer. On a long way a block takes two round trips: one until its
answer is here, and about one more because TCP has learnt from this very pattern to send no faster (decision 036). So
many connections as fill a gigabit at that pace are wanted, and a few where the way is short, for disks and cores.

A way may be long and narrow. Blocks would then only wait for each other on it, and whoever waits for an answer would
lose patience: the window opens by one with each block that was quick, and closes with one that was not.
"""

from __future__ import annotations

import collections
import math

LEAST = 4
MOST = 12
"""With those of the other lanes, a half of what a member may have (`net/doorman.CONNECTIONS_PER_MEMBER`)."""
LINE_BYTES_S = 125e6
BLOCK_BYTES = 1024 * 1024
ROUND_TRIPS = 2
"""That one block takes."""
QUICK_S = 1.0
"""A block that takes less, round trips apart, does not wait for others. Far below the patience of a get or a store."""
REMEMBERED = 8
"""Answers. The quickest of them counts: the others were slow since somebody was busy, not since the way is long."""


class Window:
    """The window towards one member; it follows the delay that was measured last."""

    def __init__(self) -> None:
        self._round_trips_s: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        self._open = LEAST

    def note(self, round_trip_s: float) -> None:
        """A short question was answered after so long."""
        self._round_trips_s.append(round_trip_s)

    def note_block(self, seconds: float) -> None:
        """A block travelled, and its answer is here; the wait for a connection does not count."""
        is_quick = seconds < QUICK_S + self._travel_s
        self._open = min(MOST, self._open + 1) if is_quick else LEAST

    @property
    def _travel_s(self) -> float:
        return ROUND_TRIPS * min(self._round_trips_s, default=0.0)

    @property
    def size(self) -> int:
        """Blocks at once, LEAST to MOST; LEAST as long as nothing is known."""
        return max(LEAST, min(self._open, math.ceil(self._travel_s * LINE_BYTES_S / BLOCK_BYTES)))
