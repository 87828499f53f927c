"""Connections of one kind to one member: a few, kept open, discarded after any trouble.

A connection is used by one greenlet at a time; whatever exception passes through it, it is closed and never used again
unless the exception is an ordinary answer of the peer.
"""

from __future__ import annotations

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

    def __init__(self, open_one: Callable[[], Connection], size: int) -> None:
        self._open = open_one
        self._slots = green.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []
        self._busy: set[Connection] = set()

    def use(self, use: Callable[[Connection, bool], T], wait_s: float) -> T:
        """Call `use` with a connection of its own, and whether it was used before. Raises DeadlinePassed for none."""
        if not self._slots.acquire(timeout=wait_s):
            raise errors.DeadlinePassed(f"no connection became free within {wait_s:g} s")
        connection = None
        try:
            connection, is_reused = self._take()
            self._busy.add(connection)
            return use(connection, is_reused)
        except BaseException as error:
            if connection is not None and not isinstance(error, errors.P2pfsError):
                connection.is_broken = True  # cut off in the middle
            raise
        finally:
            if connection is not None:
                self._let_go(connection)
            self._slots.release()

    def _let_go(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.is_broken:
            connection.close()
        else:
            self._idle.append((time.monotonic(), connection))

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

    def sever(self) -> None:
        """Close what is in use as well: its users get Unreachable at once."""
        self.close()
        for connection in list(self._busy):
            connection.close()
