"""The catalog on disk: all pins, in one SQLite file that belongs to one process.

WAL with synchronous=FULL: what `merge` returned survives a power loss. The file is locked as long as it is
open. A damaged one is moved to quarantine and begun anew, for the journal beside it (`store.snapshot`) and the other
nodes can fill it again.

Blocking, plain Python, for one native thread at a time.
"""

# ruff: noqa: S608  SQL is put together from constants of this file only; every value is bound.
from __future__ import annotations

import functools
import logging
import operator
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core.hlc import stamp_of
from p2pfs.core.pins import BUCKETS, Pin, bucket_of, is_past, newer, record_digest
from p2pfs.store.database import Damaged, has_begun, open_database, quarantine
from p2pfs.store.records import COLUMNS, Records, to_pin
from p2pfs.store.snapshot import Journal, read_snapshot

log = logging.getLogger(__name__)

MERGE_BATCH = 10_000
"""Records of one transaction; a longer merge is as durable, and holds less at once."""
MAX_RECORDS = 2_000_000
"""Records that a catalog takes when nothing else is said."""
PAGE = 1000
"""Records of one step of writing the journal anew."""
ANEW = "anew"
"""Key: `yes` when the catalog lost records; to be asked by `lacks_records`."""
COMPARED = "compared."
"""Key, with a member's id: when the catalog was last equal to that member's."""
_PURGED = "purged_until"
_JOURNAL = "journal"
"""Key: bytes and records of the journal, and the fingerprint of the catalog, as a clean stop left them."""
_MIN_LINES = 1000
"""A journal is not rewritten for less."""


class Counts(NamedTuple):
    """Records in the catalog."""

    live: int
    removed: int
    """Tombstones."""


class Digests(NamedTuple):
    """What two nodes compare."""

    buckets: list[int]
    """For each bucket the XOR of its records' digests."""
    purged_ms: int
    """Tombstones from before this time are gone (milliseconds since 1970); 0: none ever went."""


class Catalog(Records):
    """The catalog in `path`, made when there is none.

    Raises Refused when another process has it open, when it is another program's, or when a later p2pfs wrote
    it; NoSpace when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.quarantined: Path | None = None
        """Where the damaged file went that was found here; the node should then sync, and tell the operator."""
        self.is_new = False
        """There was none, or only a damaged one, and nobody said (`keep_journal`) that it was filled again."""
        self.max_records = MAX_RECORDS
        """More records of new roots or names are left out; those that are here may change, so that `rm` goes on."""
        self.left_out = 0
        """Records that were, since the start."""
        self._journal: Journal | None = None
        self._is_filling = False
        """`begin_anew` put a new file in the place of the damaged one, and could not fill it yet."""
        self._open()

    def _open(self) -> None:
        try:
            self._db, self.is_new = open_database(self.path)
        except Damaged as damage:
            self.quarantined = quarantine(self.path)
            log.error("the catalog is damaged (%s): moved to %s, begun anew", damage, self.quarantined)
            self._db, self.is_new = open_database(self.path)
        self._digests, self._counts = _scan(self._db)
        self._purged_ms = int(self.recall(_PURGED) or 0)

    def close(self) -> None:
        """Make the journal current, fold the log into the file, let go of both. Raises NoSpace, closed all the same."""
        try:
            if self._journal is not None and not self.is_damaged:
                self.tend_journal()
                self.remember(_JOURNAL, f"{self._journal.sync()} {self._journal.lines} {self._fingerprint()}")
        finally:
            if self._journal is not None:
                self._journal.close()
            self._db.close()

    def begin_anew(self) -> None:
        """After damage that a query met: quarantine the file, and fill a new one from the journal. Raises NoSpace.

        What the journal lacks has to come from other nodes, as after a start. After a failure the catalog still counts
        as damaged, and the next call goes on: an empty one must not pass for all that there was.
        """
        self._db.close()
        self.is_damaged = True
        if not self._is_filling and self.path.exists():
            self.quarantined = quarantine(self.path)
            log.error("the catalog is damaged: moved to %s, begun anew", self.quarantined)
        self._is_filling = True
        self._open()
        self.is_damaged = False
        journal, self._journal = self._journal, None  # what is read from it is not added to it
        try:
            self._fill(journal)
        except BaseException:
            self._is_filling = not self.is_damaged  # a new file that is broken, too, has to go as well
            self._journal, self.is_damaged = journal, True
            raise
        self._is_filling = False

    def _fill(self, journal: Journal | None) -> None:
        is_whole = journal is not None and journal.is_current and journal.path.exists()
        # Until it is filled again: should the node be killed in the middle, nothing here knows what the blocks are.
        self.remember(ANEW, "yes")
        if journal is not None:
            journal.close()
            if journal.path.exists():
                restored = self.read_snapshot(journal.path)
                log.warning("the catalog was rebuilt from %s: %d records", journal.path, restored)
                is_whole = is_whole and journal.path.exists()  # with lines that are lost it goes to quarantine
            self.keep_journal(journal.path)
        if is_whole:
            self.remember(ANEW, "no")

    def lacks_records(self) -> bool:
        """Some were lost, or a new file is not filled yet: blocks that no pin wants may be wanted all the same."""
        return self.is_new or self.recall(ANEW) == "yes"

    # --- pins ---------------------------------------------------------------------------------------

    def merge(self, pins: Iterable[Pin]) -> list[Pin]:
        """Take the records that are newer than those here; returns them. Durable on return. Raises NoSpace.

        Tombstones that were purged do not come back, except over a live record. A full catalog takes no new ones.
        """
        changed: list[Pin] = []
        batch: list[Pin] = []
        for pin in pins:
            batch.append(pin)
            if len(batch) == MERGE_BATCH:
                changed += self._merge(batch)
                batch = []
        return changed + (self._merge(batch) if batch else [])

    def _merge(self, pins: list[Pin]) -> list[Pin]:
        digests, counts = list(self._digests), list(self._counts)
        with self._transaction():
            changed = [pin for pin in pins if self._take(pin, digests, counts)]
        self._digests, self._counts = digests, counts
        if changed and self._journal is not None:
            self._journal.append(changed)
        return changed

    def _take(self, pin: Pin, digests: list[int], counts: list[int]) -> bool:
        key = (pin.cid.encode(), pin.name)
        same = f"SELECT {COLUMNS}, digest FROM pins WHERE cid = ? AND name = ?"
        found = self._db.execute(same, key).fetchone()
        old = to_pin(found) if found else None
        if is_past(pin, self._purged_ms) if old is None else not newer(pin, old):
            return False
        if old is None and sum(counts) >= self.max_records:
            self.left_out += 1
            return False
        bucket, digest = bucket_of(pin.key), record_digest(pin)
        digests[bucket] ^= digest ^ (int.from_bytes(found[-1], "big") if found else 0)
        if old:
            counts[old.removed] -= 1
        counts[pin.removed] += 1
        self._db.execute(
            f"INSERT OR REPLACE INTO pins ({COLUMNS}, bucket, digest) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (*key, *pin[2:], bucket, digest.to_bytes(16, "big")),
        )
        return True

    def purge(self, until_ms: int) -> int:
        """Let go of the tombstones from before that time, and of those that come later; how many went. Durable."""
        digests, gone = list(self._digests), 0
        purged_ms = max(until_ms, self._purged_ms)  # the larger one was given by a clock that was ahead
        with self._transaction():
            where, args = "removed AND stamp < ?", (stamp_of(until_ms),)
            for bucket, digest in self._db.execute(f"SELECT bucket, digest FROM pins WHERE {where}", args):
                digests[bucket] ^= int.from_bytes(digest, "big")
                gone += 1
            self._db.execute(f"DELETE FROM pins WHERE {where}", args)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PURGED, str(purged_ms)))
        self._digests, self._purged_ms = digests, purged_ms
        self._counts[True] -= gone
        if gone and self._journal is not None:
            self._journal.spoil()
        return gone

    def digests(self) -> Digests:
        """What to compare with another node by; kept in memory."""
        return Digests(list(self._digests), self._purged_ms)

    def counts(self) -> Counts:
        """How many records there are; kept in memory."""
        return Counts(*self._counts)

    @property
    def is_full(self) -> bool:
        """No record of a new root or name is taken."""
        return sum(self._counts) >= self.max_records

    # --- the journal --------------------------------------------------------------------------------

    def keep_journal(self, path: Path) -> None:
        """From now on add to that file what is merged; what there was to read in it was read. Raises NoSpace.

        It is taken as it is when a clean stop left it and the catalog so; `tend_journal` writes it anew otherwise.
        """
        size, lines, fingerprint = (self.recall(_JOURNAL) or "-1 0 -").split()
        is_left = path.exists() and path.stat().st_size == int(size) and fingerprint == self._fingerprint()
        if self.is_new:
            with self._errors():
                has_begun(self._db)
            self.is_new = False
        self._journal = Journal(path, int(lines) if is_left else None)

    def _fingerprint(self) -> str:
        return f"{functools.reduce(operator.xor, self._digests):032x}"

    def tend_journal(self) -> None:
        """Write the journal anew if it is not current or mostly history. Raises NoSpace."""
        for _ in self.journal_steps():
            pass

    def journal_steps(self) -> Iterator[int]:
        """`tend_journal` in steps of some 15 ms, each a positive number; other calls may come between them.

        All of them take 1.5 s for 100,000 records, but only when that many lines came: what a record costs does not
        grow.
        """
        journal = self._journal
        if journal is None or self.is_damaged:
            return
        records = sum(self._counts)
        if not journal.is_current or journal.lines > 2 * records + _MIN_LINES:
            with self._errors():
                rows = self._db.execute(
                    "SELECT key, value FROM meta WHERE key = ? OR key GLOB ?", (_PURGED, f"{COMPARED}*")
                ).fetchall()
            yield from journal.rewrite(self._pages(), records, dict(rows))

    def _pages(self) -> Iterator[list[Pin]]:
        """All records; one that changes meanwhile may be as it was before."""
        last = (b"", "")
        while page := self._select("(cid, name) > (?, ?) ORDER BY cid, name LIMIT ?", *last, PAGE):
            yield page
            last = (page[-1].cid.encode(), page[-1].name)

    def read_snapshot(self, path: Path) -> int:
        """Merge a snapshot and its journal, as far as they can be read; returns the number of records that were news.

        When something in it cannot be read, or finds no room, it goes to quarantine. Raises NotFound, NoSpace.
        """
        bad: list[str] = []
        left_out = self.left_out
        try:
            changed = len(self.merge(read_snapshot(path, bad.append, self._take_meta)))
        except errors.Malformed as error:
            bad.append(str(error))
            changed = 0
        bad += [f"the catalog is full with {self.max_records} records"] * (self.left_out - left_out)
        if bad:
            self.remember(ANEW, "yes")
            self._forget_sights()
            kept = quarantine(path)
            log.error("%d lines of the catalog's journal are lost, it is now %s: %s", len(bad), kept, bad[0])
        return changed

    def refill(self, path: Path) -> int | None:
        """At a start: read the snapshot, if there is one and this catalog is new or lacks records; else None.

        One with news that can be read as a whole is what was lost: somebody put it back. Raises NoSpace.
        """
        if not self.lacks_records() or not path.exists():
            return None
        restored = self.read_snapshot(path)
        if restored and path.exists() and self.recall(ANEW) == "yes":
            self.remember(ANEW, "no")
        return restored

    def keep_sights(self, until_ms: Mapping[str, int], of: Path | None) -> None:
        """Write down what was seen of others, by key of COMPARED; unless this catalog was begun anew since then.

        `of`: what `quarantined` was when that was seen.
        """
        if self.quarantined == of:
            self.remember_all({key: str(ms) for key, ms in until_ms.items()})

    def _forget_sights(self) -> None:
        """Records were lost. What is not here need not have been removed: nobody may conclude that from what we saw."""
        with self._transaction():
            self._db.execute("DELETE FROM meta WHERE key = ? OR key GLOB ?", (_PURGED, f"{COMPARED}*"))
        self._purged_ms = 0

    def _take_meta(self, meta: dict[str, str]) -> None:
        notes = [
            (key, value) for key, value in meta.items()
            if (key == _PURGED or key.startswith(COMPARED)) and value.isdigit() and len(value) < 16
        ]
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", notes)
        self._purged_ms = int(self.recall(_PURGED) or 0)


def _scan(db: sqlite3.Connection) -> tuple[list[int], list[int]]:
    digests, counts = [0] * BUCKETS, [0, 0]
    for bucket, digest in db.execute("SELECT bucket, digest FROM pins"):
        digests[bucket] ^= int.from_bytes(digest, "big")
        counts[False] += 1
    counts[True] = db.execute("SELECT count(*) FROM pins WHERE removed").fetchone()[0]
    counts[False] -= counts[True]
    return digests, counts
