"""Targets: what a link leads to. The link's text, segments of a sealed stream, the index of an encrypted directory."""

from __future__ import annotations

from typing import NamedTuple

from p2pfs.crypt import index, is_link, segments, without_key
from p2pfs.crypt.index import Row
from p2pfs.crypt.links import Link
from p2pfs.crypt.segments import HEADER_BYTES, KEY_BYTES, SEGMENT_BYTES, Cipher

KEY = bytes(range(KEY_BYTES))
"""Of all sealed inputs in the corpus: an attacker who does not know it gets nowhere."""
PLAIN = (b"", b"p2pfs", b"a longer text " * 300)
"""What was sealed under it."""


class Told(NamedTuple):
    """A link, and the text that it was read from."""

    link: Link
    text: str


def parse_link(data: bytes) -> Told:
    """A link as a user gives it."""
    text = data.decode("utf-8", "surrogateescape")
    return Told(Link.parse(text), text)


def check_link(told: Told) -> None:
    """It says the same again, its key has one spelling, and what may be shown is without it."""
    link, text = told
    assert is_link(text) and Link.parse(str(link)) == link
    fragment = str(link).rpartition("#")[2]
    assert text.endswith("#" + fragment)
    for shown in (link.public, repr(link), without_key(text)):
        # A name may hold any text, the key's as well.
        assert fragment not in shown or text.count(fragment) > 1


def parse_sealed(data: bytes) -> bytes:
    """The plain bytes of a sealed stream, as a client opens it that got this from a node."""
    size = segments.plain_size(len(data))
    cipher, sealed = Cipher(KEY, data[:HEADER_BYTES]), memoryview(data)
    out = memoryview(bytearray(min(len(data), SEGMENT_BYTES)))
    return b"".join(
        bytes(cipher.open(one, sealed[one.sealed_start : one.sealed_start + one.sealed_length], out))
        for one in segments.segments(size)
    )


def check_sealed(plain: bytes) -> None:
    """It is what was sealed under the key, and nothing that an attacker made of it."""
    assert plain in PLAIN


def parse_index(data: bytes) -> list[Row]:
    """The rows of an index, that came in two pieces. It is authentic: whoever has the key may have written it."""
    half = len(data) // 2
    return list(index.read_rows([data[:half], data[half:]]))


def check_index(rows: list[Row]) -> None:
    """It can be written and read again, what is in it is found, and no name leads out of its directory."""
    again = index.head_line() + b"".join(map(index.row_line, rows))
    assert parse_index(again) == rows
    assert sum({"enter": 1, "leave": -1}.get(row.kind, 0) for row in rows) == 0
    for row in rows:
        assert row.kind == "leave" or (row.name not in ("", ".", "..") and not set("/\0") & set(row.name))
    assert len(list(index.inside(rows))) == len(rows)
    if rows and rows[0].kind != "leave":
        assert index.find(rows, (rows[0].name,)) == rows[0]
