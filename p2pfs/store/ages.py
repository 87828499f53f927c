"""The clock that ages of blocks are told by: no step of the machine's clock while a node runs makes a block old.

Two clocks run: the *wall*, which may be set, and a *steady* one that goes on from the wall as it was at the start. A
block is stamped with the later of the two, and its age is judged by the earlier one: so never more than what has
passed on the steady clock since the stamp, whatever was done to the wall before, between and after. Stamps from before
the start were made by another steady clock; there only the wall counts.
"""

from __future__ import annotations

import time

_BEHIND_NS = time.time_ns() - time.monotonic_ns()
"""Of the monotonic clock, which has no known beginning, behind the wall at the start."""


def _clocks_ns() -> tuple[int, int]:
    return time.time_ns(), time.monotonic_ns() + _BEHIND_NS


def stamp_ns() -> int:
    """The time to write down now, in nanoseconds since 1970."""
    return max(_clocks_ns())


def now_ns() -> int:
    """The time to take stamps from, to know how old they are at least."""
    return min(_clocks_ns())
