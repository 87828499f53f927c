"""The catalog on disk: all pins and the known members, in one SQLite file that belongs to one process.

WAL with synchronous=FULL: what `merge` returned survives a power loss. The file is locked as long as it is
open. A damaged one is moved to quarantine and begun anew, for the other nodes and the text snapshot can fill
it again.

Blocking, plain Python, for one native thread at a time.
"""

# ruff: noqa: S608  SQL is put together from constants of this file only; every value is bound.
from __future__ import annotations

import json
import logging
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
from p2pfs.store import snapshot
from p2pfs.store.database import Damaged, is_damage, open_database, quarantine

log = logging.getLogger(__name__)

MERGE_BATCH = 10_000
"""Records of one transaction; a longer merge is as durable, and holds less at once."""
_PURGED = "purged_until"
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
        """There was none, or only a damaged one: nothing is in it yet."""
        try:
            self._db, self.is_new = open_database(path)
        except Damaged as damage:
            self.quarantined = quarantine(path)
            log.error("the catalog is damaged (%s): moved to %s, begun anew", damage, self.quarantined)
            self._db, self.is_new = open_database(path)
        self._digests = _scan(self._db)
        self._purged_ms = int(self.recall(_PURGED) or 0)

    def close(self) -> None:
        """Fold the log into the file, and let go of it."""
        self._db.close()

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
        digests = list(self._digests)
        with self._transaction():
            changed = [pin for pin in pins if self._take(pin, digests)]
        self._digests = digests
        return changed

    def _take(self, pin: Pin, digests: list[int]) -> bool:
        key = (pin.cid.encode(), pin.name)
        same = f"SELECT {_COLUMNS}, digest FROM pins WHERE cid = ? AND name = ?"
        found = self._db.execute(same, key).fetchone()
        if not found and is_past(pin, self._purged_ms):
            return False
        if found and not newer(pin, _pin(found)):
            return False
        bucket, digest = bucket_of(pin.key), record_digest(pin)
        digests[bucket] ^= digest ^ (int.from_bytes(found[-1], "big") if found else 0)
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
        """How many records there are."""
        with self._errors():
            row = self._db.execute("SELECT count(*), coalesce(sum(removed), 0) FROM pins").fetchone()
        total, removed = row
        return Counts(total - removed, removed)

    def newest_stamp(self) -> int:
        """The largest stamp of any record, 0 without one: where the node's clock has to go on."""
        with self._errors():
            return int(self._db.execute("SELECT coalesce(max(stamp), 0) FROM pins").fetchone()[0])

    def _select(self, where: str, *args: Any) -> list[Pin]:
        with self._errors():
            return [_pin(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM pins WHERE {where}", args)]

    # --- the text snapshot --------------------------------------------------------------------------

    def write_snapshot(self, path: Path) -> None:
        """Write every record as text (`store.snapshot`), durably. Raises NoSpace."""
        counts = self.counts()
        snapshot.write_snapshot(path, self._everything(), counts.live + counts.removed)

    def _everything(self) -> Iterator[Pin]:
        with self._errors():
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM pins ORDER BY cid, name"):
                yield _pin(row)

    def read_snapshot(self, path: Path) -> int:
        """Merge a text snapshot, as far as it can be read; returns the number of records that were news."""
        changed = 0
        batch: list[Pin] = []
        try:
            for pin in snapshot.read_snapshot(path):
                batch.append(pin)
                if len(batch) == MERGE_BATCH:
                    changed += len(self.merge(batch))
                    batch = []
        except errors.Malformed as error:
            log.error("the rest of the catalog's snapshot is lost: %s", error)
        return changed + len(self.merge(batch))

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
                raise errors.Corrupt(f"{self.path}: {error}; restart the node to begin anew") from error
            raise errors.NoSpace(f"{self.path}: {error}") from error
        except errors.BadCid as error:
            raise errors.Corrupt(f"{self.path}: {error}; move it away and restart the node") from error


def _scan(db: sqlite3.Connection) -> list[int]:
    digests = [0] * BUCKETS
    for bucket, digest in db.execute("SELECT bucket, digest FROM pins"):
        digests[bucket] ^= int.from_bytes(digest, "big")
    return digests


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
