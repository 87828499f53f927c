"""What a node answers, as typed values: one NamedTuple a message, fields named as in docs/PROTOCOL.md section 5.

A field that this version does not know is left out, so that a newer node can say more; one that is missing or of
another type is a ProtocolError.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from p2pfs import errors
from p2pfs.core.cid import CID


class Progress(NamedTuple):
    """How far an operation is; what a `progress` callback is given."""

    bytes: int
    """Bytes of content handled so far."""
    size: int | None
    """Bytes in all; None when nobody can know (a pipe)."""


class Stored(NamedTuple):
    """The receipt of a store: what is where, durably."""

    cid: CID
    name: str
    size: int
    sha256: str | None
    """Hex digest of the plain file, as sha256sum prints it; None for a directory."""
    blocks: int
    new_blocks: int
    new_bytes: int
    """Bytes of the blocks that no node had before."""
    replicas: int
    """The smallest number of durable copies of any block."""
    nodes: list[str]
    """Names of the nodes that hold some of it."""


class Entry(NamedTuple):
    """An entry of a directory."""

    name: str
    cid: CID
    type: str
    """`file`, `directory` or `symlink`."""
    size: int | None
    """Bytes of a file; None for a directory."""


class PinRow(NamedTuple):
    """A root that the cluster keeps."""

    cid: CID
    name: str
    size: int
    sha256: str | None
    replicas: int
    blocks: int
    created: float
    """When it was pinned: wall clock in seconds."""


class Stat(NamedTuple):
    """Figures of a root, or of something inside it."""

    cid: CID
    type: str
    size: int | None
    blocks: int
    bytes: int
    """Bytes of the distinct blocks, branches included."""
    entries: int | None
    target: str | None
    """Where a symbolic link points."""
    sha256: str | None
    pins: list[str]
    """Names under which exactly this root is pinned, newest first."""


class Placement(NamedTuple):
    """Where one block should be and is."""

    cid: CID
    kind: str
    bytes: int | None
    owners: list[str]
    holders: list[str]
    missing: int


class Explanation(NamedTuple):
    """What the placements of all blocks of a root add up to."""

    cid: CID
    blocks: int
    bytes: int
    wanted: int
    """Copies that each block should have."""
    fewest: int
    below_wanted: int
    lost: int
    """Blocks that no member which answered has."""
    asked: int
    unreachable: list[str]
    advice: str


class ReadEnd(NamedTuple):
    """The end of a READ."""

    cid: CID
    size: int
    sent: int


class FetchEnd(NamedTuple):
    """The end of a FETCH."""

    cid: CID
    size: int
    kept_bytes: int
    """Bytes that were there already, and right."""


class ExportEnd(NamedTuple):
    """The end of an EXPORT."""

    cid: CID
    blocks: int


class Peer(NamedTuple):
    """A member of the cluster."""

    name: str
    id: str
    address: str | None
    state: str
    self: bool
    zone: str
    capacity: float | None
    used: int | None
    incarnation: int
    version: str
    last_seen: float | None
    """Wall clock in seconds."""
    rtt_ms: float | None
    clock_ahead_s: float = 0.0
    error: str = ""
    """What went wrong with it last, while that makes it less trusted."""


class Removed(NamedTuple):
    """A pin that was removed."""

    cid: CID
    name: str


class Unpinned(NamedTuple):
    """The answer to UNPIN."""

    removed: list[Removed]


class ImportedRoot(NamedTuple):
    """A root of a CAR that was imported."""

    cid: CID
    name: str
    size: int | None
    type: str
    pinned: bool


class Imported(NamedTuple):
    """The receipt of an import."""

    roots: list[ImportedRoot]
    blocks: int
    new_blocks: int
    new_bytes: int


R = TypeVar("R", bound=tuple[Any, ...])


def parse(shape: type[R], row: object) -> R:
    """A JSON object as one of the tuples above. Raises ProtocolError for anything else."""
    if not isinstance(row, dict):
        raise errors.ProtocolError(f"{shape.__name__}: an object is wanted, not {str(row)[:40]!r}")
    try:
        optional = shape._field_defaults  # type: ignore[attr-defined]
        fields = ((name, convert) for name, convert in _converters(shape) if name in row or name not in optional)
        return shape(**{name: convert(row[name]) for name, convert in fields})
    except KeyError as error:
        raise errors.ProtocolError(f"{shape.__name__}: {error} is missing; is the node of another version?") from None
    except (TypeError, errors.BadCid) as error:
        raise errors.ProtocolError(f"{shape.__name__}: {str(error)[:200]}") from None


def plain(value: Any) -> Any:
    """A value of this module as what JSON can hold: tuples with names become objects, CIDs text."""
    if isinstance(value, CID):
        return str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    return value


@functools.cache
def _converters(shape: Hashable) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(name, _converter(hint)) for name, hint in typing.get_type_hints(shape).items()]


def _converter(hint: Any) -> Callable[[Any], Any]:
    if hint is CID:
        return lambda value: CID.parse(_checked(value, (str,)))
    if typing.get_origin(hint) is list:
        item = _converter(typing.get_args(hint)[0])
        return lambda value: [item(one) for one in _checked(value, (list,))]
    if hasattr(hint, "_fields"):
        return lambda value: parse(hint, value)
    allowed = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    if float in allowed:
        allowed = (*allowed, int)
    return lambda value: _checked(value, allowed)


def _checked(value: Any, allowed: tuple[type, ...]) -> Any:
    # type() and not isinstance(): in Python a bool is an int, in JSON it is none.
    if type(value) not in allowed:
        raise TypeError(f"{str(value)[:40]!r} is no {' or '.join(one.__name__ for one in allowed)}")
    return value
