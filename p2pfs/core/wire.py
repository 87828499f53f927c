"""The wire protocol's grammar: one table of verbs, and the codec of request, record and reply lines.

Sans-I/O: lines in, values out. Bodies never pass through here, they go from socket to buffer directly
(`net/stream.py`). docs/PROTOCOL.md is the normative text; a test keeps its verb list equal to `VERBS`.

    request   VERB word... [length] CRLF [length bytes]
    reply     PART length CRLF bytes          (streaming verbs: none, one or many, before the last line)
              OK length CRLF bytes            (last line: done)
              ERR TOKEN text CRLF             (last line: not done; token of `p2pfs.errors`)

A new verb is one row here and one handler in `p2pfs/node/`.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

from p2pfs import errors
from p2pfs.core.rights import Right
from p2pfs.core.words import BAD_ESCAPE, CID_WORD, END, INT, MODE, NAME, TEXT, Type

VERSION = "p2pfs/1"
MAX_LINE = 8192
"""Bytes of a line, its CRLF included."""
MAX_BLOCK = 2 * 1024 * 1024
MAX_SMALL = 64 * 1024
"""Bytes of a small file or block: such travel together."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a body that is a message (JSON, lists of CIDs), not a block."""
MAX_PART = 1024 * 1024
"""Bytes of one PART, in requests and replies."""
MAX_LENGTH_DIGITS = 10


# --- the table ---------------------------------------------------------------------------------------

class Verb(NamedTuple):
    """One row: a request, or a record inside a request that streams."""

    name: str
    args: tuple[tuple[str, Type], ...]
    needs: Right
    """The rights without which it is refused."""
    help: str
    max_body: int | None = None
    """Largest body in bytes; None: the line has no length and no body follows."""
    is_control: bool = False
    """Small and urgent: travels on the peer's control connection, which bulk cannot starve."""
    takes_descriptor: bool = False
    """An open file comes with the line."""
    streams_in: bool = False
    streams_out: bool = False


def _table(*rows: Verb) -> dict[str, Verb]:
    return {row.name: row for row in rows}


READ, STORE, ADMINISTER, MEMBER, LOCAL = Right.READ, Right.STORE, Right.ADMINISTER, Right.MEMBER, Right.LOCAL

VERBS: dict[str, Verb] = _table(
    # between members, and for whoever checks a node by hand
    Verb("HELLO", (("version", TEXT), ("id", TEXT), ("instance", TEXT), ("time_ms", INT)), READ,
         "first words: who calls; the answer says who listens", is_control=True),
    Verb("PING", (), MEMBER, "SWIM probe; rows of news in both directions", MAX_MESSAGE, is_control=True),
    Verb("PINGREQ", (("id", TEXT),), MEMBER, "SWIM indirect probe: ping that member for me", is_control=True),
    Verb("MEMBERS", (), MEMBER, "push/pull of the whole membership table", MAX_MESSAGE, is_control=True),
    Verb("HAVE", (("mode", MODE),), MEMBER, "which of these blocks are here; renew their age or only check",
         MAX_MESSAGE),
    Verb("PUT", (("cid", CID_WORD),), MEMBER, "keep this block, durably", MAX_BLOCK),
    Verb("GET", (("cid", CID_WORD),), MEMBER, "that block's bytes"),
    Verb("PUTS", (), MEMBER, "keep these small blocks, durably", MAX_MESSAGE),
    Verb("GETS", (), MEMBER, "the bytes of those of these small blocks that are here", MAX_MESSAGE),
    Verb("DISCARD", (), MEMBER, "take back blocks of a store that failed, unless somebody asked for them since",
         MAX_MESSAGE),
    Verb("PIN", (), MEMBER, "merge these catalog records, durably", MAX_MESSAGE, is_control=True),
    Verb("DIGESTS", (), MEMBER, "digests of the catalog's 256 buckets", is_control=True),
    Verb("BUCKET", (("bucket", INT),), MEMBER, "what two nodes do not share of one bucket of the catalog", MAX_BLOCK,
         is_control=True, streams_out=True),
    Verb("HEALTH", (), MEMBER, "what this node's audit found: how many blocks lack copies, and what is left to do",
         is_control=True),
    # for users: the control socket, and clients with a certificate
    Verb("STORE", (), STORE, "keep a file, directory or stream, and pin it", MAX_MESSAGE, streams_in=True,
         streams_out=True),
    Verb("READ", (("ref", TEXT), ("offset", INT), ("length", END)), READ, "bytes of a file", streams_out=True),
    Verb("READS", (), READ, "the bytes of small files of one block each", MAX_MESSAGE),
    Verb("FETCH", (("ref", TEXT),), READ | LOCAL, "write a file into the descriptor that comes along",
         takes_descriptor=True, streams_out=True),
    Verb("LIST", (("ref", TEXT),), READ, "entries of a directory", streams_out=True),
    Verb("PINS", (), READ, "what is pinned", streams_out=True),
    Verb("STAT", (("ref", TEXT),), READ, "figures of a root or of something inside it"),
    Verb("EXPLAIN", (("ref", TEXT),), READ, "where each block should be and is", streams_out=True),
    Verb("UNPIN", (("ref", TEXT),), ADMINISTER, "remove pins"),
    Verb("IMPORT", (), STORE, "keep the blocks of a CAR and pin its roots", MAX_MESSAGE, streams_in=True,
         streams_out=True),
    Verb("EXPORT", (("ref", TEXT),), READ, "a root as CAR", streams_out=True),
    Verb("PEERS", (), READ, "every member, this node among them", streams_out=True),
    Verb("STATUS", (), READ, "health of node and cluster"),
    Verb("METRICS", (), READ, "all metrics as Prometheus text"),
    Verb("RESTORE", (("ref", TEXT),), STORE, "undo UNPIN, as long as the blocks are kept", streams_out=True),
    Verb("AUDIT", (), ADMINISTER, "compare the catalog with this node's disk now: repair, move", MAX_MESSAGE,
         streams_out=True),
    Verb("SCRUB", (), ADMINISTER, "re-read and re-hash every block of this node now", MAX_MESSAGE, streams_out=True),
    Verb("GC", (), ADMINISTER, "collect what no pin wants on this node, or only say what that would be", MAX_MESSAGE,
         streams_out=True),
    Verb("DRAIN", (), ADMINISTER, "give this node's shards to the others, or take them back", MAX_MESSAGE,
         streams_out=True),
    Verb("FORGET", (("member", TEXT),), ADMINISTER, "strike a dead member"),
    Verb("REVOKE", (("who", TEXT),), ADMINISTER, "refuse a member or a client, for good and on every node"),
    Verb("GRANT", (), ADMINISTER, "sign a certificate for a client", MAX_MESSAGE),
    Verb("INVITE", (), ADMINISTER, "open an invitation for a machine that is to join", MAX_MESSAGE),
    Verb("JOIN", (("version", TEXT), ("name", TEXT)), Right.JOIN, "what a machine needs to be a member"),
)

RECORDS: dict[str, Verb] = _table(
    Verb("FILE", (("name", NAME),), STORE, "a file follows: PARTs, then END"),
    Verb("SMALL", (("name", NAME),), STORE, "a small file; the body is all of it", MAX_SMALL),
    Verb("FD", (("name", NAME),), STORE | LOCAL, "a file: the descriptor that comes along", takes_descriptor=True),
    Verb("DIR", (("name", NAME),), STORE, "a directory follows: its entries, then END"),
    Verb("LINK", (("name", NAME),), STORE, "a symbolic link; the body is its target", 4096),
    Verb("PART", (), STORE, "the next bytes", MAX_PART),
    Verb("END", (), STORE, "what was begun last ends here"),
)
"""Lines inside a STORE or IMPORT request. Their rights are looked at where the request's are."""


class Line(NamedTuple):
    """A parsed request or record line."""

    verb: Verb
    args: tuple[Any, ...]
    length: int
    """Bytes of the body that follow; 0 where the verb has none."""


def format_line(verb: Verb, *args: Any, length: int | None = None) -> bytes:
    """The line for a request or record, CRLF included.

    Raises UsageError when it would be longer than MAX_LINE (a name or REF that is too long).
    """
    words = [verb.name]
    words += [kind.encode(value) for (_, kind), value in zip(verb.args, args, strict=True)]
    if verb.max_body is not None:
        words.append(str(length or 0))
    line = " ".join(words).encode("ascii") + b"\r\n"
    if len(line) > MAX_LINE:
        raise errors.UsageError(f"{verb.name}: an argument is too long: {len(line)} bytes, at most {MAX_LINE}")
    return line


def format_record(name: str, *args: Any, body: bytes | None = None) -> bytes:
    """A record as a whole, by its name."""
    return format_line(RECORDS[name], *args, length=None if body is None else len(body)) + (body or b"")


def parse_request(line: bytes) -> Line:
    """A request line, with or without its line end. Raises ProtocolError and its children only."""
    return _parse_line(line, VERBS)


def parse_record(line: bytes) -> Line:
    """A record line inside a streaming request. Raises ProtocolError and its children only."""
    return _parse_line(line, RECORDS)


def _parse_line(line: bytes, table: dict[str, Verb]) -> Line:
    name, *words = _split(line)
    verb = table.get(name)
    if verb is None:
        raise errors.UnknownVerb(f"{name[:40]!r} is not one of {' '.join(table)}")
    wanted = len(verb.args) + (verb.max_body is not None)
    if len(words) != wanted:
        raise errors.ProtocolError(f"{name} takes {wanted} words, not {len(words)}")
    if "" in words:
        raise errors.ProtocolError(f"{name}: words are separated by one space; the empty text is written %")
    args = tuple(kind.decode(word) for (_, kind), word in zip(verb.args, words, strict=False))
    length = 0 if verb.max_body is None else _parse_length(words[-1], verb.max_body, name)
    return Line(verb, args, length)


def _split(line: bytes) -> list[str]:
    text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise errors.ProtocolError("a line is printable ASCII; anything else is percent-encoded")
    return text.split(" ")


def _parse_length(word: str, limit: int, what: str) -> int:
    if not word.isdigit() or len(word) > MAX_LENGTH_DIGITS:
        raise errors.ProtocolError(f"{what}: {word[:40]!r} is no length")
    length = int(word)
    if length > limit:
        raise errors.TooBig(f"{what}: a body of {length} bytes, at most {limit}")
    return length


# --- replies -----------------------------------------------------------------------------------------

class Reply(NamedTuple):
    """A parsed reply line that is no error: is it the last one, and how many bytes follow."""

    is_last: bool
    length: int


def format_ok(length: int = 0) -> bytes:
    """The last line of a request that was done."""
    return b"OK %d\r\n" % length


def format_part(length: int) -> bytes:
    """The line before the next bytes of a streaming verb; the same in requests and replies."""
    return b"PART %d\r\n" % length


def format_error(error: errors.P2pfsError) -> bytes:
    """The last line of a request that was not done. The message is cut to what a line holds."""
    line = f"ERR {error.token} {encode_message(str(error))}"[: MAX_LINE - 2]
    if cut := BAD_ESCAPE.search(line):
        line = line[: cut.start()]
    return line.encode("ascii") + b"\r\n"


def encode_message(message: str) -> str:
    """Text for people, on one line: readable as it stands, what is not printable ASCII percent-encoded."""
    return quote(message.encode("utf-8", "replace"), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def parse_reply(line: bytes, max_body: int = MAX_BLOCK) -> Reply:
    """A reply line. Raises the error that an ERR line stands for, or ProtocolError for anything else.

    `max_body` is for the last line; a PART has its own limit.
    """
    kind, *words = _split(line)
    if kind == "ERR" and words:
        raise errors.from_wire(words[0], unquote_to_bytes(" ".join(words[1:])).decode("utf-8", "replace"))
    if kind not in ("OK", "PART") or len(words) != 1:
        raise errors.ProtocolError(f"{line[:40]!r} is no reply")
    return Reply(kind == "OK", _parse_length(words[0], max_body if kind == "OK" else MAX_PART, kind))


# --- messages ----------------------------------------------------------------------------------------

J = TypeVar("J", dict[str, Any], list[Any])


def parse_json(body: bytes, shape: type[J]) -> J:
    """A message body: UTF-8 JSON of the wanted outer shape. Raises ProtocolError for anything else."""
    try:
        # NaN and Infinity, which Python would take, are no JSON, and no comparison with them is what it seems.
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise errors.ProtocolError(f"a body is no JSON: {str(error)[:80]}") from None
    if not isinstance(value, shape):
        raise errors.ProtocolError(f"a body is JSON, but no {shape.__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        _refuse_constant(text)  # 1e999 is Infinity in other words
    return value


def dump_json(value: Any) -> bytes:
    """Compact JSON; file names with undecodable bytes keep them as escaped surrogates."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
