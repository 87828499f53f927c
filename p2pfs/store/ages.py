"""The clock that ages of blocks are told by: no step of the machine's clock while a node runs makes a block old.

Two clocks run: the *wall*, which may be set, and a *steady* one that goes on from the wall as it was at the start, also
while the machine sleeps. A block is stamped with the later of the two, and its age is judged by the earlier one: so
never more than what has passed on the steady clock since the stamp, whatever was done to the wall before, between and
after. Stamps from before the start were made by another steady clock; there only the wall counts.
"""

from __future__ import annotations

import time


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


_BOOT_NS = time.time_ns() - _since_boot_ns()
"""When the machine was started, by the wall as it was when this process was."""


def _clocks_ns() -> tuple[int, int]:
    return time.time_ns(), _BOOT_NS + _since_boot_ns()


def stamp_ns() -> int:
    """The time to write down now, in nanoseconds since 1970."""
    return max(_clocks_ns())


def now_ns() -> int:
    """The time to take stamps from, to know how old they are at least."""
    return min(_clocks_ns())
