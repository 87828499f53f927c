"""Targets: the bodies of requests and answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

from p2pfs import errors
from p2pfs.client import answers, parsing, reports
from p2pfs.core import batches, dag, pins, wire, words
from p2pfs.core.cid import CID
from p2pfs.core.hlc import MAX_STAMP
from p2pfs.core.member import Member, news_from_wire, news_to_wire
from p2pfs.core.membership import Membership, Timing
from p2pfs.core.pins import Pin
from p2pfs.node import refs, storing, upkeep_verbs
from p2pfs.node.health import Checkup
from p2pfs.node.levelling import format_digests, parse_digests
from p2pfs.node.levels import parse_seen
from p2pfs.store.catalog import Digests

News = tuple[Member, list[Member]]
SHAPES: list[Any] = [
    shape for module in (answers, reports) for name, shape in sorted(vars(module).items())
    if isinstance(shape, type) and hasattr(shape, "_fields") and shape is not CID
]
"""What a node can answer to a client."""


def check_json(value: Any) -> None:
    """What is written from it is JSON, too, and the same."""
    assert wire.parse_json(wire.dump_json(value), type(value)) == value


# --- blocks --------------------------------------------------------------------------------------------

def parse_blocks(body: bytes) -> list[tuple[CID, bytes]]:
    """A body of several small blocks."""
    return [(cid, bytes(data)) for cid, data in batches.unpack(memoryview(body))]


def check_blocks(blocks: list[tuple[CID, bytes]]) -> None:
    """No more than a body may have; packed, they are the same."""
    assert len(blocks) <= batches.MOST and all(len(data) <= wire.MAX_SMALL for _, data in blocks)
    # The data of an identity CID stands in its name: nobody sends it as a block.
    sent = [(cid, data) for cid, data in blocks if not cid.is_identity]
    assert parse_blocks(batches.pack(sent)) == sent


def parse_cids(body: bytes) -> list[CID]:
    """A body of CIDs."""
    return batches.unpack_cids(body, batches.MOST)


def check_cids(cids: list[CID]) -> None:
    """No more than a body may have; packed, they are the same."""
    assert len(cids) <= batches.MOST
    assert parse_cids(batches.pack_cids(cids)) == cids


def check_tokens(tokens: list[tuple[CID, int]]) -> None:
    """No more than a DISCARD may have; packed, they are the same."""
    assert len(tokens) <= batches.MOST_TOKENS
    assert batches.unpack_tokens(batches.pack_tokens(tokens)) == tokens


Outcomes = list[int | errors.P2pfsError | None]


def parse_outcomes(body: bytes) -> Outcomes:
    """What became of as many blocks as there are lines, and as one request can have."""
    return batches.parse_outcomes(body, min(body.count(b"\n") + 1, batches.MOST))


def check_outcomes(outcomes: Outcomes) -> None:
    """Written and read again they are the same, but for what a long text is cut to."""
    again = batches.parse_outcomes(batches.format_outcomes(outcomes), len(outcomes))
    for one, other in zip(outcomes, again, strict=True):
        if isinstance(one, errors.P2pfsError):
            assert isinstance(other, errors.P2pfsError) and one.token == other.token
            assert str(one)[:300] == str(other)
        else:
            assert one == other


# --- the catalog ---------------------------------------------------------------------------------------

def parse_levels(body: bytes) -> tuple[bytes, Digests]:
    """The answer to DIGESTS, and what it was read from."""
    return body, parse_digests(body)


def check_levels(found: tuple[bytes, Digests]) -> None:
    """There is one way to write digests; only the time at the end may have zeros in front."""
    body, digests = found
    again = format_digests(digests)
    assert again.rpartition(b"\n")[0] == body.rpartition(b"\n")[0] and parse_digests(again) == digests


def check_seen(seen: dict[str, int] | None) -> None:
    """Told to others, it is the same."""
    assert seen is None or parse_seen(json.dumps({"seen": seen}).encode("ascii")) == seen


def check_stamp(stamp: int) -> None:
    """There is a later one that every catalog takes."""
    assert 0 <= stamp < stamp + 1 <= MAX_STAMP


def parse_pins(body: bytes) -> list[Pin]:
    """The body of PIN, or a PART of a BUCKET's answer."""
    return [Pin.from_wire(row) for row in wire.parse_json(body, list)]


def check_pins(records: Iterable[Pin]) -> None:
    """Each has one canonical form, a bucket, and an order among the others."""
    last = None
    for pin in records:
        assert Pin.from_wire(json.loads(pin.to_bytes())) == pin
        assert 0 <= pins.bucket_of(pin.key) < pins.BUCKETS
        pins.record_digest(pin)
        if last is not None:
            assert pins.newer(pin, last) + pins.newer(last, pin) == (pin != last)
        last = pin


# --- members -------------------------------------------------------------------------------------------

def parse_news(body: bytes) -> News:
    """The body of PING and MEMBERS."""
    return news_from_wire(wire.parse_json(body, dict))


def check_news(news: News) -> None:
    """Written and read again they are the same; and a table takes them, in any order, and stays within its bounds."""
    sender, rows = news
    assert parse_news(wire.dump_json(news_to_wire(sender, rows))) == news
    tables = [_merged([sender, *rows], sender.id), _merged([*reversed(rows), sender], sender.id)]
    told = [sorted((row.id, row.precedence[:2]) for row in table.snapshot()[1:]) for table in tables]
    is_full = any(table.left_out for table in tables)
    assert is_full or told[0] == told[1]


def _merged(rows: list[Member], source_id: str) -> Membership:
    me = Member("me", "me", ("127.0.0.1:1",), incarnation=1000)
    table = Membership(me, Timing(), random.Random(0))
    table.tick(0.0)
    table.merge(0.1, rows, source_id)
    assert table.me.incarnation >= me.incarnation and table.me.state == "alive"
    assert len(table.snapshot()) <= Timing().max_members
    table.tick(0.2)
    for member in (table.next_probe(0.3), table.next_sync(0.4)):
        if member is not None:
            table.updates(10, member.id)
    return table


def check_checkup(checkup: Checkup) -> None:
    """Written and read again it is the same."""
    assert Checkup.from_wire(wire.dump_json(checkup.to_wire())) == checkup


# --- clients -------------------------------------------------------------------------------------------

def parse_options(body: bytes) -> None:
    """The JSON of STORE and IMPORT, and that of the verbs with flags."""
    try:
        storing.read_options(body)
    except errors.UsageError:
        upkeep_verbs.read_flags(body, "wait", "dry_run", "undo")


def parse_answer(data: bytes) -> Any:
    """A line of a node's answer; the first byte says of what kind."""
    shape = SHAPES[(data[0] if data else 0) % len(SHAPES)]
    return parsing.parse_line(shape, data[1:])


def check_answer(answer: Any) -> None:
    """Its JSON is read as the same; whatever is in it can be printed."""
    row = parsing.plain(answer)
    assert parsing.parse_line(type(answer), wire.dump_json(row)) == answer
    assert json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape")


class _NoPins:
    """A catalog without pins, and a store without blocks."""

    catalog: Any = None

    def __init__(self) -> None:
        self.catalog = self

    def run(self, look: Any, what: str) -> None:
        look(what)

    def find_name(self, name: str) -> None:
        assert isinstance(name, str)

    def find_sha256(self, digest: str) -> None:
        assert len(digest) == 64 and int(digest, 16) >= 0

    def branch(self, cid: CID) -> bytes:
        raise errors.NotFound(f"no {cid}")


def parse_ref(data: bytes) -> refs.Found:
    """A REF as it comes in a word of a request."""
    nothing: Any = _NoPins()
    return refs.resolve(words.decode_text(data.decode("latin-1")), nothing, nothing)


def check_ref(found: refs.Found) -> None:
    """Without pins, only a bare CID is found."""
    assert found.pin is None and not found.path
    assert dag.resolve(_NoPins().branch, found.cid, ()) == found.cid
