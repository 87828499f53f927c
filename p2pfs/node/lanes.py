"""Connections of one kind to one member: a few, kept open, discarded after any trouble.

A connection is used by one greenlet at a time; whatever exception passes through it, it is closed and never used again
unless the exception is an ordinary answer of the peer. So is one whose answer was not read to its end.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import TypeVar

from p2pfs import errors, green
from p2pfs.net.connection import Connection

T = TypeVar("T")

IDLE_S = 120.0
"""Older idle connections are not used again: the other end closes them after 300 s."""


class Lane:
    """The connections of one kind to one member."""

    def __init__(self, open_one: Callable[[], Connection], most: int, size: Callable[[], int] | None = None) -> None:
        """`size`: how many may be in use as of now, up to `most`; without it, `most`."""
        self._open = open_one
        self._most = most
        self._size = size or (lambda: most)
        self._slots = green.Semaphore(most)
        self._withheld = 0
        """Slots that nobody may have, since the lane is narrower than it may be."""
        self._idle: collections.deque[tuple[float, Connection]] = collections.deque()
        self._busy: set[Connection] = set()
        self._retired = 0
        """How many times: a connection from before the last time is not used again."""

    def use(self, use: Callable[[Connection, bool], T], wait_s: float, is_fresh: bool = False) -> T:
        """Call `use` with a connection of its own, and whether it was used before. Raises DeadlinePassed for none.

        `is_fresh`: with one that was not, since those from before have turned out to be dead.
        """
        self._follow()
        if not self._slots.acquire(timeout=wait_s):
            raise errors.DeadlinePassed(f"no connection became free within {wait_s:g} s")
        connection, retired = None, self._retired
        try:
            if is_fresh:
                self.close()  # only now: while we waited for our turn, others may have put theirs back
            connection, is_reused = self._take()
            self._busy.add(connection)
            return use(connection, is_reused)
        except BaseException as error:
            if connection is not None and not isinstance(error, errors.P2pfsError):
                connection.is_broken = True  # cut off in the middle
            raise
        finally:
            if connection is not None:
                self._let_go(connection, retired == self._retired)
            self._leave()

    def _follow(self) -> None:
        """Withhold as many slots as the lane is narrower now than it may be, as far as they are free."""
        wanted = self._most - self._size()
        while self._withheld < wanted and self._slots.acquire(blocking=False):
            self._withheld += 1
        while self._withheld > wanted:
            self._withheld -= 1
            self._slots.release()

    def _leave(self) -> None:
        # A lane that is used without a pause becomes narrower here.
        if self._withheld < self._most - self._size():
            self._withheld += 1
        else:
            self._slots.release()

    def _let_go(self, connection: Connection, is_current: bool) -> None:
        self._busy.discard(connection)
        if not is_current or connection.is_broken or connection.is_answering:
            connection.close()
            return
        now = time.monotonic()
        self._idle.append((now, connection))
        while now - self._idle[0][0] >= IDLE_S:
            self._idle.popleft()[1].close()

    def _take(self) -> tuple[Connection, bool]:
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < IDLE_S:
                return connection, True
            connection.close()
        return self._open(), False

    def close(self) -> None:
        """Close what is idle; what is in use ends with its user."""
        while self._idle:
            self._idle.pop()[1].close()

    def retire(self) -> None:
        """Use none again that is open now, or just being opened; what is in use goes on to the end of its call."""
        self._retired += 1
        self.close()

    def sever(self) -> None:
        """Close what is in use as well: its users get Unreachable at once."""
        self.close()
        for connection in list(self._busy):
            connection.close()
