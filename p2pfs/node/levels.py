"""What this node has seen of each member's catalog, and until when: so that removed is told from never heard of.

"Seen until T" of a member means: each record that it had at T was here, too, or a newer one with the same key. It is
learned by comparing with it, and from others who did (docs/decisions/038).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.member import ID
from p2pfs.core.pins import CLOCK_SLACK_MS, Sight
from p2pfs.node.pinning import Pinning
from p2pfs.store.catalog import COMPARED

MOST = 8192
"""Members of whom others told, in an answer and in memory: more are left out, and what they removed may come back."""
KEEP_MS = 60_000
"""How often the time of the last comparison with a member is written down."""
KEEP_VIA_MS = 3_600_000
"""The same of what others told: it is about all members each time."""
VIA = f"{COMPARED}via."
_MAX_MS = 10**15


class Levels:
    """Times in milliseconds since 1970 by member, as far as known. Kept in the catalog's notes."""

    def __init__(self, pinning: Pinning, own_id: str) -> None:
        self._pinning = pinning
        self._own_id = own_id
        self._direct: dict[str, int] = {}
        """When the last comparison that left no difference began."""
        self._via: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._is_read = False

    def forget(self) -> None:
        """The catalog was begun anew: what its notes say now is all that is known."""
        for notes in (self._direct, self._via, self._kept):
            notes.clear()
        self._is_read = False

    def direct_ms(self, id: str) -> int:
        """When this catalog and that member's were last equal; 0: never."""
        self._read()
        return self._direct.get(id, 0)

    def seen(self) -> dict[str, int]:
        """Until when each member's catalog was seen: what others are told. The latest MOST."""
        self._read()
        all = {id: max(self._direct.get(id, 0), self._via.get(id, 0)) for id in {*self._direct, *self._via}}
        return dict(sorted(all.items(), key=lambda item: item[1])[-MOST:])

    def sights(self, id: str, told: Mapping[str, int] | None) -> tuple[Sight, Sight]:
        """What this node saw of that member's records, and what that one saw of ours, as it told (None: it did not)."""
        direct_ms, seen = self.direct_ms(id), self.seen()
        if told is not None:
            latest_ms = self._latest_ms()
            told = {other: ms for other, ms in told.items() if ms <= latest_ms}
        ours = seen.get(id, 0)
        theirs = max(direct_ms, (told or {}).get(self._own_id, 0))
        both = {id, self._own_id}
        return (
            Sight(direct_ms, ours, {**seen, **dict.fromkeys(both, ours)}),
            Sight(direct_ms, theirs, None if told is None else {**told, **dict.fromkeys(both, theirs)}),
        )

    def note(self, id: str, at_ms: int, told: Mapping[str, int] | None, of: Path | None) -> None:
        """This catalog and that member's were equal at that time, and it had seen by then what it told before.

        `of`: what the catalog's `quarantined` was at that time; nothing is known of one that was begun anew since.
        """
        self._read()
        if self._pinning.catalog.quarantined != of:
            return
        self._direct[id] = at_ms
        changed = {}
        if not 0 <= at_ms - self._kept.get(COMPARED + id, 0) < KEEP_MS:
            changed[COMPARED + id] = at_ms
        for other, ms in (told or {}).items():
            is_new = ms > max(self._direct.get(other, 0), self._via.get(other, 0))
            if other == self._own_id or not is_new or ms > at_ms + CLOCK_SLACK_MS:
                continue
            if other not in self._via and len(self._via) >= MOST:
                continue
            self._via[other] = ms
            if ms - self._kept.get(VIA + other, 0) >= KEEP_VIA_MS:
                changed[VIA + other] = ms
        self._keep(changed, of)

    def _keep(self, changed: dict[str, int], of: Path | None) -> None:
        if changed:
            self._kept |= changed
            self._pinning.run(self._pinning.catalog.keep_sights, changed, of)

    def _latest_ms(self) -> int:
        return self._pinning.now_ms() + CLOCK_SLACK_MS

    def _read(self) -> None:
        while not self._is_read:
            self._read_notes()
        # A time that is still to come was noted while clocks were ahead: nobody knows until when that one was seen.
        latest_ms, struck = self._latest_ms(), {}
        for notes, prefix in ((self._direct, COMPARED), (self._via, VIA)):
            for id in [id for id, ms in notes.items() if ms > latest_ms]:
                del notes[id]
                struck[prefix + id] = 0
        self._keep(struck, self._pinning.catalog.quarantined)

    def _read_notes(self) -> None:
        of = self._pinning.catalog.quarantined
        found = self._pinning.run(self._pinning.catalog.recall_all, COMPARED)
        if self._pinning.catalog.quarantined != of:
            return  # these may still be the notes of the catalog before
        for key, value in found.items():
            notes, prefix = (self._via, VIA) if key.startswith(VIA) else (self._direct, COMPARED)
            id = key.removeprefix(prefix)
            notes[id] = max(notes.get(id, 0), int(value))
            self._kept[key] = max(self._kept.get(key, 0), int(value))
        self._is_read = True


def parse_seen(answer: bytes) -> dict[str, int] | None:
    """What the answer to an empty PIN tells; None: that version does not. Raises ProtocolError."""
    told = wire.parse_json(answer, dict).get("seen")
    if told is None:
        return None
    if not isinstance(told, dict) or len(told) > MOST:
        raise errors.ProtocolError(f"what a member has seen is an object of at most {MOST} ids")
    for id, ms in told.items():
        if not ID.fullmatch(id) or type(ms) is not int or not 0 <= ms < _MAX_MS:
            raise errors.ProtocolError(f"a member has seen {ascii(id)[:60]} until {ascii(ms)[:60]}")
    return told
