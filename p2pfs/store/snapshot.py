"""The catalog as text (`catalog.jsonl`), for a node that is alone with a broken database, and for people.

One JSON object a line. The first is a header, `{"format": "p2pfs-catalog", "meta": {...}, "records": N, "version": 2,
"whole": 1}`; N records follow as `core.pins` writes them, tombstones among them: the snapshot. Then, as a journal, each
record that was merged since; where one could not be added, `whole` is 0 until the file is written anew. Whoever reads
it merges all records in any order; the newest of each key holds anyway.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2pfs import errors
from p2pfs.core.pins import Pin
from p2pfs.store.files import TEMP_ENDING, sync_folder

log = logging.getLogger(__name__)

FORMAT = "p2pfs-catalog"
VERSION = 2
"""Version 1 had no journal and no `meta`; it is read as well."""
_WHOLE, _NOT_WHOLE = b'"whole": 1}\n', b'"whole": 0}\n'
"""How a header ends. One digit is overwritten where it lies: that takes no room, which may be what lacks."""
MAX_LINE = 1024 * 1024
"""Bytes of a line that is read; a record has at most some 8 KiB, a header 100 bytes a member."""


def write_snapshot(path: Path, pins: Iterable[Pin], count: int, meta: Mapping[str, str] | None = None) -> None:
    """Replace the file with these `count` records, or leave it as it was. Durable on return. Raises NoSpace."""
    temporary = path.with_name(path.name + TEMP_ENDING)
    try:
        with open(temporary, "wb") as file:
            file.write(_header(count, meta or {}))
            for pin in pins:
                file.write(pin.to_bytes() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(str(path.parent))
    except OSError as error:
        raise errors.NoSpace(f"cannot write the catalog's snapshot {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _header(count: int, meta: Mapping[str, str]) -> bytes:
    header = {"format": FORMAT, "version": VERSION, "records": count, "meta": dict(meta)}
    return json.dumps(header, sort_keys=True).encode("ascii").removesuffix(b"}") + b", " + _WHOLE


def read_snapshot(
    path: Path, on_bad: Callable[[str], None], on_meta: Callable[[dict[str, Any]], None] = lambda meta: None
) -> Iterator[Pin]:
    """The records, in the order of the file; the header's `meta` is told before.

    `on_bad` is told of each line that cannot be read, and when some were never written; the others still count, and a
    last one that has no end is that of a write which was cut off. Raises NotFound without a file; Malformed when
    something else or of a later version.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise errors.NotFound(f"no snapshot of the catalog: {path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        header = file.readline(MAX_LINE)
        on_meta(_read_header(path, header))
        if header.endswith(_NOT_WHOLE):
            on_bad(f"{path}: some records could not be added to it")
        number = 1
        while line := file.readline(MAX_LINE):
            number += 1
            try:
                yield Pin.from_wire(json.loads(line))
            except (ValueError, RecursionError, errors.ProtocolError) as error:
                if line.endswith(b"\n") or len(line) == MAX_LINE:
                    on_bad(f"{path}, line {number}: {error}")


def _read_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise errors.Malformed(f"{path} is no snapshot of a catalog")
    if header.get("version") not in (1, VERSION):
        raise errors.Malformed(f"{path} has version {header.get('version')!a}; this p2pfs reads {VERSION}")
    meta = header.get("meta", {})
    return meta if isinstance(meta, dict) else {}


class Journal:
    """Appends to a snapshot. What is durable is the database: nothing is synced here, and no failure stops a merge."""

    def __init__(self, path: Path, lines: int | None = None) -> None:
        self.path = path
        self.lines = lines or 0
        """Records in the file; meaningful while it is current."""
        self.is_current = lines is not None
        """All that the catalog knows is in it; if not, it wants to be rewritten."""
        self._fd: int | None = None

    def append(self, pins: Iterable[Pin]) -> None:
        """Add records, in one write. A failure is logged and makes the journal one that is not current, or whole."""
        data = b"".join(pin.to_bytes() + b"\n" for pin in pins)
        try:
            fd = self._open()
            before = os.fstat(fd)
            if not before.st_nlink:
                raise OSError(errno.ENOENT, "it was removed")
            if os.pwrite(fd, data, before.st_size) != len(data):
                os.ftruncate(fd, before.st_size)
                raise OSError(errno.ENOSPC, "the disk is full")
            self.lines += data.count(b"\n")
        except OSError as error:
            if self.is_current:
                log.error("the catalog's journal %s is not current: %s; it is written anew", self.path, error.strerror)
            self.is_current = False
            self._mark()

    def _mark(self) -> None:
        """Say in the file that it is not whole: read before it is written anew, it must not pass for it."""
        try:
            fd = self._open()
            header = os.pread(fd, MAX_LINE, 0).partition(b"\n")[0] + b"\n"
            if header.endswith(_WHOLE):
                os.pwrite(fd, _NOT_WHOLE, len(header) - len(_NOT_WHOLE))
                os.fdatasync(fd)
        except OSError as error:
            log.error("the catalog's journal %s cannot be marked as not whole: %s", self.path, error.strerror)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            size = os.fstat(self._fd).st_size
            if not size:
                os.pwrite(self._fd, _header(0, {}), 0)
            elif os.pread(self._fd, 1, size - 1) != b"\n":
                os.pwrite(self._fd, b"\n", size)
        return self._fd

    def rewrite(self, pins: Iterable[Pin], count: int, meta: Mapping[str, str]) -> None:
        """Make a snapshot of these records the file, durably. Raises NoSpace, and the file is as it was."""
        write_snapshot(self.path, pins, count, meta)
        self._let_go()
        self.lines, self.is_current = count, True

    def sync(self) -> int:
        """Make what was appended durable; returns the size of the file in bytes. Raises NoSpace."""
        try:
            fd = self._open()
            os.fsync(fd)
            return os.fstat(fd).st_size
        except OSError as error:
            raise errors.NoSpace(f"cannot sync the catalog's journal {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is appended any more."""
        self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
