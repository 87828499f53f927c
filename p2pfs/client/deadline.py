"""How long an operation may take: as a whole when the caller says so, else as long as something happens."""

from __future__ import annotations

import time

from p2pfs import errors

SILENCE_S = 60.0
"""An operation without a deadline ends after this long without a byte from the node."""


class Deadline:
    """The end of one operation; every wait inside it asks how long it may be."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def wait_s(self, longest_s: float = SILENCE_S) -> float:
        """Seconds that the next wait may take, at most `longest_s`. Raises DeadlinePassed when none are left."""
        if self._end_s is None:
            return longest_s
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise errors.DeadlinePassed(f"not done within {self._timeout_s:g} s; give it more with --timeout")
        return min(left_s, longest_s)
