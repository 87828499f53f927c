"""Members that others told of and that this node has not met: each is to be met before it counts for anything.

A row is only words: who is a member can make up as many as it likes. So what one member says of another that is
unknown here puts nobody into the table, where placement, pushes and probes would reckon with it. It goes on this list,
which is bounded, and the driver tries to reach whoever is named: by TLS, which proves the id.
"""

from __future__ import annotations

from typing import NamedTuple

from p2pfs.core.member import Member

UNMET_S = 600.0
"""For how long somebody who could not be reached is remembered: who lives is told of again long before."""


class Told(NamedTuple):
    """A row, and who told it."""

    row: Member
    teller: str


class Hearsay:
    """At most `most` members, the first who were told of first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, Told] = {}
        self._being_met: dict[str, Told] = {}
        self._unmet: dict[str, tuple[Told, float]] = {}  # with the time of the last attempt; the oldest first

    def __len__(self) -> int:
        return len(self._waiting) + len(self._being_met)

    def note(self, row: Member, teller: str) -> None:
        """Somebody tells of a member."""
        if row.id in self._being_met:
            return
        known = self._waiting.get(row.id)
        if known is None and len(self) >= self._most:
            return  # who lives is told of again, and again
        if known is None or row.precedence > known.row.precedence:
            self._waiting[row.id] = Told(row, teller)

    def next(self) -> Member | None:
        """Whom to meet now; follow with `met` or `missed`."""
        if not self._waiting:
            return None
        id = next(iter(self._waiting))
        self._being_met[id] = self._waiting.pop(id)
        return self._being_met[id].row

    def told(self, id: str) -> Told | None:
        """What is known of a member that is being met."""
        return self._being_met.get(id)

    def met(self, id: str) -> None:
        """It is in the table."""
        self._waiting.pop(id, None)
        self._being_met.pop(id, None)
        self._unmet.pop(id, None)

    def missed(self, now: float, id: str) -> None:
        """It could not be reached; it waits to be told of again."""
        told = self._being_met.pop(id, None)
        if told is not None:
            self._unmet.pop(id, None)
            self._unmet[id] = told, now
            if len(self._unmet) > self._most:
                del self._unmet[next(iter(self._unmet))]

    def unmet(self, now: float) -> list[Told]:
        """Who was told of lately, and is not met: they may exist."""
        while self._unmet and now - self._unmet[next(iter(self._unmet))][1] > UNMET_S:
            del self._unmet[next(iter(self._unmet))]
        return [*self._waiting.values(), *self._being_met.values(), *(told for told, _ in self._unmet.values())]
