"""Hybrid logical clock: stamps that follow the wall clock, and never go back even where it does.

Source: Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", 2014, figure 5. A stamp is one
int, 48 bits of milliseconds since 1970 above 16 bits of counter; so comparing ints compares stamps, and a
counter that overflows carries into the milliseconds by itself.
"""

from __future__ import annotations

from p2pfs import errors

COUNTER_BITS = 16
MAX_STAMP = 2**63 - 1
"""Until the year 6429; larger ones do not fit SQLite's integers."""
MAX_AHEAD_MS = 24 * 3600 * 1000
"""Of a stamp before our wall clock. More is a broken clock, which would win every dispute until that time comes."""
MAX_FOLLOW_MS = 23 * 3600 * 1000
"""How far ahead of our wall clock a stamp takes ours with it. Less than MAX_AHEAD_MS, so that what is stamped here
after such a record is taken by a node whose clock is up to an hour behind ours."""


def stamp_of(ms: int) -> int:
    """The lowest stamp of a millisecond."""
    return ms << COUNTER_BITS


def ms_of(stamp: int) -> int:
    """The millisecond of a stamp."""
    return stamp >> COUNTER_BITS


class Clock:
    """One node's clock. `last`: the newest stamp it knows from before, say from its catalog; taken without a
    check.

    `now_ms` is always wall-clock milliseconds since 1970.
    """

    def __init__(self, now_ms: int, last: int = 0) -> None:
        self._last = max(stamp_of(now_ms), last)

    @property
    def last(self) -> int:
        """The newest stamp given or observed."""
        return self._last

    def tick(self, now_ms: int) -> int:
        """A stamp larger than every one given or observed before."""
        self._last = max(self._last + 1, stamp_of(now_ms))
        return self._last

    def observe(self, stamp: int, now_ms: int) -> None:
        """Remember a stamp of another node, as far as MAX_FOLLOW_MS. Raises Refused when it is over a day ahead."""
        ahead_ms = ms_of(stamp) - now_ms
        if ahead_ms > MAX_AHEAD_MS:
            raise errors.Refused(
                f"a stamp {ahead_ms / 3_600_000:.0f} hours in the future; check the clocks of both nodes"
            )
        self._last = max(self._last, min(stamp, stamp_of(now_ms + MAX_FOLLOW_MS)))
