"""The catalog on disk: all pins and the known members, in one SQLite file that belongs to one process.

WAL with synchronous=FULL: what `merge` returned survives a power loss. The file is locked as long as it is
open. A damaged one is moved to quarantine and begun anew, for the journal beside it (`store.snapshot`) and the other
nodes can fill it again.

Blocking, plain Python, for one native thread at a time.
"""

# ruff: noqa: S608  SQL is put together from constants of this file only; every value is bound.
from __future__ import annotations

import functools
import json
import logging
import operator
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.core.hlc import stamp_of
from p2pfs.core.member import Member
from p2pfs.core.pins import BUCKETS, Pin, bucket_of, is_past, newer, record_digest
from p2pfs.store.database import Damaged, has_begun, is_damage, open_database, quarantine
from p2pfs.store.snapshot import Journal, read_snapshot

log = logging.getLogger(__name__)

MERGE_BATCH = 10_000
"""Records of one transaction; a longer merge is as durable, and holds less at once."""
ANEW = "anew"
"""Key: `yes` when the catalog lost records, so that blocks which no pin wants may be wanted all the same."""
COMPARED = "compared."
"""Key, with a member's id: when the catalog was last equal to that member's."""
_PURGED = "purged_until"
_JOURNAL = "journal"
"""Key: bytes and records of the journal, and the fingerprint of the catalog, as a clean stop left them."""
_MIN_LINES = 1000
"""A journal is not rewritten for less."""
_COLUMNS = "cid, name, size, sha256, replicas, blocks, created, stamp, origin, removed"


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


class Catalog:
    """The catalog in `path`, made when there is none.

    Raises Refused when another process has it open, when it is another program's, or when a later p2pfs wrote
    it; NoSpace when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.quarantined: Path | None = None
        """Where the damaged file went that was found here; the node should then sync, and tell the operator."""
        self.is_new = False
        """There was none, or only a damaged one, and nobody said (`keep_journal`) that it was filled again."""
        self.is_damaged = False
        """A query found the file broken: only `begin_anew` helps."""
        self._journal: Journal | None = None
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

        What the journal lacks has to come from other nodes, as after a start.
        """
        self._db.close()
        if self.path.exists():
            self.quarantined = quarantine(self.path)
            log.error("the catalog is damaged: moved to %s, begun anew", self.quarantined)
        self._open()
        self.is_damaged = False
        journal, self._journal = self._journal, None
        if journal is None or not journal.is_current:
            self.remember(ANEW, "yes")
        if journal is not None:
            journal.close()
            if journal.path.exists():
                restored = self.read_snapshot(journal.path)
                log.warning("the catalog was rebuilt from %s: %d records", journal.path, restored)
            self.keep_journal(journal.path)

    # --- pins ---------------------------------------------------------------------------------------

    def merge(self, pins: Iterable[Pin]) -> list[Pin]:
        """Take the records that are newer than those here; returns them. Durable on return. Raises NoSpace.

        Tombstones that were purged do not come back, except over a live record.
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
        same = f"SELECT {_COLUMNS}, digest FROM pins WHERE cid = ? AND name = ?"
        found = self._db.execute(same, key).fetchone()
        old = _pin(found) if found else None
        if is_past(pin, self._purged_ms) if old is None else not newer(pin, old):
            return False
        bucket, digest = bucket_of(pin.key), record_digest(pin)
        digests[bucket] ^= digest ^ (int.from_bytes(found[-1], "big") if found else 0)
        if old:
            counts[old.removed] -= 1
        counts[pin.removed] += 1
        self._db.execute(
            f"INSERT OR REPLACE INTO pins ({_COLUMNS}, bucket, digest) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (*key, *pin[2:], bucket, digest.to_bytes(16, "big")),
        )
        return True

    def purge(self, until_ms: int) -> int:
        """Let go of the tombstones from before that time, and of those that come later; how many went. Durable."""
        digests, gone = list(self._digests), 0
        until_ms = max(until_ms, self._purged_ms)
        with self._transaction():
            where, args = "removed AND stamp < ?", (stamp_of(until_ms),)
            for bucket, digest in self._db.execute(f"SELECT bucket, digest FROM pins WHERE {where}", args):
                digests[bucket] ^= int.from_bytes(digest, "big")
                gone += 1
            self._db.execute(f"DELETE FROM pins WHERE {where}", args)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PURGED, str(until_ms)))
        self._digests, self._purged_ms = digests, until_ms
        self._counts[True] -= gone
        if gone and self._journal is not None:
            self._journal.is_current = False
        return gone

    def oldest_removed(self) -> Pin | None:
        """The oldest tombstone."""
        return next(iter(self._select("removed ORDER BY stamp LIMIT 1")), None)

    def pins(self, after: Pin | None = None, limit: int = 1000) -> list[Pin]:
        """A page of the live pins, newest first (by stamp, then CID and name); `after` is the last of the
        page before.

        Pins that change meanwhile move to the front: no page shows one twice, and none that stays is left
        out.
        """
        return self._page("NOT removed", (), after, limit)

    def removed_since(self, ms: int, after: Pin | None = None, limit: int = 1000) -> list[Pin]:
        """A page of the tombstones with a time (`hlc.ms_of`) of at least `ms`, newest first; `after` as for `pins`."""
        return self._page("removed AND stamp >= ?", (stamp_of(ms),), after, limit)

    def _page(self, where: str, args: tuple[int, ...], after: Pin | None, limit: int) -> list[Pin]:
        order = "ORDER BY stamp DESC, cid, name LIMIT ?"
        if after is None:
            return self._select(f"{where} {order}", *args, limit)
        return self._select(
            f"{where} AND stamp <= ? AND (stamp < ? OR (cid, name) > (?, ?)) {order}",
            *args, after.stamp, after.stamp, after.cid.encode(), after.name, limit,
        )

    def find_name(self, name: str) -> Pin | None:
        """The newest live pin of that name."""
        if not name or not _is_text(name):
            return None
        return next(iter(self._select("name = ? AND NOT removed ORDER BY stamp DESC LIMIT 1", name)), None)

    def find_cid(self, cid: CID) -> list[Pin]:
        """All live pins of a root, newest first."""
        return self._select("cid = ? AND NOT removed ORDER BY stamp DESC, name", cid.encode())

    def find_sha256(self, digest: str) -> Pin | None:
        """The newest live pin of a file with that plain SHA-256, in lower-case hex."""
        where = "sha256 = ? AND sha256 IS NOT NULL AND NOT removed ORDER BY stamp DESC LIMIT 1"
        return next(iter(self._select(where, digest)), None)

    def find_removed(self, *, cid: CID | None = None, name: str = "", sha256: str = "") -> list[Pin]:
        """The tombstones of a root, or of a name, or of a file's SHA-256 (lower-case hex); newest first.

        A name or a SHA-256 is looked for in all tombstones: this is for the rare case that somebody wants one back.
        """
        order = "removed ORDER BY stamp DESC, cid, name"
        if cid is not None:
            return self._select(f"cid = ? AND {order}", cid.encode())
        if sha256:
            return self._select(f"sha256 = ? AND {order}", sha256)
        return self._select(f"name = ? AND {order}", name) if name and _is_text(name) else []

    def bucket(self, number: int) -> list[Pin]:
        """All records of a bucket, tombstones among them, by CID and name."""
        return self._select("bucket = ? ORDER BY cid, name", number)

    def digests(self) -> Digests:
        """What to compare with another node by; kept in memory."""
        return Digests(list(self._digests), self._purged_ms)

    def counts(self) -> Counts:
        """How many records there are; kept in memory."""
        return Counts(*self._counts)

    def newest_stamp(self) -> int:
        """The largest stamp of any record, 0 without one: where the node's clock has to go on."""
        with self._errors():
            return int(self._db.execute("SELECT coalesce(max(stamp), 0) FROM pins").fetchone()[0])

    def _select(self, where: str, *args: Any) -> list[Pin]:
        with self._errors():
            return [_pin(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM pins WHERE {where}", args)]

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
        """Write the journal anew if it is not current or mostly history. Raises NoSpace.

        Takes about 1 s for 100,000 records; as often as they double, so what a record costs does not grow.
        """
        journal = self._journal
        if journal is None:
            return
        records = sum(self._counts)
        if not journal.is_current or journal.lines > 2 * records + _MIN_LINES:
            with self._errors():
                rows = self._db.execute(
                    "SELECT key, value FROM meta WHERE key = ? OR key GLOB ?", (_PURGED, f"{COMPARED}*")
                ).fetchall()
            journal.rewrite(self._everything(), records, dict(rows))

    def _everything(self) -> Iterator[Pin]:
        with self._errors():
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM pins ORDER BY cid, name"):
                yield _pin(row)

    def read_snapshot(self, path: Path) -> int:
        """Merge a snapshot and its journal, as far as they can be read; returns the number of records that were news.

        When something in it cannot be read, it goes to quarantine. Raises NotFound, NoSpace.
        """
        bad: list[str] = []
        try:
            changed = len(self.merge(read_snapshot(path, bad.append, self._take_meta)))
        except errors.Malformed as error:
            bad.append(str(error))
            changed = 0
        if bad:
            self.remember(ANEW, "yes")
            kept = quarantine(path)
            log.error("%d lines of the catalog's journal are lost, it is now %s: %s", len(bad), kept, bad[0])
        return changed

    def _take_meta(self, meta: dict[str, Any]) -> None:
        for key, value in meta.items():
            is_time = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16
            if is_time and (key == _PURGED or key.startswith(COMPARED)) and self.recall(key) is None:
                self.remember(key, value)
        self._purged_ms = int(self.recall(_PURGED) or 0)

    # --- members and small things -------------------------------------------------------------------

    def save_members(self, rows: Iterable[Member]) -> None:
        """Replace the rows kept for the next start."""
        texts = [(row.id, json.dumps(row.to_wire())) for row in rows]
        with self._transaction():
            self._db.execute("DELETE FROM members")
            self._db.executemany("INSERT OR REPLACE INTO members VALUES (?, ?)", texts)

    def load_members(self) -> list[Member]:
        """The rows kept. One that this version cannot read is left out: it is only a hint where to look."""
        with self._errors():
            texts = self._db.execute("SELECT id, row FROM members ORDER BY id").fetchall()
        rows = []
        for id, text in texts:
            try:
                rows.append(Member.from_wire(json.loads(text)))
            except (ValueError, errors.ProtocolError) as error:
                log.warning("the kept row of member %s is left out: %s", id, error)
        return rows

    def recall(self, key: str) -> str | None:
        """What was remembered under the key."""
        with self._errors():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def remember(self, key: str, value: str) -> None:
        """Keep a small text, durably, in the place of the one before. Raises NoSpace."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # --- SQLite -------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self.is_damaged = True
                raise errors.Corrupt(f"{self.path}: {error}") from error
            raise errors.NoSpace(f"{self.path}: {error}") from error
        except errors.BadCid as error:
            self.is_damaged = True
            raise errors.Corrupt(f"{self.path}: {error}") from error


def _scan(db: sqlite3.Connection) -> tuple[list[int], list[int]]:
    digests, counts = [0] * BUCKETS, [0, 0]
    for bucket, digest in db.execute("SELECT bucket, digest FROM pins"):
        digests[bucket] ^= int.from_bytes(digest, "big")
        counts[False] += 1
    counts[True] = db.execute("SELECT count(*) FROM pins WHERE removed").fetchone()[0]
    counts[False] -= counts[True]
    return digests, counts


def _is_text(name: str) -> bool:
    """Can it be written as UTF-8? SQLite takes nothing else, and no pin is called otherwise."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _pin(row: tuple[Any, ...]) -> Pin:
    name, size, sha256, replicas, blocks, created, stamp, origin, removed = row[1:10]
    cid = CID.decode(row[0])
    return Pin(cid, name, size, sha256, replicas, blocks, created, stamp, origin, bool(removed))
