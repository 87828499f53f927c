"""Who is in the cluster and who lives: SWIM with Lifeguard's refinements, as a pure state machine.

Sources: Das, Gupta and Motivala, "SWIM", 2002 (round-robin probes, indirect probes, suspicion and refutation,
piggybacked news); Dadgar, Phillips and Currey, "Lifeguard", 2018 (local health, shrinking suspicion, buddy).
Beyond them: rows of dead members stay, and are probed now and then, so that two halves of a split cluster
find each other again; and a node that stood still itself (stopped, swapped, starved) does not blame the
others for it.

The driver does what has to be done with sockets and clocks. `now` is seconds of a clock that only goes
forward.

- `tick` at least every `TICK_S`.
- Often: ping `next_stranger()` likewise, a few at once: somebody whom others told of counts once it was reached.
- Every `probe_interval_s`: ping `next_probe()` with `me` and `updates(limit, its id)`. An answer within
  `probe_timeout_s`: `merge` its rows, then `probe_ok`. None: `probe_failed` names helpers; ask them to ping
  it; then `indirect_ok` when one of them could, else `indirect_failed`. A late answer is still worth a
  `merge`.
- Answer a ping: `merge` its rows, then send `me` and `updates(limit, sender's id)`.
- `next_sync()` now and then names a member to exchange `snapshot()` with: both `merge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from p2pfs import errors
from p2pfs.core.hearsay import Hearsay, Told
from p2pfs.core.member import MAX_INCARNATION, STATES, Member
from p2pfs.core.news import News
from p2pfs.core.placement import Candidate
from p2pfs.core.revocation import Revocations
from p2pfs.core.rounds import Chance, Round
from p2pfs.core.suspicion import LocalHealth
from p2pfs.core.table import Change, Known, Table, Timing

__all__ = ["TICK_S", "Chance", "Change", "Known", "Member", "Membership", "Timing"]

TICK_S = 0.1
HASTY_PROBES = 8
"""About so many members probe a suspect at once when they hear of it."""


class Membership:
    """This node's view of the cluster, with the timers that drive it. Not thread-safe; nothing here blocks.

    `me.incarnation` must be larger than in any earlier life of this node: wall-clock milliseconds do. Should the
    clock have gone back, the others' rows still say so, and `merge` climbs over them.
    """

    def __init__(self, me: Member, timing: Timing, chance: Chance, revoked: Revocations | None = None) -> None:
        self.me = me
        self.timing = timing
        self.revoked = Revocations() if revoked is None else revoked
        """Ids whose rows count no longer, whoever tells them."""
        self.refutations = 0
        """How often others held this node for suspect, dead or left, and it objected."""
        self.contested = 0
        """How often somebody newer spoke under this node's id from other addresses: an identity used twice."""
        self.stalls = 0
        """How often this node stood still for more than `stall_s`."""
        self._chance = chance
        self._table = Table(timing)
        self._hearsay = Hearsay(timing.max_members)
        self._health = LocalHealth()
        self._news = News()
        self._round = Round(chance)
        self._probing: set[str] = set()
        self._burst = 0
        """Probes that still hurry, because they carry a refutation."""
        self._sync_soon: list[str] = []
        self._now = -math.inf
        self._next_revival = -math.inf
        self._next_sync = -math.inf

    # --- reading ------------------------------------------------------------------------------------

    def get(self, id: str) -> Member | None:
        """The row of that id, this node's own among them."""
        return self.me if id == self.me.id else self._table.get(id)

    def members(self) -> list[Member]:
        """All rows but those of members that left; this node first."""
        return [self.me, *self._table.in_state("alive", "suspect", "dead")]

    def known(self) -> list[Known]:
        """The rows of `members` with what was seen of each."""
        others = (one for one in self._table.known() if one.member.state != "left")
        return [Known(self.me, 0.0), *others]

    def snapshot(self) -> list[Member]:
        """Every row, for an exchange of whole tables and for keeping on disk; this node first."""
        return [self.me, *(self._table.dated(row, self._now) for row in self._table.in_state(*STATES))]

    def owners_candidates(self, now: float, out_after_s: float) -> list[Candidate]:
        """Who takes part in placement: all but those that left, drain, or are dead for `out_after_s` or longer.

        Nor do the dead that this node never met: they are others' word alone.
        """
        others = (
            one.member for one in self._table.known()
            if one.member.state != "dead" or (one.is_proven and now - one.state_since < out_after_s)
        )
        return [
            Candidate(row.id, row.capacity, row.zone)
            for row in (self.me, *others) if row.state != "left" and not row.drains
        ]

    def unmet(self) -> list[Told]:
        """Members that others told of lately and that were not met: they may exist, and know what we do not.

        Without those that left, by what is known here: who was off has not heard of it yet, and tells old news.
        """
        return [told for told in self._hearsay.unmet(self._now) if not self._has_left(told.row)]

    def _has_left(self, told: Member) -> bool:
        row = self._table.get(told.id)
        return row is not None and row.state == "left" and row.precedence >= told.precedence

    @property
    def left_out(self) -> int:
        """Rows that found no room in the table, since the start."""
        return self._table.refused

    def probe_interval_s(self) -> float:
        """How long to wait before the next probe: longer when this node is slow, short when it has to refute."""
        if self._burst:
            return self.timing.burst_interval_s
        return self.timing.probe_interval_s * self._health.multiplier

    @property
    def probe_timeout_s(self) -> float:
        """How long to wait for an answer to a probe: longer when this node is slow."""
        return self.timing.probe_timeout_s * self._health.multiplier

    # --- probing ------------------------------------------------------------------------------------

    def next_probe(self, now: float) -> Member | None:
        """Whom to ping: everyone once a round, in an order of chance (SWIM 4.3); now and then somebody dead."""
        self._advance(now)
        self._burst = max(0, self._burst - 1)
        target = self._pick_dead(now)
        if target is None and (id := self._round.next(self._table.reachable)) is not None:
            target = self._table.get(id)
        if target:
            self._probing.add(target.id)
        return target

    def next_stranger(self, now: float) -> Member | None:
        """Whom to ping because others told of it: it has to be met before it counts. None when there is nobody."""
        self._advance(now)
        target = self._hearsay.next()
        if target:
            self._probing.add(target.id)
        return target

    def _pick_dead(self, now: float) -> Member | None:
        if now < self._next_revival:
            return None
        self._next_revival = now + self.timing.revive_interval_s * (0.5 + self._chance.random())
        dead = self._table.in_state("dead")
        return self._chance.sample(dead, k=1)[0] if dead else None

    def probe_ok(self, now: float, id: str, rtt_s: float) -> None:
        """It answered in time."""
        self._advance(now)
        self._probing.discard(id)
        self._health.better()
        self._table.saw(now, id, rtt_s)

    def probe_failed(self, now: float, id: str) -> list[Member]:
        """It did not answer: who may try for us. Follow with `indirect_ok` or `indirect_failed`, helpers or none."""
        self._advance(now)
        told = self._hearsay.told(id)
        if id not in self._probing or not (told or id in self._table.reachable):
            return []
        # Who told of somebody that does not exist would also say that it answers.
        apart = (id, told.teller if told else "")
        helpers = sorted(row for row in self._table.in_state("alive") if row.id not in apart)
        return self._chance.sample(helpers, k=min(self.timing.helpers, len(helpers)))

    def indirect_ok(self, now: float, id: str) -> list[Change]:
        """A helper reached it."""
        self._advance(now)
        self._probing.discard(id)
        told = self._hearsay.told(id)
        changes = self._take(now, told.row, id) if told else []
        self._hearsay.drop(id)
        self._table.saw(now, id)
        return changes

    def indirect_failed(self, now: float, id: str, silent_helpers: int = 0) -> list[Change]:
        """No helper reached it: it is suspect. Helpers that did not even say so speak against ourselves."""
        self._advance(now)
        is_stranger = self._hearsay.told(id) is not None
        self._hearsay.missed(now, id)
        if id not in self._probing:
            return []
        self._probing.discard(id)
        if is_stranger:
            return []
        if silent_helpers:
            self._health.worse()
        row = self._table.get(id)
        if row is None or not row.is_reachable:
            return []
        return self._take(now, row._replace(state="suspect", accuser=self.me.id), self.me.id)

    # --- news ---------------------------------------------------------------------------------------

    def merge(self, now: float, rows: Iterable[Member], source_id: str) -> list[Change]:
        """Take the rows of a message, the sender's own among them, or those kept on disk (empty source: no news).

        Of members that this node never met it takes the word only of themselves, and of others that they are dead.
        """
        self._advance(now)
        changes = []
        for row in rows:
            if row.id == self.me.id:
                self._hear_of_myself(row)
            elif row.id in self.revoked:
                continue
            elif row.is_reachable and source_id not in ("", row.id) and not self._table.is_proven(row.id):
                self._hearsay.note(row, source_id)
            else:
                changes += self._take(now, row, source_id)
        self._table.saw(now, source_id)
        return changes

    def _take(self, now: float, row: Member, source_id: str) -> list[Change]:
        change = self._table.take(now, row, source_id)
        if change is None:
            if self._table.confirm(row, source_id):
                self._news.add(row)
            if source_id == row.id:
                self._table.note_space(row)
            return []
        self._schedule(change, source_id)
        if self._table.is_proven(row.id):
            self._hearsay.drop(row.id)
        if source_id and self._table.is_proven(row.id):
            self._news.replace(row)
        return [change]

    def _schedule(self, change: Change, source_id: str) -> None:
        """Probe a new member somewhere in this round, and a new suspect next of all: so it hears of it at once.

        That brings its refutation, or confirms the suspicion. In a large cluster only a few of those who hear of it
        do so, by lot, or all would fall upon the suspect.
        """
        id = change.member.id
        if change.new == "suspect":
            if source_id == self.me.id or self._chance.random() * self._table.size < HASTY_PROBES:
                self._round.put_first(id)
        elif not change.old and change.member.is_reachable:
            self._round.put_somewhere(id)
        if change.old == "dead" and source_id == id and id not in self._sync_soon:
            self._sync_soon.append(id)

    def _hear_of_myself(self, row: Member) -> None:
        if self.me.state == "left" or row.precedence <= self.me.precedence:
            return
        if row.state == "alive":
            self.contested += row.incarnation > self.me.incarnation and row.addresses != self.me.addresses
        else:
            self.refutations += 1
            self._health.worse()
        self._raise(row.incarnation)

    def _raise(self, above: int, **fields: Any) -> None:
        self.me = self.me._replace(incarnation=min(above + 1, MAX_INCARNATION), **fields)
        self._burst = self._times()

    def _times(self) -> int:
        return self.timing.retransmit * math.ceil(math.log10(self._table.size + 1))

    def updates(self, limit: int, to_id: str) -> list[Member]:
        """Rows to send along to a member. What is held against the receiver comes first (Lifeguard's buddy)."""
        receiver = self._table.get(to_id)
        accusation = [receiver] if receiver and receiver.state != "alive" else []
        is_heard = receiver is None or receiver.is_reachable
        skip = to_id if accusation else ""
        news = self._news.take(limit - len(accusation), self._times(), is_heard, skip)
        return [self._table.dated(row, self._now) for row in accusation + news]

    def revoked_updates(self) -> list[str]:
        """Revoked ids to send along to any member."""
        return self.revoked.news(self._times())

    def next_sync(self, now: float) -> Member | None:
        """With whom to exchange the whole table now; None while it is not time."""
        self._advance(now)
        while self._sync_soon:
            id = self._sync_soon.pop()
            if id in self._table.reachable:
                return self._table.get(id)
        if now < self._next_sync or not self._table.reachable:
            return None
        is_first = self._next_sync == -math.inf
        self._next_sync = now + self.timing.sync_interval_s * (0.5 + self._chance.random())
        return None if is_first else self._table.get(self._chance.sample(sorted(self._table.reachable), k=1)[0])

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Change]:
        """Let timers expire: suspects die, rows of those that left go."""
        self._advance(now)
        changes = self._table.expire(now)
        for change in changes:
            self._news.replace(change.member)
        return changes

    def _advance(self, now: float) -> None:
        """Notice that we stood still: what did not come in that time proves nothing against the others."""
        gap = now - self._now
        self._now = max(now, self._now)
        if not self.timing.stall_s < gap < math.inf:
            return
        self.stalls += 1
        self._health.worse()
        self._probing.clear()
        self._table.delay(gap)

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
        """Strike a dead member, everywhere. Should it live after all, it will say so. Raises NotFound, Refused."""
        self._advance(now)
        row = self._table.get(id)
        if row is None or row.state == "left":
            raise errors.NotFound(f"no member has the id {id}; `p2pfs-cli peers` lists them")
        if row.state != "dead":
            raise errors.Refused(f"{row.name} is {row.state}: only a dead member can be forgotten; stop it first")
        return self._take(now, row._replace(state="left", dead_s=0), self.me.id)[0]

    def revoke(self, now: float, ids: Iterable[str]) -> list[Change]:
        """Take ids onto the list of those that are revoked, and strike their members, alive or not."""
        self._advance(now)
        changes = []
        for id in self.revoked.merge(ids):
            self._hearsay.drop(id)
            row = self._table.get(id)
            if row is not None and row.state != "left":
                changes += self._take(now, row._replace(state="left", dead_s=0), self.me.id)
        return changes
