"""Several small blocks in one body (PUTS, GETS, READS, DISCARD), and what became of each (the answer to PUTS).

    blocks    = *( CID SP length LF bytes )
    tokens    = CID SP token *( LF CID SP token )
    outcomes  = *( ( "old" / "new" SP token / "ERR" SP TOKEN SP text ) LF )
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID

MOST = 128
"""Blocks in one body; together they have at most `wire.MAX_MESSAGE` bytes, their heads included."""
MOST_TOKENS = 4096
"""Lines of a DISCARD."""
BYTES = 512 * 1024
"""What a body of blocks is filled up to by who makes one."""
HEAD_BYTES = 160
"""No head of a block is longer."""
_TEXT_CHARS = 300


def weight(size: int) -> int:
    """What a block of that size adds to a batch that weighs at most `BYTES`, so that it has at most `MOST` of them."""
    return max(BYTES // MOST, size + HEAD_BYTES)


def pack(blocks: Iterable[tuple[CID, bytes | memoryview]]) -> bytes:
    """Blocks as a body."""
    pieces: list[bytes | memoryview] = []
    for cid, data in blocks:
        pieces += (b"%s %d\n" % (str(cid).encode("ascii"), len(data)), data)
    return b"".join(pieces)


def unpack(body: memoryview) -> list[tuple[CID, memoryview]]:
    """The blocks of a body, unverified, as views of it. Raises ProtocolError and its children."""
    blocks: list[tuple[CID, memoryview]] = []
    at = 0
    while at < len(body):
        head, line_end, _ = bytes(body[at : at + HEAD_BYTES]).partition(b"\n")
        word, _, length = head.partition(b" ")
        if not line_end or not length.isdigit() or len(length) > wire.MAX_LENGTH_DIGITS:
            raise errors.ProtocolError(f"{head[:80]!r} is not CID and length")
        if len(blocks) == MOST:
            raise errors.TooBig(f"over {MOST} blocks in one body")
        at += len(head) + 1
        end = at + int(length)
        if int(length) > wire.MAX_SMALL or end > len(body):
            raise errors.TooBig(f"a block of {int(length)} bytes in a body of {len(body)}, at most {wire.MAX_SMALL}")
        blocks.append((parse_cid(word), body[at:end]))
        at = end
    return blocks


def pack_cids(cids: Iterable[CID]) -> bytes:
    """A list of CIDs as a body: one a line."""
    return "\n".join(map(str, cids)).encode("ascii")


def unpack_cids(body: bytes, most: int) -> list[CID]:
    """The CIDs of a body. Raises ProtocolError and its children."""
    words = body.split(b"\n")
    if len(words) > most:
        raise errors.TooBig(f"{len(words)} CIDs, at most {most}")
    return [parse_cid(word) for word in words]


def pack_tokens(tokens: Iterable[tuple[CID, int]]) -> bytes:
    """Blocks with their age tokens as the body of a DISCARD: one a line."""
    return "\n".join(f"{cid} {token}" for cid, token in tokens).encode("ascii")


def unpack_tokens(body: bytes) -> list[tuple[CID, int]]:
    """The blocks and age tokens of a body. Raises ProtocolError and its children."""
    rows = body.split(b"\n")
    if len(rows) > MOST_TOKENS:
        raise errors.TooBig(f"{len(rows)} blocks to discard, at most {MOST_TOKENS}")
    tokens: list[tuple[CID, int]] = []
    for row in rows:
        cid, _, token = row.partition(b" ")
        if not token.isdigit() or len(token) > 20:
            raise errors.ProtocolError(f"{row[:80]!r} is not CID and TOKEN")
        tokens.append((parse_cid(cid), int(token)))
    return tokens


def parse_cid(word: bytes) -> CID:
    """A CID in a body. Raises ProtocolError."""
    try:
        return CID.parse(word.decode("ascii"))
    except (errors.BadCid, UnicodeDecodeError):
        raise errors.ProtocolError(f"{word[:80]!r} is no CID") from None


def format_outcome(outcome: int | errors.P2pfsError | None) -> bytes:
    """What became of a put: its age token when it is new, None when it was there, or why it failed."""
    if outcome is None:
        return b"old"
    if isinstance(outcome, int):
        return b"new %d" % outcome
    return f"ERR {outcome.token} {wire.encode_message(str(outcome)[:_TEXT_CHARS])}".encode("ascii")


def parse_outcome(text: bytes) -> int | errors.P2pfsError | None:
    """The opposite. Raises ProtocolError for what is none of the three."""
    word, _, rest = text.partition(b" ")
    if text == b"old":
        return None
    if word == b"new" and rest.isdigit() and len(rest) <= 20:
        return int(rest)
    if word == b"ERR" and rest:
        try:
            wire.parse_reply(text)
        except errors.P2pfsError as error:
            return error
    raise errors.ProtocolError(f"{text[:40]!r} does not tell what became of a block")


def format_outcomes(outcomes: Iterable[int | errors.P2pfsError | None]) -> bytes:
    """A line for each."""
    return b"\n".join(map(format_outcome, outcomes))


def parse_outcomes(body: bytes, count: int) -> list[int | errors.P2pfsError | None]:
    """Just so many of them. Raises ProtocolError."""
    lines = body.split(b"\n")
    if len(lines) != count:
        raise errors.ProtocolError(f"{len(lines)} lines tell what became of {count} blocks")
    return [parse_outcome(line) for line in lines]
