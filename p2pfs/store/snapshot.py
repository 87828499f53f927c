"""The catalog as text: one JSON object a line, for a node that is alone with a broken database, and for
people.

The first line is a header, `{"format": "p2pfs-catalog", "records": N, "version": 1}`; the others are records
as `core.pins` writes them, tombstones among them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from p2pfs import errors
from p2pfs.core.pins import Pin
from p2pfs.store.files import sync_folder

FORMAT = "p2pfs-catalog"
VERSION = 1
MAX_LINE = 16 * 1024
"""Bytes of a line that is read; a record has at most some 8 KiB, with a name of escapes only."""


def write_snapshot(path: Path, pins: Iterable[Pin], count: int) -> None:
    """Replace the file with these `count` records, or leave it as it was. Durable on return. Raises NoSpace."""
    temporary = path.with_name(path.name + ".tmp")
    header = {"format": FORMAT, "version": VERSION, "records": count}
    try:
        with open(temporary, "wb") as file:
            file.write(json.dumps(header, sort_keys=True).encode("ascii") + b"\n")
            for pin in pins:
                file.write(pin.to_bytes() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(str(path.parent))
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise errors.NoSpace(f"cannot write the catalog's snapshot {path}: {error.strerror}") from error


def read_snapshot(path: Path) -> Iterator[Pin]:
    """The records of a snapshot. Raises NotFound without one; Malformed, after the good ones, at a bad line."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise errors.NotFound(f"no snapshot of the catalog: {path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        count = _read_header(path, file.readline(MAX_LINE))
        for number in range(2, count + 2):
            line = file.readline(MAX_LINE)
            try:
                yield Pin.from_wire(json.loads(line))
            except (ValueError, RecursionError, errors.ProtocolError) as error:
                raise errors.Malformed(f"{path}, line {number} of {count + 1}: {error}") from error


def _read_header(path: Path, line: bytes) -> int:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise errors.Malformed(f"{path} is no snapshot of a catalog")
    if header.get("version") != VERSION:
        raise errors.Malformed(f"{path} has version {header.get('version')!a}; this p2pfs reads {VERSION}")
    count = header.get("records")
    if type(count) is not int or count < 0:
        raise errors.Malformed(f"{path} does not say how many records it has")
    return count
