"""The words of a protocol line: one encoder and one decoder for each type of argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from p2pfs import errors
from p2pfs.core.cid import CID


def _decode_int(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 20:
        raise errors.ProtocolError(f"{word[:40]!r} is no whole number")
    return int(word)


def _decode_end(word: str) -> int | None:
    return None if word == "-" else _decode_int(word)


def encode_text(value: str | bytes) -> str:
    """Percent-encode to one printable word. Undecodable bytes of file names travel as surrogates.

    Raises UsageError for text with other surrogates, which stands for no bytes.
    """
    try:
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise errors.UsageError(f"{value!r} is no text: it has half of a character") from None
    return quote(raw, safe="/:@+,=~") or "%"


BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
"""A % that encodes nothing."""


def decode_text(word: str) -> str:
    """The text behind a word; ``%`` alone is the empty text. Raises ProtocolError."""
    return decode_bytes(word).decode("utf-8", "surrogateescape")


def decode_bytes(word: str) -> bytes:
    """The bytes behind a word; ``%`` alone is none. Raises ProtocolError."""
    if word == "%":
        return b""
    if BAD_ESCAPE.search(word):
        raise errors.ProtocolError(f"{word[:40]!r} has a % without two hex digits after it")
    return unquote_to_bytes(word)


def _decode_cid(word: str) -> CID:
    try:
        return CID.parse(word)
    except errors.BadCid as error:
        raise errors.ProtocolError(str(error)) from None


def _decode_mode(word: str) -> str:
    if word not in ("check", "renew"):
        raise errors.ProtocolError(f"{word[:40]!r} is neither check nor renew")
    return word


class Type(NamedTuple):
    """How an argument looks on the line."""

    name: str
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]


INT = Type("number", str, _decode_int)
END = Type("number or -", lambda value: "-" if value is None else str(value), _decode_end)
TEXT = Type("text", encode_text, decode_text)
NAME = Type("name", encode_text, decode_bytes)
CID_WORD = Type("CID", str, _decode_cid)
MODE = Type("check|renew", str, _decode_mode)
