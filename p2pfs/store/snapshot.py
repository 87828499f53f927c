"""The catalog as text (`catalog.jsonl`), for a node that is alone with a broken database, and for people.

One JSON object a line. The first is a header, `{"format": "p2pfs-catalog", "meta": {...}, "records": N, "version": 2,
"whole": 1}`; N records follow as `core.pins` writes them, tombstones among them: the snapshot. Then, as a journal, each
record that was merged since; where one could not be added, `whole` is 0 until the file is written anew. Whoever reads
it merges all records in any order; the newest of each key holds anyway.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

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
"""Bytes of a line that is read; a record has at most some 8 KiB."""
MAX_HEADER = 16 * 1024 * 1024
"""The same of the first one: its notes take some 100 bytes for each member that this node ever compared with, and up to
170 for each of the thousands that others may tell of."""


SYNC_BYTES = 8 * 1024 * 1024
"""A snapshot is synced each so often, so that its end does not take long."""


class Snapshot:
    """A file of records that takes the place of the one at `path` when it is complete. Every call raises NoSpace."""

    def __init__(self, path: Path, count: int, meta: Mapping[str, str]) -> None:
        """`count`: how many records there are now; more may be added, of those that come meanwhile."""
        self._path = path
        self._temporary = path.with_name(path.name + TEMP_ENDING)
        self.lines = 0
        """Records that were added."""
        self._unsynced = 0
        with self._errors():
            self._file = open(self._temporary, "wb")  # noqa: SIM115  closed by close()
            self._file.write(_header(count, meta))

    def add(self, pins: Iterable[Pin]) -> None:
        """Add records."""
        with self._errors():
            for pin in pins:
                self._unsynced += self._file.write(pin.to_bytes() + b"\n")
                self.lines += 1
            if self._unsynced > SYNC_BYTES:
                self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def finish(self) -> None:
        """Replace the other file. Durable on return."""
        with self._errors():
            self._sync()
            os.replace(self._temporary, self._path)
            sync_folder(str(self._path.parent))
            self._file.close()

    def close(self) -> None:
        """Without `finish`, nothing is left of it."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # what was not written yet, on a full disk
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.NoSpace(f"cannot write the catalog's snapshot {self._path}: {error.strerror}") from error


def write_snapshot(path: Path, pins: Iterable[Pin], count: int, meta: Mapping[str, str] | None = None) -> None:
    """Replace the file with these `count` records, or leave it as it was. Durable on return. Raises NoSpace."""
    with contextlib.closing(Snapshot(path, count, meta or {})) as snapshot:
        snapshot.add(pins)
        snapshot.finish()


def _header(count: int, meta: Mapping[str, str], ending: bytes = _WHOLE) -> bytes:
    header = {"format": FORMAT, "version": VERSION, "records": count, "meta": dict(meta)}
    return json.dumps(header, sort_keys=True).encode("ascii").removesuffix(b"}") + b", " + ending


def read_snapshot(
    path: Path, on_bad: Callable[[str], None], on_meta: Callable[[dict[str, str]], None] = lambda meta: None
) -> Iterator[Pin]:
    """The records, in the order of the file; the header's `meta` is told before.

    `on_bad` is told of each line that cannot be read, and when some were never written; the others still count, and a
    last one that has no end is that of a write which was cut off. Where the disk fails, it is told so, and that is all
    there is. Raises NotFound without a file; Malformed when something else or of a later version.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise errors.NotFound(f"no snapshot of the catalog: {path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        lines = _lines(path, file, on_bad)
        header = next(lines, b"")
        on_meta(_read_header(path, header))
        if header.endswith(_NOT_WHOLE):
            on_bad(f"{path}: some records could not be added to it")
        for number, line in enumerate(lines, 2):
            try:
                yield Pin.from_wire(json.loads(line))
            except (ValueError, RecursionError, errors.ProtocolError) as error:
                if line.endswith(b"\n") or len(line) == MAX_LINE:
                    on_bad(f"{path}, line {number}: {error}")


def _lines(path: Path, file: BinaryIO, on_bad: Callable[[str], None]) -> Iterator[bytes]:
    most = MAX_HEADER
    try:
        while line := file.readline(most):
            yield line
            most = MAX_LINE
    except OSError as error:
        on_bad(f"{path} cannot be read to its end: {error.strerror}")


def _read_header(path: Path, line: bytes) -> dict[str, str]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise errors.Malformed(f"{path} is no snapshot of a catalog")
    if header.get("version") not in (1, VERSION):
        raise errors.Malformed(f"{path} has version {header.get('version')!a}; this p2pfs reads {VERSION}")
    meta = header.get("meta", {})
    texts = meta.items() if isinstance(meta, dict) else ()
    return {key: value for key, value in texts if isinstance(value, str) and (key + value).isascii()}


class Journal:
    """Appends to a snapshot. What is durable is the database: nothing is synced here, and no failure stops a merge."""

    def __init__(self, path: Path, lines: int | None = None) -> None:
        self.path = path
        self.lines = lines or 0
        """Records in the file; meaningful while it is current."""
        self.is_current = lines is not None
        """All that the catalog knows is in it; if not, it wants to be rewritten."""
        self._fd: int | None = None
        self._next: Snapshot | None = None
        """What is being written to replace it."""

    def append(self, pins: Collection[Pin]) -> None:
        """Add records, in one write. A failure is logged and makes the journal one that is not current, or whole."""
        if self._next is not None:
            try:
                self._next.add(pins)
            except errors.NoSpace as error:
                log.warning("the catalog's journal is not written anew: %s", error)
                self._abandon()
        data = b"".join(pin.to_bytes() + b"\n" for pin in pins)
        try:
            fd = self._open()
            before = os.fstat(fd)
            if not before.st_nlink:
                self._let_go()  # what is there now, or comes, is another file: that one lacks these records
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
            header = os.pread(fd, MAX_HEADER, 0).partition(b"\n")[0] + b"\n"
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
                os.pwrite(self._fd, _header(0, {}, _NOT_WHOLE), 0)  # nobody knows what was in it
            elif os.pread(self._fd, 1, size - 1) != b"\n":
                os.pwrite(self._fd, b"\n", size)
        return self._fd

    def rewrite(self, pages: Iterable[list[Pin]], count: int, meta: Mapping[str, str]) -> Iterator[int]:
        """Make a snapshot of these records the file, a page at a time; what is appended meanwhile is in it, too.

        Yields the number of records that are written; the file is replaced, durably, at the end. Raises NoSpace, and
        the file is as it was. To begin again ends it, and so does `spoil`.
        """
        self._abandon()
        mine = self._next = Snapshot(self.path, count, meta)
        try:
            for page in pages:
                if self._next is not mine:
                    return
                mine.add(page)
                yield mine.lines
            if self._next is mine:
                mine.finish()
                self._let_go()
                self.lines, self.is_current = mine.lines, True
        finally:
            if self._next is mine:
                self._abandon()

    def spoil(self) -> None:
        """It holds what the catalog no longer knows: it wants to be rewritten, from the beginning."""
        self.is_current = False
        self._abandon()

    def _abandon(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None

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
        self._abandon()
        self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
