"""Pins: the records of the catalog, which all nodes merge without asking each other.

Last writer wins: of two records with one key the `newer` one stays, by a total order that every node computes
alike, so merging is commutative, associative and idempotent. What two catalogs differ in is found by digests
of 256 buckets: the XOR of the digests of their records, which can be kept up as records come and go.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import xxhash

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.core.hlc import MAX_STAMP, ms_of

BUCKETS = 256
DIGEST_BYTES = 16
"""Of one record."""
MAX_NAME_BYTES = 1024
MAX_REPLICAS = 1024
CLOCK_SLACK_MS = 60_000
"""By how much the clocks of two nodes may differ where a stamp is compared with a time that another clock gave."""
MAX_COUNT = 2**53 - 1
"""Of bytes, blocks, seconds: what every JSON parser takes as it is."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"[0-9A-Za-z._-]{1,128}")

Key = tuple[CID, str]
"""Root and name: one root may be kept under several names, and one name may have stood for several roots."""


class Pin(NamedTuple):
    """The record "this root is wanted", or, removed, that it no longer is."""

    cid: CID
    name: str
    """Any text of up to 1024 bytes without control characters; empty: no name."""
    size: int
    """Bytes of the file, or of all files of the directory."""
    sha256: str | None
    """Plain SHA-256 of the file, 64 hex digits; None for a directory, and where it is not known."""
    replicas: int
    blocks: int
    """Distinct blocks of the DAG."""
    created: int
    """Wall clock at the storing node, whole seconds since 1970."""
    stamp: int
    """Hybrid logical clock (`core.hlc`)."""
    origin: str
    """Id of the node that wrote this record."""
    removed: bool = False
    """A tombstone."""

    @property
    def key(self) -> Key:
        """What at most one record of a catalog has."""
        return self.cid, self.name

    def to_wire(self) -> dict[str, Any]:
        """A JSON object."""
        return self._asdict() | {"cid": str(self.cid)}

    @classmethod
    def from_wire(cls, value: object) -> Pin:
        """Check a parsed JSON value. Fields that are not known here are ignored. Raises ProtocolError."""
        if not isinstance(value, dict):
            raise errors.ProtocolError("a catalog record is no object")
        missing = [field for field in cls._fields if field not in value]
        if missing:
            raise errors.ProtocolError(f"a catalog record lacks {', '.join(missing)}")
        return cls(**{field: check(field, value[field]) for field, check in _CHECKS.items()})

    def to_bytes(self) -> bytes:
        """The record's canonical form: what is digested and kept in text snapshots, one line without its end."""
        return json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":")).encode("ascii")


def newer(a: Pin, b: Pin) -> bool:
    """Does `a` replace `b`? A total order over records: stamp, then origin, then the bytes."""
    if (a.stamp, a.origin) != (b.stamp, b.origin):
        return (a.stamp, a.origin) > (b.stamp, b.origin)
    return a != b and a.to_bytes() > b.to_bytes()


def bucket_of(key: Key) -> int:
    """The bucket of a key, 0 to 255."""
    return xxhash.xxh3_64_intdigest(key[0].encode() + key[1].encode("utf-8")) % BUCKETS


def record_digest(pin: Pin) -> int:
    """128 bits of the record's canonical bytes. Finds differences by accident, not by malice."""
    return xxhash.xxh3_128_intdigest(pin.to_bytes())


def split_digests(body: bytes) -> set[bytes]:
    """The digests of records in a BUCKET or an answer to one. Raises ProtocolError."""
    if len(body) % DIGEST_BYTES:
        raise errors.ProtocolError(f"{len(body)} bytes are no list of {DIGEST_BYTES}-byte digests")
    return {body[start : start + DIGEST_BYTES] for start in range(0, len(body), DIGEST_BYTES)}


# --- how long tombstones live ------------------------------------------------------------------------

def horizon_ms(now_ms: int, life_s: float) -> int:
    """Tombstones from before this time may go: `life_s` ago, rounded down so that all nodes let them go together.

    To a whole day (UTC), or to a tenth of a life of less than ten days.
    """
    step_ms = int(min(24 * 3600.0, life_s / 10) * 1000)
    return max(0, (now_ms - int(life_s * 1000)) // step_ms * step_ms)


def is_past(pin: Pin, purged_ms: int) -> bool:
    """Is it a tombstone that a catalog which was purged until then has no use for? (Unless it has the live record.)"""
    return pin.removed and ms_of(pin.stamp) < purged_ms


class Sight(NamedTuple):
    """Until when one node has seen what others had, as far as it matters where it meets one of them."""

    direct_ms: int
    """The two were equal last then; 0: never."""
    holder_ms: int
    """Until when it has seen what the other one had, itself or through others; 0: never."""
    origins: Mapping[str, int] | None
    """The same of everybody who may have written a record; None: not known, then the two of them count alone."""


def outlived(records: Iterable[Pin], others: Iterable[Pin], sight: Sight, purged_ms: int) -> list[Pin]:
    """Those live `records` of one node that were removed elsewhere, where even their tombstones are gone by now.

    The other one has the records `others` and that `sight`, and has let go of tombstones from before `purged_ms`. When
    that is later than the two were equal, then what it has seen and lacks was removed. It has seen a record for sure
    when it saw later what the holder had *and* what the writer had: the one may have got it later than it was written,
    the other may have lost it.
    """
    if sight.direct_ms - CLOCK_SLACK_MS >= purged_ms:
        return []

    def seen_ms(pin: Pin) -> int:
        written_ms = sight.holder_ms if sight.origins is None else sight.origins.get(pin.origin, 0)
        return min(sight.holder_ms, written_ms) - CLOCK_SLACK_MS

    known = {pin.key for pin in others}
    return [
        pin for pin in records
        if not pin.removed and ms_of(pin.stamp) < min(seen_ms(pin), purged_ms) and pin.key not in known
    ]


def check_name(name: str) -> str:
    """The name, if a pin may have it. Raises ProtocolError, with a reason fit for people."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise errors.ProtocolError(f"the name {ascii(name)[:60]} is not valid UTF-8") from None
    if size > MAX_NAME_BYTES:
        raise errors.ProtocolError(f"the name {name[:20]!a}... has {size} bytes; at most {MAX_NAME_BYTES} go")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise errors.ProtocolError(f"the name {ascii(name)[:60]} has a control character or line end in it")
    return name


# --- checks of the fields of a foreign record --------------------------------------------------------

def _bad(field: str, value: object) -> errors.ProtocolError:
    return errors.ProtocolError(f"a catalog record's {field} cannot be {ascii(value)[:60]}")


def _cid(field: str, value: object) -> CID:
    if not isinstance(value, str):
        raise _bad(field, value)
    try:
        return CID.parse(value)
    except errors.BadCid:
        raise _bad(field, value) from None


def _name(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(field, value)
    return check_name(value)


def _sha256(field: str, value: object) -> str | None:
    return None if value is None else _matching(_SHA256)(field, value)


def _matching(pattern: re.Pattern[str]) -> Callable[[str, object], str]:
    def check(field: str, value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _bad(field, value)
        return value

    return check


def _between(least: int, most: int) -> Callable[[str, object], int]:
    def check(field: str, value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _bad(field, value)
        return value

    return check


def _truth(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(field, value)
    return value


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "cid": _cid, "name": _name, "size": _between(0, MAX_COUNT), "sha256": _sha256,
    "replicas": _between(1, MAX_REPLICAS), "blocks": _between(0, MAX_COUNT),
    "created": _between(0, MAX_COUNT), "stamp": _between(0, MAX_STAMP), "origin": _matching(_ORIGIN),
    "removed": _truth,
}
