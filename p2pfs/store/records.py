"""Reading the catalog's records, and the notes beside them; what SQLite says when it cannot.

Blocking, plain Python, for one native thread at a time.
"""

# ruff: noqa: S608  SQL is put together from constants of this file only; every value is bound.
from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.core.hlc import stamp_of
from p2pfs.core.pins import Key, Pin
from p2pfs.store.database import is_damage

_PARTS = ("NOT removed", "removed")
"""Each has an index by age."""
COLUMNS = "cid, name, size, sha256, replicas, blocks, created, stamp, origin, removed"


class Records:
    """The readable half of the catalog in `path`, which `Catalog` opens. Every call raises Corrupt on damage."""

    _db: sqlite3.Connection

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_damaged = False
        """A query found the file broken: only `begin_anew` helps."""

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

    def record(self, key: Key) -> Pin | None:
        """The record of a key, a tombstone too."""
        return next(iter(self._select("cid = ? AND name = ?", key[0].encode(), key[1])), None)

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

    def bucket_digests(self, number: int) -> set[bytes]:
        """The digests of its records."""
        with self._errors():
            return {digest for (digest,) in self._db.execute("SELECT digest FROM pins WHERE bucket = ?", (number,))}

    def pick(self, number: int, digests: Iterable[bytes]) -> list[Pin]:
        """The records of a bucket that have these digests, as far as there are such."""
        return [pin for digest in digests for pin in self._select("bucket = ? AND digest = ?", number, digest)]

    def differences(self, number: int, theirs: set[bytes]) -> tuple[list[Pin], set[bytes]]:
        """Of a bucket: the records whose digests are not among theirs, and those of theirs that no record has."""
        ours = self.bucket_digests(number)
        return self.pick(number, ours - theirs), theirs - ours

    def newest_stamp(self) -> int:
        """The largest stamp of any record, 0 without one: where the node's clock has to go on."""
        with self._errors():
            newest = (self._db.execute(f"SELECT max(stamp) FROM pins WHERE {which}").fetchone()[0] for which in _PARTS)
            return max((stamp for stamp in newest if stamp is not None), default=0)

    def _select(self, where: str, *args: Any) -> list[Pin]:
        with self._errors():
            return [to_pin(row) for row in self._db.execute(f"SELECT {COLUMNS} FROM pins WHERE {where}", args)]

    def recall(self, key: str) -> str | None:
        """What was remembered under the key."""
        with self._errors():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def recall_all(self, prefix: str) -> dict[str, str]:
        """What was remembered under keys that begin so."""
        with self._errors():
            query = "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?"
            return dict(self._db.execute(query, (len(prefix), prefix)).fetchall())

    def remember(self, key: str, value: str) -> None:
        """Keep a small text, durably, in the place of the one before. Raises NoSpace."""
        self.remember_all({key: value})

    def remember_all(self, notes: Mapping[str, str]) -> None:
        """As `remember`, for all or none of them."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", notes.items())

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


def _is_text(name: str) -> bool:
    """Can it be written as UTF-8? SQLite takes nothing else, and no pin is called otherwise."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def to_pin(row: tuple[Any, ...]) -> Pin:
    """The record in a row of COLUMNS. Raises BadCid."""
    name, size, sha256, replicas, blocks, created, stamp, origin, removed = row[1:10]
    cid = CID.decode(row[0])
    return Pin(cid, name, size, sha256, replicas, blocks, created, stamp, origin, bool(removed))
