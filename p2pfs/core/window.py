"""How many blocks travel between this node and one member at once: the more, the farther it is.

Each connection moves one block and waits for its answer. On a long way a block takes two round trips: one until its
answer is here, and about one more because TCP has learnt from this very pattern to send no faster (decision 033). So
many connections as fill a gigabit at that pace are wanted, and a few where the way is short, for disks and cores.
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
REMEMBERED = 8
"""Answers. The quickest of them counts: the others were slow since somebody was busy, not since the way is long."""


class Window:
    """The window towards one member; it follows the delay that was measured last."""

    def __init__(self) -> None:
        self._round_trips_s: collections.deque[float] = collections.deque(maxlen=REMEMBERED)

    def note(self, round_trip_s: float) -> None:
        """A short question was answered after so long."""
        self._round_trips_s.append(round_trip_s)

    @property
    def size(self) -> int:
        """Blocks at once, LEAST to MOST; LEAST as long as nothing is known."""
        delay_s = min(self._round_trips_s, default=0.0)
        return max(LEAST, min(MOST, math.ceil(ROUND_TRIPS * delay_s * LINE_BYTES_S / BLOCK_BYTES)))
