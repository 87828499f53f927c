"""When the audit does what. Decisions only, on a clock that only goes forward.

Changes come in bursts, and passes cost time: so a change is waited for a moment, a pass is followed by a rest in
proportion, and what changes while a pass runs calls for another one.
"""

from __future__ import annotations

import enum
import math

SETTLE_S = 0.5
"""So long a burst of changes is waited for."""
REMOVED_S = 10.0
"""Soon after pins were removed the walk is made anew, so that what they wanted is not missed any more."""
REST = 3
"""After work that took a second, work of that kind rests for so many, whatever happens."""
REST_MOST_S = 600.0
UNSETTLED_S = 2.0
"""As long as something is missing or waits to be given up, this is the least pause between looks at it."""
FAILED_S = 10.0
"""A pass that failed is tried again after this."""
HEARD_S = 5.0
"""After so long everybody has heard of a change of members, and what was placed before has come."""


class Work(enum.Enum):
    """What there is to do, the most thorough first: each does what those after it do, too."""

    WALK = enum.auto()
    """Take a new inventory of what the pins want, and compare all of it."""
    COMPARE = enum.auto()
    """Compare all of the inventory with the disk."""
    SETTLE = enum.auto()
    """Compare the parts in which something was not as it should be."""
    RECENT = enum.auto()
    """Look at what pins want that came since."""


class Agenda:
    """The times at which work is due, and what the work that was done took account of."""

    def __init__(self, now: float) -> None:
        self._due = {Work.WALK: now + SETTLE_S, Work.COMPARE: math.inf, Work.SETTLE: math.inf, Work.RECENT: math.inf}
        self._rested_at = now
        self._rests = dict.fromkeys(Work, now)
        self._changes = 0
        self._seen = -1
        """Of the changes, so many had come when the last work began that took account of all."""
        self._members_at = self._compared_at = self._looked_at = -math.inf
        self._begun_at = now
        self._begun_with = 0
        self._was_compared = False
        self._takes_walk = False
        """Some pins that came are noted nowhere, so that all other work takes no account of them."""

    # --- what calls for work -------------------------------------------------------------------------

    def members_changed(self, now: float, is_held_up: bool) -> None:
        """Other members own shards, or can be reached. `is_held_up`: collection waits for something."""
        self._members_at = now
        self._changes += 1
        self.want(Work.COMPARE, now + SETTLE_S)
        if is_held_up:  # perhaps by whom the change was about
            self.want(Work.WALK, now + SETTLE_S)

    def pins_came(self, now: float, are_noted: bool) -> None:
        """There are new pins, noted to be looked at one by one, or too many for that."""
        self._changes += 1
        if are_noted:
            self.want(Work.RECENT, now + SETTLE_S)
        else:
            self._takes_walk = True
            self.want(Work.WALK, now)

    def pins_went(self, now: float) -> None:
        """Pins were removed."""
        self.want(Work.WALK, now + REMOVED_S)

    def want(self, work: Work, at: float) -> None:
        """Do that at this time, or before."""
        self._due[work] = min(self._due[work], at)

    # --- what is to be done --------------------------------------------------------------------------

    def next(self, now: float) -> Work | None:
        """What to do now; None while nothing is due."""
        return next((work for work in Work if self._at(work) <= now), None)

    def wait_s(self, now: float) -> float:
        """How long until something is due, if nothing else happens."""
        return max(0.0, min(map(self._at, Work)) - now)

    def _at(self, work: Work) -> float:
        """When work can be done. Small looks do not wait for the rest after a large pass."""
        at = max(self._due[work], self._rests[work])
        return at if work in (Work.SETTLE, Work.RECENT) else max(at, self._rested_at)

    def begin(self, work: Work, now: float) -> None:
        """It is begun, whether due or not. What changes from now on calls for more."""
        self._begun_at, self._begun_with = now, self._changes
        self._was_compared = math.isinf(self._due[Work.COMPARE])
        if work is Work.WALK:
            self._due[Work.WALK] = self._due[Work.RECENT] = math.inf
            self._takes_walk = False
        if work in (Work.WALK, Work.COMPARE):
            self._due[Work.COMPARE] = math.inf
        if work is not Work.RECENT:
            self._due[Work.SETTLE] = math.inf
        else:
            self._due[Work.RECENT] = math.inf

    def fail(self, work: Work) -> None:
        """It was not done. Whatever it was, everything is compared again, since nobody knows how far it came.

        Pins that were being looked at are noted nowhere any more: only a walk finds them.
        """
        is_walk = work in (Work.WALK, Work.RECENT)
        self._takes_walk |= is_walk
        self.want(Work.WALK if is_walk else Work.COMPARE, self._begun_at + FAILED_S)

    def end(self, work: Work, now: float, is_unsettled: bool, interval_s: float) -> None:
        """It was done. `is_unsettled`: something is not as it should be. `interval_s`: longest time between walks."""
        took_s = now - self._begun_at
        self._rests[work] = now + min(REST * took_s, REST_MOST_S)
        if work is Work.RECENT and not self._takes_walk:
            self._looked_at = self._begun_at
            self._seen = self._begun_with if self._was_compared else self._seen
        if work in (Work.WALK, Work.COMPARE):
            self._rested_at = now + took_s
            # Pins that came before it began and are still to be looked at are no part of a comparison.
            is_all = work is Work.WALK or (math.isinf(self._due[Work.RECENT]) and not self._takes_walk)
            self._seen = self._begun_with if is_all else self._seen
            self._compared_at = self._begun_at
            self._looked_at = self._begun_at if is_all else self._looked_at
        if work is Work.WALK:
            self.want(Work.WALK, now + interval_s)
        if is_unsettled:
            self.want(Work.SETTLE, now + UNSETTLED_S)

    # --- what was done -------------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """Every change so far has been taken account of."""
        return self._seen == self._changes

    @property
    def has_seen_the_members(self) -> bool:
        """All that was there when members changed last was compared since, and what others placed before they knew.

        On a busy cluster this comes true, while `is_current` hardly ever is.
        """
        if self.is_current:
            return True
        return self._compared_at > self._members_at and self._looked_at > self._members_at + HEARD_S
