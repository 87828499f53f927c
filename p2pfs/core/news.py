"""What a node still has to tell the others about members: SWIM's infection-style dissemination (section 4.1).

Each row travels on a bounded number of messages, the least told first. The bound, a small multiple of the
logarithm of the cluster's size, is the caller's.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

from p2pfs.core.member import Member


class _Item(NamedTuple):
    """Sorts by what to tell first: the least told, of those the newest."""

    told: int
    age: int
    row: Member


class News:
    """Rows that still have to be told, and how often each was; of a suspect, one row for each accuser."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, _Item]] = {}
        self._ages = count(0, -1)

    def replace(self, row: Member) -> None:
        """Tell this row, and nothing older of that member."""
        self._items[row.id] = {row.accuser: _Item(0, next(self._ages), row)}

    def add(self, row: Member) -> None:
        """Tell this row too: one more accuser."""
        self._items.setdefault(row.id, {})[row.accuser] = _Item(0, next(self._ages), row)

    def take(self, limit: int, times: int, is_heard: bool, skip: str) -> list[Member]:
        """The rows to tell now; each is counted, when somebody hears it, and dropped when it was told `times`."""
        waiting = (item for id, items in self._items.items() if id != skip for item in items.values())
        chosen = heapq.nsmallest(limit, waiting, key=lambda item: item[:2])
        for item in chosen if is_heard else ():
            items = self._items[item.row.id]
            if item.told + 1 < times:
                items[item.row.accuser] = item._replace(told=item.told + 1)
            else:
                del items[item.row.accuser]
            if not items:
                del self._items[item.row.id]
        return [item.row for item in chosen]
