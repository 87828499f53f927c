"""Members that others told of and that this node has not met: each is to be met before it counts for anything.

A row is only words: who is a member can make up as many as it likes. So what one member says of another that is
unknown here puts nobody into the table, where placement, pushes and probes would reckon with it. It goes on this list,
which is bounded, and the driver tries to reach whoever is named: by TLS, which proves the id.
"""

from __future__ import annotations

from typing import NamedTuple

from p2pfs.core.member import Member


class Told(NamedTuple):
    """A row, and who told it."""

    row: Member
    teller: str


class Hearsay:
    """At most `most` members, the first who were told of first."""

    def __init__(self, most: int) -> None:
        self.refused = 0
        """Rows that found no room."""
        self._most = most
        self._waiting: dict[str, Told] = {}
        self._being_met: dict[str, Told] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._being_met)

    def note(self, row: Member, teller: str) -> None:
        """Somebody tells of a member."""
        if row.id in self._being_met:
            return
        known = self._waiting.get(row.id)
        if known is None and len(self) >= self._most:
            self.refused += 1
        elif known is None or row.precedence > known.row.precedence:
            self._waiting[row.id] = Told(row, teller)

    def next(self) -> Member | None:
        """Whom to meet now; `drop` it afterwards, met or not: who lives is told of again."""
        if not self._waiting:
            return None
        id = next(iter(self._waiting))
        self._being_met[id] = self._waiting.pop(id)
        return self._being_met[id].row

    def told(self, id: str) -> Told | None:
        """What is known of a member that is being met."""
        return self._being_met.get(id)

    def drop(self, id: str) -> None:
        """It is in the table, or could not be reached."""
        self._waiting.pop(id, None)
        self._being_met.pop(id, None)
