"""Room for removing pins when not a byte of the disk is free any more: for that is what makes room.

A change of the catalog is written to SQLite's log, and from there to its file. Pages of both that are there already,
and are used again, take thousands of changes. A clean stop removes the log; so beside it there is a file to give up at
the next start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

ROOM_PAGES = 128
"""So many pages of the file are free, and so many of the log taken, before it is used again from its begin."""
RESERVE_BYTES = 2 * 1024 * 1024
_PAGE_BYTES = 4096
_SPARE_PAGES = 16
"""For what making room takes itself, in the log and for its index."""
_LEAST_PAGES = 16
"""Fewer would not take the removal of one pin."""


def keep_room(db: sqlite3.Connection, path: Path) -> None:
    """Take room in the file and in its log, and then for the reserve; as much of it as the disk has."""
    reserve = reserve_of(path)
    db.execute(f"PRAGMA wal_autocheckpoint = {ROOM_PAGES}")
    with contextlib.suppress(sqlite3.OperationalError):  # the disk is full already
        db.execute("DROP TABLE IF EXISTS room")  # left when a node was killed below
        if _has_room(db, path) or _take_room(db, _affordable(db, path)):
            with contextlib.suppress(OSError), reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def reserve_of(path: Path) -> Path:
    """The file beside the database that a start gives up."""
    return path.with_name(path.name + ".reserve")


def _free_pages(db: sqlite3.Connection) -> int:
    count: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    return count


def _has_room(db: sqlite3.Connection, path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return _free_pages(db) >= ROOM_PAGES and wal.exists() and wal.stat().st_size >= 2 * ROOM_PAGES * _PAGE_BYTES


def _affordable(db: sqlite3.Connection, path: Path) -> int:
    """How many pages may be taken: each is one of the log, and one of the file where none is free there."""
    disk = os.statvfs(path.parent)
    left = disk.f_bavail * disk.f_frsize // _PAGE_BYTES - _SPARE_PAGES
    return min(2 * ROOM_PAGES, left, (left + _free_pages(db)) // 2)


def _take_room(db: sqlite3.Connection, pages: int) -> bool:
    """Fill pages of the log and of the file, and let go of them. False when that would be too few to be of use.

    In two transactions: SQLite does not write pages that are made and given up in one.
    """
    if pages < _LEAST_PAGES:
        db.execute("PRAGMA wal_autocheckpoint = 1")
        return False
    db.execute(f"PRAGMA wal_autocheckpoint = {pages // 2}")
    db.execute("CREATE TABLE room AS SELECT zeroblob(?) AS x", ((pages - 2) * _PAGE_BYTES,))
    db.execute("DROP TABLE room")
    db.execute("PRAGMA wal_checkpoint(RESTART)")
    return True
