"""The index of an encrypted directory: names, structure, sizes and keys, as JSON lines.

    {"p2pfs": "index", "version": 1}
    {"dir": NAME}                               what follows is in it, up to
    {"end": true}
    {"file": NAME, "size": N, "key": BASE64}    its bytes are the sealed stream of the next number, from 0
    {"link": NAME, "target": TEXT}

The root itself has no line. Names are UTF-8; bytes of a target that are not travel as lone surrogates.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from p2pfs import errors
from p2pfs.core.directory import MAX_TARGET_BYTES, check_name
from p2pfs.crypt.segments import KEY_BYTES

CONTEXT = b"p2pfs 1 index"
"""Of the index's stream: no file passes for an index, and no index for a file."""
NAME = "index"
"""Under which the root holds it."""
GROUP = 1024
"""Sealed files in one folder of the root."""
MAX_DEPTH = 256
MAX_LINE_BYTES = 64 * 1024
"""A target of 4096 bytes, escaped, and some."""
MAX_SIZE = 2**53
_HEAD: dict[str, Any] = {"p2pfs": "index", "version": 1}
_SHAPES = {
    ("dir",): "enter", ("end",): "leave", ("file", "key", "size"): "file", ("link", "target"): "symlink",
}


class Row(NamedTuple):
    """A line of the index; "enter" and "leave" stand around what is in a directory."""

    kind: Literal["enter", "file", "symlink", "leave"]
    name: str = ""
    size: int = 0
    key: bytes = b""
    target: str = ""
    number: int = -1
    """Of a file: its sealed stream is `place(number)` below the root."""

    @property
    def type(self) -> str:
        """As directories call it."""
        return "directory" if self.kind == "enter" else self.kind


def place(number: int) -> str:
    """Where the root holds the sealed stream of a file."""
    return f"{number // GROUP}/{number % GROUP}"


def head_line() -> bytes:
    """The first line."""
    return _line(_HEAD)


def row_line(row: Row) -> bytes:
    """The line of a row."""
    if row.kind == "enter":
        return _line({"dir": row.name})
    if row.kind == "leave":
        return _line({"end": True})
    if row.kind == "symlink":
        return _line({"link": row.name, "target": row.target})
    return _line({"file": row.name, "size": row.size, "key": base64.b64encode(row.key).decode("ascii")})


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def read_rows(pieces: Iterable[bytes]) -> Iterator[Row]:
    """The rows of an index that comes in pieces, numbered. Raises Malformed for anything that is none.

    Whoever has the key may have written it: names are checked here as those of any stranger's directory.
    """
    depth = number = 0
    lines = _lines(pieces)
    if _parse(next(lines, b"")) != _HEAD:
        raise errors.Malformed("the index of an encrypted directory begins with another line than this version knows")
    for line in lines:
        row = _row(_parse(line))
        depth += {"enter": 1, "leave": -1}.get(row.kind, 0)
        if not 0 <= depth <= MAX_DEPTH:
            raise errors.Malformed(f"the index of an encrypted directory is {depth} directories deep")
        if row.kind == "file":
            row = row._replace(number=number)
            number += 1
        yield row
    if depth:
        raise errors.Malformed("the index of an encrypted directory ends in the middle of a directory")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        raise errors.Malformed("a line of an encrypted directory's index does not end")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise errors.Malformed("a line of an encrypted directory's index is no JSON, or too long") from None
    if not isinstance(row, dict):
        raise errors.Malformed("a line of an encrypted directory's index is no object")
    return row


def _row(row: dict[str, Any]) -> Row:
    try:
        kind = _SHAPES[tuple(sorted(row))]
        if kind == "leave":
            if row["end"] is not True:
                raise ValueError("an end")
            return Row("leave")
        name = _text(row[{"enter": "dir", "file": "file", "symlink": "link"}[kind]])
        check_name(name.encode("utf-8"))
        if kind == "enter":
            return Row("enter", name)
        if kind == "symlink":
            return Row("symlink", name, target=_target(row["target"]))
        if type(row["size"]) is not int or not 0 <= row["size"] <= MAX_SIZE:
            raise ValueError("a size")
        key = base64.b64decode(_text(row["key"]), validate=True)
        if len(key) != KEY_BYTES:
            raise ValueError("a key")
        return Row("file", name, row["size"], key)
    except (KeyError, ValueError, binascii.Error, errors.UsageError) as error:
        # What the line says stays inside: it may be a key.
        reason = str(error) if isinstance(error, errors.UsageError) else "it is no line that this version knows"
        raise errors.Malformed(f"a line of an encrypted directory's index: {reason}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _target(value: object) -> str:
    target = _text(value)
    raw = target.encode("utf-8", "surrogateescape")
    if not raw or len(raw) > MAX_TARGET_BYTES or b"\0" in raw:
        raise ValueError("a target")
    return target


def find(rows: Iterable[Row], path: tuple[str, ...]) -> Row | None:
    """The row that a path names; what follows it is in it when it is a directory. None when there is none."""
    followed = beside = 0
    for row in rows:
        if row.kind == "leave":
            if not beside:
                return None
            beside -= 1
        elif not beside and row.name == path[followed]:
            if followed == len(path) - 1:
                return row
            if row.kind != "enter":
                return None
            followed += 1
        elif row.kind == "enter":
            beside += 1
    return None


def inside(rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """(depth, row) of what is in the directory that rows are in now, up to its end; 0 is directly in it."""
    depth = 0
    for row in rows:
        if row.kind == "leave":
            depth -= 1
            if depth < 0:
                return
        yield depth, row
        if row.kind == "enter":
            depth += 1
