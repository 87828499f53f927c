"""Which keys count no longer: a set of ids, of members and clients, that only grows and is merged by union.

So nodes agree whatever order they hear in, nobody can take an id off the list again, and two halves of a split cluster
have one list as soon as they meet. It is bounded: once it is full, what is on it stays, and others are refused.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from typing import Any

from p2pfs import errors

MAX_IDS = 4096
MOST_NEWS = 32
"""Ids that travel with one probe."""
ID = re.compile(r"[a-z2-7]{32}")


class Revocations:
    """The list, and what of it is still to be told. Not thread-safe."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.refused = 0
        """How often an id was refused because the list is full."""
        self._ids: set[str] = set()
        self._told: dict[str, int] = {}
        """How often each recent one was told."""
        self.merge(ids)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def all(self) -> list[str]:
        """Every id, in order."""
        return sorted(self._ids)

    def merge(self, ids: Iterable[str]) -> list[str]:
        """Take ids in; those that are new here, and will be told on."""
        new = []
        for id in dict.fromkeys(ids):
            if id in self._ids:
                continue
            if len(self._ids) >= MAX_IDS:
                self.refused += 1
                continue
            self._ids.add(id)
            self._told[id] = 0
            new.append(id)
        return new

    def news(self, times: int) -> list[str]:
        """The ids to tell with the next probe, the least told first; each is told `times`, then by whole lists only."""
        chosen = heapq.nsmallest(MOST_NEWS, self._told, key=lambda id: (self._told[id], id))
        for id in chosen:
            self._told[id] += 1
            if self._told[id] >= times:
                del self._told[id]
        return chosen


def to_wire(ids: list[str]) -> dict[str, Any]:
    """The field of a membership message."""
    return {"revoked": ids} if ids else {}


def from_wire(message: dict[str, Any]) -> list[str]:
    """The ids in a membership message; none where it has no such field. Raises ProtocolError."""
    ids = message.get("revoked", [])
    if not isinstance(ids, list) or len(ids) > MAX_IDS:
        raise errors.ProtocolError(f"revoked is a list of at most {MAX_IDS} ids")
    for id in ids:
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise errors.ProtocolError(f"{ascii(id)[:60]} cannot be a revoked id")
    return ids
