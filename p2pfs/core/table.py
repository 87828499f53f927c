"""The membership table: one row a member, merged by precedence, and the timers of those under suspicion.

What rows mean for this node, whom to probe and what to tell is `core/membership.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from p2pfs.core.member import MAX_DEAD_S, MAX_ROWS, Member
from p2pfs.core.suspicion import Suspicion


class Timing(NamedTuple):
    """How fast, and how sure. The defaults find a killed member within 5 s in clusters of up to about ten."""

    probe_interval_s: float = 0.5
    probe_timeout_s: float = 0.5
    helpers: int = 3
    """Members that are asked for an indirect probe."""
    suspicion_min_s: float = 2.2
    """Suspect to dead when enough others agree; more by the logarithm in clusters of more than ten."""
    suspicion_max_factor: float = 3.0
    """How many times longer it is when nobody agrees."""
    confirmations: int = 2
    """Independent accusers, beyond the first, that are enough (Lifeguard's K)."""
    retransmit: int = 4
    """News are told this many times the logarithm of the number of members (SWIM's lambda)."""
    burst_interval_s: float = 0.1
    """Between the probes that carry a refutation of ours: it races with timers."""
    sync_interval_s: float = 30.0
    """Between exchanges of the whole table with one member."""
    revive_interval_s: float = 5.0
    """Between probes of members that are dead."""
    forget_after_s: float = 90 * 24 * 3600.0
    """How long the row of a member that left is kept: who was off for less does not bring it back with old news."""
    stall_s: float = 1.0
    """No call for so long means that this node stood still."""
    max_members: int = MAX_ROWS
    """Rows beyond this many are refused."""


class Change(NamedTuple):
    """A row that is news; `old` is its state before, empty for a new one. Old and new state may be the same."""

    member: Member
    old: str
    new: str


class Known(NamedTuple):
    """A row, with what this node has seen for itself. Times on the driver's clock."""

    member: Member
    state_since: float
    last_seen: float | None = None
    """When a message of its own came last."""
    rtt_s: float | None = None
    """Moving average of its answers to probes."""
    is_proven: bool = True
    """This node met it, in this life or an earlier one; else it is dead by what others say, and nothing but words."""


class _Entry:
    """What is kept about one member."""

    __slots__ = ("is_proven", "last_seen", "row", "rtt_s", "state_since", "suspicion")

    def __init__(self, row: Member, since: float, is_proven: bool) -> None:
        self.row = row
        self.is_proven = is_proven
        self.state_since = since
        self.last_seen: float | None = None
        self.rtt_s: float | None = None
        self.suspicion: Suspicion | None = None


class Table:
    """All members but this node itself."""

    def __init__(self, timing: Timing) -> None:
        self.reachable: set[str] = set()
        """Ids of those alive or only suspect."""
        self.refused = 0
        """Rows that the full table refused, or let go."""
        self._timing = timing
        self._entries: dict[str, _Entry] = {}
        self._suspects: set[str] = set()
        self._left: set[str] = set()
        self._next_end = math.inf
        """No row of a member that left goes before: there may be hundreds, and `expire` is called all the time."""

    @property
    def size(self) -> int:
        """Members that are reachable, this node among them."""
        return len(self.reachable) + 1

    # --- reading ------------------------------------------------------------------------------------

    def get(self, id: str) -> Member | None:
        """The row of that id."""
        entry = self._entries.get(id)
        return entry.row if entry else None

    def is_proven(self, id: str) -> bool:
        """It is in the table, and not only because others say that it is dead."""
        entry = self._entries.get(id)
        return entry is not None and entry.is_proven

    def in_state(self, *states: str) -> list[Member]:
        """The rows in any of these states."""
        return [entry.row for entry in self._entries.values() if entry.row.state in states]

    def known(self) -> Iterator[Known]:
        """Every row, with what was seen of the member."""
        for entry in self._entries.values():
            yield Known(entry.row, entry.state_since, entry.last_seen, entry.rtt_s, entry.is_proven)

    def dated(self, row: Member, now: float) -> Member:
        """The row as it is told to others: with the time that its member is dead by now, or since it left."""
        entry = self._entries.get(row.id)
        if entry is None or row.state not in ("dead", "left"):
            return row
        return row._replace(dead_s=min(max(0, int(now - entry.state_since)), MAX_DEAD_S))

    # --- writing ------------------------------------------------------------------------------------

    def saw(self, now: float, id: str, rtt_s: float | None = None) -> None:
        """A message of that member came; `rtt_s` is how long an answer took."""
        entry = self._entries.get(id)
        if entry is None:
            return
        entry.last_seen = now
        entry.is_proven = True
        if rtt_s is not None:
            entry.rtt_s = rtt_s if entry.rtt_s is None else entry.rtt_s + (rtt_s - entry.rtt_s) / 8

    def take(self, now: float, row: Member, source_id: str) -> Change | None:
        """Merge a row: it replaces the one here when its precedence is larger. None when nothing changed.

        `source_id` told it (empty: this node's disk), and suspects the member, should the row do so without saying.
        """
        entry = self._entries.get(row.id)
        is_proven = source_id in ("", row.id)
        if entry is None:
            if row.state == "left" and row.dead_s >= self._timing.forget_after_s:
                return None  # all others let go of it, too
            if not self._has_room(row.state, is_proven):
                self.refused += row.state != "left"  # whom nobody misses
                return None
            entry = self._entries[row.id] = _Entry(row, now, is_proven)
            old = ""
        elif row.precedence > entry.row.precedence:
            old = entry.row.state
            entry.is_proven |= is_proven
        else:
            return None
        self._adopt(now, entry, row, source_id, old)
        return Change(row, old, row.state)

    def _has_room(self, state: str, is_proven: bool) -> bool:
        """Room for one more row. What others say of the dead fills a half at most, and gives way to who was met.

        Before anybody else those give way that left, the longest ago of them first.
        """
        room = self._timing.max_members - 1 - len(self._entries)
        least = 0 if is_proven else self._timing.max_members // 2
        if room > least or state == "left":
            return room > least
        if self._left and room + len(self._left) > least:
            self._drop(min(self._left, key=lambda id: self._entries[id].state_since))
            return True
        words = next((id for id, entry in self._entries.items() if not entry.is_proven), None)
        if not is_proven or words is None:
            return False
        self._drop(words)
        self.refused += 1
        return True

    def _drop(self, id: str) -> None:
        del self._entries[id]
        for some in (self._suspects, self._left):
            some.discard(id)

    def _adopt(self, now: float, entry: _Entry, row: Member, accuser: str, old: str) -> None:
        entry.row = row
        if row.state != old:
            entry.state_since = now - (row.dead_s if row.state in ("dead", "left") else 0)
            if entry.last_seen is not None:  # whatever others say, it was not dead then
                entry.state_since = max(entry.state_since, entry.last_seen)
        (self.reachable.add if row.is_reachable else self.reachable.discard)(row.id)
        (self._suspects.add if row.state == "suspect" else self._suspects.discard)(row.id)
        (self._left.add if row.state == "left" else self._left.discard)(row.id)
        if row.state == "left":
            self._next_end = min(self._next_end, entry.state_since + self._timing.forget_after_s)
        entry.suspicion = self._suspicion(now, row.accuser or accuser) if row.state == "suspect" else None

    def _suspicion(self, now: float, accuser: str) -> Suspicion:
        # The first accuser and the suspect itself cannot confirm.
        wanted = min(self._timing.confirmations, max(0, self.size - 2))
        min_s = self._timing.suspicion_min_s * max(1.0, math.log10(self.size))
        return Suspicion(now, accuser, wanted, min_s, min_s * self._timing.suspicion_max_factor)

    def confirm(self, row: Member, accuser: str) -> bool:
        """One more member suspects what is suspect here already; True when that is news."""
        entry = self._entries.get(row.id)
        if entry is None or entry.suspicion is None or row.precedence != entry.row.precedence:
            return False
        return entry.suspicion.confirm(row.accuser or accuser)

    def note_space(self, row: Member) -> None:
        """Space figures from the member itself; they are newer than what others told."""
        entry = self._entries.get(row.id)
        if entry and row.precedence == entry.row.precedence:
            entry.row = entry.row._replace(used_bytes=row.used_bytes, free_bytes=row.free_bytes)

    def expire(self, now: float) -> list[Change]:
        """Suspects whose time is over die; members that left long ago are forgotten."""
        changes = []
        for id in sorted(self._suspects):
            entry = self._entries[id]
            if entry.suspicion and now >= entry.suspicion.deadline:
                dead = entry.row._replace(state="dead", accuser="", dead_s=0)
                self._adopt(now, entry, dead, "", "suspect")
                changes.append(Change(dead, "suspect", "dead"))
        if now > self._next_end:
            ends = {id: self._entries[id].state_since + self._timing.forget_after_s for id in self._left}
            for id in [id for id, end in ends.items() if now > end]:
                self._drop(id)
            self._next_end = min((ends[id] for id in self._left), default=math.inf)
        return changes

    def delay(self, by_s: float) -> None:
        """Give every suspect more time."""
        for id in self._suspects:
            suspicion = self._entries[id].suspicion
            if suspicion:
                suspicion.delay(by_s)
