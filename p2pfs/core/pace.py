"""How fast background work may go: so many bytes a second, on average, with a little at once."""

from __future__ import annotations

import math


class Pace:
    """A bucket that leaks at `rate`: what is reserved is granted at once, and paid for by waiting before it is used.

    Who waits as told never begins more than `rate * t + burst` bytes and one reservation within any time `t`. Times in
    seconds, on any clock that only goes forward.

    Source: the continuous-state leaky bucket of ITU-T I.371 (generic cell rate algorithm), delaying where that drops.
    """

    def __init__(self, rate: int, burst: int) -> None:
        """`rate` in bytes a second, at least 1; `burst` in bytes, what goes at once after a rest. Raises ValueError."""
        if burst < 0:
            raise ValueError(f"a burst of {burst} bytes")
        self._rate = _checked(rate)
        self._burst = burst
        self._level = 0.0
        self._at = -math.inf

    def set_rate(self, rate: int) -> None:
        """Another rate from the next reservation on. Raises ValueError."""
        self._rate = _checked(rate)

    def reserve(self, now: float, bytes: int) -> float:
        """Take that many bytes; how many seconds to wait before they are used."""
        self._level = max(0.0, self._level - max(0.0, now - self._at) * self._rate)
        self._at = max(now, self._at)
        wait_s = max(0.0, self._level - self._burst) / self._rate
        self._level += bytes
        return wait_s


def _checked(rate: int) -> int:
    if rate < 1:
        raise ValueError(f"a pace of {rate} bytes a second")
    return rate
