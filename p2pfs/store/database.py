"""Open the catalog's SQLite file: locked for this process, checked, with its tables; or say what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from p2pfs import errors
from p2pfs.store import layout
from p2pfs.store.room import keep_room, reserve_of

SCHEMA = 1
APPLICATION_ID = 0x70327066
"""`p2pf`: what `file` shows, and what tells the catalog from another program's database."""
_TABLES = """
CREATE TABLE pins (
    cid BLOB NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT, replicas INTEGER NOT NULL,
    blocks INTEGER NOT NULL, created INTEGER NOT NULL, stamp INTEGER NOT NULL, origin TEXT NOT NULL,
    removed INTEGER NOT NULL, bucket INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (cid, name)
) WITHOUT ROWID;
CREATE INDEX pins_by_age ON pins (stamp DESC, cid, name) WHERE NOT removed;
CREATE INDEX pins_by_name ON pins (name, stamp DESC) WHERE NOT removed;
CREATE INDEX pins_by_sha256 ON pins (sha256, stamp DESC) WHERE NOT removed AND sha256 IS NOT NULL;
CREATE INDEX pins_by_bucket ON pins (bucket, digest);
"""
FRESH = "fresh"
"""Key of `meta`: the tables were made, and nobody said yet that what there was to read into them is there."""
_LATER = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tombstones_by_age ON pins (stamp DESC, cid, name) WHERE removed;
"""
"""Came after the first release. A version that does not know them can use the file all the same: no new SCHEMA."""


_NO_TEXT = "Could not decode to UTF-8"
"""What Python's sqlite3 says, with no code of SQLite's, of a text that is none: nobody wrote it so."""


class Damaged(Exception):
    """The file is no database, or a broken one."""


def open_database(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The database, locked and checked; and whether nothing was read into it yet (`has_begun`).

    Raises Damaged; Refused when it is in use, another program's or a later version's; NoSpace when it cannot be made.
    """
    reserve_of(path).unlink(missing_ok=True)
    try:
        db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise errors.NoSpace(f"cannot open the catalog {path}: {error}") from error
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        is_made = _is_empty(db)
        if not is_made:
            _refuse_foreign(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA temp_store = MEMORY")  # nothing is written outside the data directory
        # In this locking mode the first write takes the lock, and only closing gives it back.
        db.execute("BEGIN IMMEDIATE")
        if is_made:
            _make_tables(db)
        _run(db, _LATER)
        if is_made:
            db.execute("INSERT INTO meta VALUES (?, 'yes')", (FRESH,))
        db.execute("COMMIT")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise Damaged(verdict)
        keep_room(db, path)
        return db, db.execute("SELECT 1 FROM meta WHERE key = ?", (FRESH,)).fetchone() is not None
    except sqlite3.DatabaseError as error:
        db.close()
        if is_damage(error):
            raise Damaged(str(error)) from error
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise errors.Refused(f"another process has {path} open; does a node run here?") from error
        raise errors.NoSpace(f"cannot open the catalog {path}: {error}") from error
    except BaseException:
        db.close()
        raise


def has_begun(db: sqlite3.Connection) -> None:
    """What there was to read into a new database is in it."""
    db.execute("DELETE FROM meta WHERE key = ?", (FRESH,))


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """Before the first byte is written: is it ours?"""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise errors.Refused(f"{path} is a database of another program; set another data_dir")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA:
        raise errors.Refused(f"{path} has schema {version}, this p2pfs knows {SCHEMA}; install the later one")


def _make_tables(db: sqlite3.Connection) -> None:
    _run(db, _TABLES)
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _run(db: sqlite3.Connection, script: str) -> None:
    """The statements of a script, in the transaction that is open (`executescript` would end it)."""
    for statement in filter(str.strip, script.split(";")):
        db.execute(statement)


def quarantine(path: Path) -> Path:
    """Move the database, with its log, out of the way; returns where it is now. Raises NoSpace."""
    folder = path.parent / layout.QUARANTINE
    try:
        folder.mkdir(exist_ok=True)
        number = 1
        while (folder / f"{path.name}.{number}").exists():
            number += 1
        target = folder / f"{path.name}.{number}"
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                os.replace(part, target.with_name(target.name + suffix))
    except OSError as error:
        raise errors.NoSpace(f"cannot move {path} to quarantine: {error.strerror}") from error
    return target


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Is it the file that is broken, not the disk that is full or the lock that is taken?"""
    if _NO_TEXT in str(error):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
