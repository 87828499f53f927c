"""Who is in the cluster and who lives: SWIM with Lifeguard's refinements, as a pure state machine.

Sources: Das, Gupta and Motivala, "SWIM", 2002 (round-robin probes, indirect probes, suspicion and refutation,
piggybacked news); Dadgar, Phillips and Currey, "Lifeguard", 2018 (local health, shrinking suspicion, buddy).
Beyond them: rows of dead members stay, and are probed now and then, so that two halves of a split cluster
find each other again; and a node that stood still itself (stopped, swapped, starved) does not blame the
others for it.

The driver does what has to be done with sockets and clocks. `now` is seconds of a clock that only goes
forward.

- `tick` at least every `TICK_S`.
- Every `probe_interval_s`: ping `next_probe()` with `me` and `updates(limit, its id)`. An answer within
  `probe_timeout_s`: `merge` its rows, then `probe_ok`. None: `probe_failed` names helpers; ask them to ping
  it; then `indirect_ok` when one of them could, else `indirect_failed`. A late answer is still worth a
  `merge`.
- Answer a ping: `merge` its rows, then send `me` and `updates(limit, sender's id)`.
- `next_sync()` now and then names a member to exchange `snapshot()` with: both `merge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableSequence, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from p2pfs import errors
from p2pfs.core.member import MAX_INCARNATION, Member
from p2pfs.core.news import News
from p2pfs.core.placement import Candidate
from p2pfs.core.suspicion import LocalHealth, Suspicion

__all__ = ["TICK_S", "Chance", "Change", "Known", "Member", "Membership", "Timing"]

TICK_S = 0.1
HASTY_PROBES = 8
"""About so many members probe a suspect at once when they hear of it."""
T = TypeVar("T")


class Chance(Protocol):
    """The part of `random.Random` that is used here."""

    def shuffle(self, x: MutableSequence[Any], /) -> None:
        """Bring into an order of chance."""

    def sample(self, population: Sequence[T], /, k: int) -> list[T]:
        """Choose k different ones."""

    def random(self) -> float:
        """Between 0 and 1."""


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
    forget_after_s: float = 24 * 3600.0
    """How long the row of a member that left is kept, so that old news do not bring it back."""
    stall_s: float = 1.0
    """No call for so long means that this node stood still."""
    max_members: int = 1024
    """Rows beyond this many are refused."""


class Change(NamedTuple):
    """A row that is news; `old` is its state before, empty for a new one. Old and new state may be the same.
    """

    member: Member
    old: str
    new: str


class Known(NamedTuple):
    """A row, with what this node has seen for itself. Times on the driver's clock."""

    member: Member
    state_since: float
    last_seen: float | None
    """When a message of its own came last."""
    rtt_s: float | None
    """Moving average of its answers to probes."""


class _Entry:
    """What is kept about one other member."""

    __slots__ = ("last_seen", "row", "rtt_s", "state_since", "suspicion")

    def __init__(self, row: Member, since: float) -> None:
        self.row = row
        self.state_since = since
        self.last_seen: float | None = None
        self.rtt_s: float | None = None
        self.suspicion: Suspicion | None = None


class Membership:
    """This node's table, with the timers that drive it. Not thread-safe; nothing here blocks.

    `me.incarnation` must be larger than in any earlier life of this node: wall-clock milliseconds do. Should
    the clock have gone back, the others' rows still say so, and `merge` climbs over them.
    """

    def __init__(self, me: Member, timing: Timing, chance: Chance) -> None:
        self.me = me
        self.timing = timing
        self.refutations = 0
        """How often others held this node for suspect, dead or left, and it objected."""
        self.contested = 0
        """How often somebody newer spoke under this node's id from other addresses: an identity that is used
        twice.
        """
        self.refused = 0
        """Rows refused because the table is full."""
        self.stalls = 0
        """How often this node stood still for more than `stall_s`."""
        self._chance = chance
        self._entries: dict[str, _Entry] = {}
        self._reachable: set[str] = set()
        self._timed: set[str] = set()
        """Members for which `tick` has to look at the time: suspects, and those that left."""
        self._health = LocalHealth()
        self._news = News()
        self._round: list[str] = []
        self._probing: set[str] = set()
        self._burst = 0
        self._sync_soon: list[str] = []
        self._now: float | None = None
        self._next_revival = -math.inf
        self._next_sync = -math.inf

    # --- reading ------------------------------------------------------------------------------------

    def get(self, id: str) -> Member | None:
        """The row of that id, this node's own among them."""
        entry = self._entries.get(id)
        return entry.row if entry else self.me if id == self.me.id else None

    def members(self) -> list[Member]:
        """All rows but those of members that left; this node first."""
        return [self.me, *(entry.row for entry in self._entries.values() if entry.row.state != "left")]

    def known(self) -> list[Known]:
        """The rows of `members` with what was seen of each."""
        others = (Known(e.row, e.state_since, e.last_seen, e.rtt_s) for e in self._entries.values())
        return [Known(self.me, 0.0, None, None), *(one for one in others if one.member.state != "left")]

    def snapshot(self) -> list[Member]:
        """Every row, for an exchange of whole tables and for keeping on disk; this node first."""
        return [self.me, *(self._dated(entry) for entry in self._entries.values())]

    def owners_candidates(self, now: float, out_after_s: float) -> list[Candidate]:
        """Who takes part in placement: all but those that left, drain, or are dead for `out_after_s` or
        longer.
        """
        entries = self._entries.values()
        counted = [e.row for e in entries if e.row.state != "dead" or now - e.state_since < out_after_s]
        return [
            Candidate(row.id, row.capacity, row.zone)
            for row in (self.me, *counted) if row.state != "left" and not row.drains
        ]

    @property
    def size(self) -> int:
        """Members that are reachable, this node among them."""
        return len(self._reachable) + 1

    def probe_interval_s(self) -> float:
        """How long to wait before the next probe: longer when this node is slow, short when it has to refute.
        """
        if self._burst:
            return self.timing.burst_interval_s
        return self.timing.probe_interval_s * self._health.multiplier

    @property
    def probe_timeout_s(self) -> float:
        """How long to wait for an answer to a probe: longer when this node is slow."""
        return self.timing.probe_timeout_s * self._health.multiplier

    # --- probing ------------------------------------------------------------------------------------

    def next_probe(self, now: float) -> Member | None:
        """Whom to ping: everyone once a round, in an order of chance (SWIM 4.3); now and then somebody dead.
        """
        self._advance(now)
        self._burst = max(0, self._burst - 1)
        id = self._pick_dead(now) or self._pick_reachable()
        if id is None:
            return None
        self._probing.add(id)
        return self._entries[id].row

    def _pick_dead(self, now: float) -> str | None:
        if now < self._next_revival:
            return None
        self._next_revival = now + self.timing.revive_interval_s * (0.5 + self._chance.random())
        dead = [id for id, entry in self._entries.items() if entry.row.state == "dead"]
        return self._chance.sample(dead, k=1)[0] if dead else None

    def _pick_reachable(self) -> str | None:
        while self._round:
            id = self._round.pop()
            if id in self._reachable:
                return id
        self._round = sorted(self._reachable)
        self._chance.shuffle(self._round)
        return self._round.pop() if self._round else None

    def probe_ok(self, now: float, id: str, rtt_s: float) -> None:
        """It answered in time."""
        self._advance(now)
        self._probing.discard(id)
        self._health.better()
        entry = self._entries.get(id)
        if entry:
            entry.last_seen = now
            entry.rtt_s = rtt_s if entry.rtt_s is None else entry.rtt_s + (rtt_s - entry.rtt_s) / 8

    def probe_failed(self, now: float, id: str) -> list[Member]:
        """It did not answer: who may try for us. Follow with `indirect_ok` or `indirect_failed`, helpers or
        none.
        """
        self._advance(now)
        if id not in self._probing or id not in self._reachable:
            return []
        alive = (other for other in self._reachable if self._entries[other].row.state == "alive")
        helpers = sorted(other for other in alive if other != id)
        chosen = self._chance.sample(helpers, k=min(self.timing.helpers, len(helpers)))
        return [self._entries[helper].row for helper in chosen]

    def indirect_ok(self, now: float, id: str) -> None:
        """A helper reached it."""
        self._advance(now)
        self._probing.discard(id)
        if id in self._entries:
            self._entries[id].last_seen = now

    def indirect_failed(self, now: float, id: str, silent_helpers: int = 0) -> list[Change]:
        """No helper reached it: it is suspect. Helpers that did not even say so speak against ourselves."""
        self._advance(now)
        if id not in self._probing:
            return []
        self._probing.discard(id)
        if silent_helpers:
            self._health.worse()
        entry = self._entries.get(id)
        if entry is None or not entry.row.is_reachable:
            return []
        change = self._take(now, entry.row._replace(state="suspect", accuser=self.me.id), self.me.id)
        return [change] if change else []

    # --- news ---------------------------------------------------------------------------------------

    def merge(self, now: float, rows: Iterable[Member], source_id: str) -> list[Change]:
        """Take the rows of a message, the sender's own among them, or those kept on disk (empty source: no
        news).
        """
        self._advance(now)
        changes = []
        for row in rows:
            if row.id == self.me.id:
                self._hear_of_myself(row)
                continue
            change = self._take(now, row, source_id)
            if change:
                changes.append(change)
        if source_id in self._entries:
            self._entries[source_id].last_seen = now
        return changes

    def _take(self, now: float, row: Member, source_id: str) -> Change | None:
        entry = self._entries.get(row.id)
        if entry is None:
            if len(self._entries) + 1 >= self.timing.max_members:
                self.refused += 1
                return None
            entry = self._entries[row.id] = _Entry(row, now)
            return self._adopt(now, entry, row, source_id, "")
        if row.precedence > entry.row.precedence:
            return self._adopt(now, entry, row, source_id, entry.row.state)
        if row.precedence == entry.row.precedence:
            self._note_same(entry, row, source_id)
        return None

    def _note_same(self, entry: _Entry, row: Member, source_id: str) -> None:
        if entry.suspicion and entry.suspicion.confirm(row.accuser or source_id):
            self._news.add(row)
        if source_id == row.id:
            entry.row = entry.row._replace(used_bytes=row.used_bytes, free_bytes=row.free_bytes)

    def _adopt(self, now: float, entry: _Entry, row: Member, source_id: str, old: str) -> Change:
        entry.row = row
        if row.state != old:
            entry.state_since = now - (row.dead_s if row.state == "dead" else 0)
        entry.suspicion = self._suspicion(now, row.accuser or source_id) if row.state == "suspect" else None
        (self._reachable.add if row.is_reachable else self._reachable.discard)(row.id)
        (self._timed.add if row.state in ("suspect", "left") else self._timed.discard)(row.id)
        self._schedule(row, old, source_id)
        if old == "dead" and source_id == row.id and row.id not in self._sync_soon:
            self._sync_soon.append(row.id)
        if source_id:
            self._news.replace(row)
        return Change(row, old, row.state)

    def _schedule(self, row: Member, old: str, source_id: str) -> None:
        """Probe a new member somewhere in this round, and a new suspect next of all: so it hears of it at
        once.

        That brings its refutation, or confirms the suspicion. In a large cluster only a few of those who hear
        of it do so, by lot, or all would fall upon the suspect.
        """
        if row.state == "suspect":
            if source_id == self.me.id or self._chance.random() * self.size < HASTY_PROBES:
                self._round.append(row.id)
        elif not old and self._round and row.is_reachable:
            self._round.insert(int(self._chance.random() * (len(self._round) + 1)), row.id)

    def _suspicion(self, now: float, accuser: str) -> Suspicion:
        # The first accuser and the suspect itself cannot confirm.
        possible = max(0, self.size - 2)
        min_s = self.timing.suspicion_min_s * max(1.0, math.log10(self.size))
        max_s = min_s * self.timing.suspicion_max_factor
        return Suspicion(now, accuser, min(self.timing.confirmations, possible), min_s, max_s)

    def _hear_of_myself(self, row: Member) -> None:
        if self.me.state == "left" or row.precedence <= self.me.precedence:
            return
        if row.state == "alive":
            self.contested += row.incarnation > self.me.incarnation and row.addresses != self.me.addresses
        else:
            self.refutations += 1
            self._health.worse()
        self._raise(max(row.incarnation, self.me.incarnation))

    def _raise(self, above: int, **fields: Any) -> None:
        self.me = self.me._replace(incarnation=min(above + 1, MAX_INCARNATION), **fields)
        self._burst = self._times()

    def _times(self) -> int:
        return self.timing.retransmit * math.ceil(math.log10(self.size + 1))

    def updates(self, limit: int, to_id: str) -> list[Member]:
        """Rows to send along to a member. What is held against the receiver comes first (Lifeguard's buddy).
        """
        entry = self._entries.get(to_id)
        accusation = [self._dated(entry)] if entry and entry.row.state != "alive" else []
        is_heard = entry is None or entry.row.is_reachable
        skip = to_id if accusation else ""
        news = self._news.take(limit - len(accusation), self._times(), is_heard, skip)
        return accusation + [row._replace(dead_s=self._dead_s(row)) for row in news]

    def _dated(self, entry: _Entry) -> Member:
        return entry.row._replace(dead_s=self._dead_s(entry.row))

    def _dead_s(self, row: Member) -> int:
        entry = self._entries.get(row.id)
        if entry is None or row.state != "dead" or self._now is None:
            return 0
        return max(0, int(self._now - entry.state_since))

    def next_sync(self, now: float) -> Member | None:
        """With whom to exchange the whole table now; None while it is not time."""
        self._advance(now)
        while self._sync_soon:
            id = self._sync_soon.pop()
            if id in self._reachable:
                return self._entries[id].row
        if now < self._next_sync or not self._reachable:
            return None
        is_first = self._next_sync == -math.inf
        self._next_sync = now + self.timing.sync_interval_s * (0.5 + self._chance.random())
        return None if is_first else self._entries[self._chance.sample(sorted(self._reachable), k=1)[0]].row

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Change]:
        """Let timers expire: suspects die, rows of those that left go."""
        self._advance(now)
        changes = []
        for id in sorted(self._timed):
            entry = self._entries[id]
            if entry.suspicion and now >= entry.suspicion.deadline:
                dead = entry.row._replace(state="dead", accuser="", dead_s=0)
                changes.append(self._adopt(now, entry, dead, self.me.id, "suspect"))
            elif entry.row.state == "left" and now - entry.state_since > self.timing.forget_after_s:
                del self._entries[id]
                self._timed.discard(id)
                self._news.drop(id)
        return changes

    def _advance(self, now: float) -> None:
        """Notice that we stood still: what did not come in that time proves nothing against the others."""
        gap = 0.0 if self._now is None else now - self._now
        self._now = now if self._now is None else max(now, self._now)
        if gap <= self.timing.stall_s:
            return
        self.stalls += 1
        self._health.worse()
        self._probing.clear()
        for id in self._timed:
            suspicion = self._entries[id].suspicion
            if suspicion:
                suspicion.delay(gap)

    # --- this node, and the operator ----------------------------------------------------------------

    def update_self(self, **fields: Any) -> None:
        """Change name, addresses, zone, capacity or version of this node, and tell everybody."""
        if any(getattr(self.me, field) != value for field, value in fields.items()):
            self._raise(self.me.incarnation, **fields)

    def report_space(self, used_bytes: int, free_bytes: int) -> None:
        """New figures; they travel along with this node's own messages."""
        self.me = self.me._replace(used_bytes=used_bytes, free_bytes=free_bytes)

    def drain(self, is_wanted: bool = True) -> None:
        """Give up this node's shards, or take them back."""
        self.update_self(drains=is_wanted)

    def leave(self) -> None:
        """Say goodbye: tell the news with the next probes, then stop. There is no way back in this life."""
        self._raise(self.me.incarnation, state="left")

    def forget(self, now: float, id: str) -> Change:
        """Strike a dead member, everywhere. Should it live after all, it will say so. Raises NotFound,
        Refused.
        """
        self._advance(now)
        entry = self._entries.get(id)
        if entry is None or entry.row.state == "left":
            raise errors.NotFound(f"no member has the id {id}; `p2pfs-cli peers` lists them")
        if entry.row.state != "dead":
            raise errors.Refused(
                f"{entry.row.name} is {entry.row.state}: only a dead member can be forgotten; stop it first"
            )
        return self._adopt(now, entry, entry.row._replace(state="left"), self.me.id, "dead")
