"""What a node answers about content and members: one NamedTuple a message, named as in docs/PROTOCOL.md section 5.

What it answers about its own upkeep is in `reports`; how they are checked, in `parsing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from p2pfs.core.cid import CID


class Progress(NamedTuple):
    """How far an operation is; what a `progress` callback is given."""

    bytes: int
    """Bytes of content handled so far."""
    size: int | None
    """Bytes in all; None when nobody can know (a pipe)."""


OnProgress = Callable[[Progress], None]


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
    link: str | None = None
    """What to call it instead of its CID when it is encrypted; the key may be in it. `cid`, `blocks` and the rest are
    of what the nodes hold; `size` is the plain content's, and there is no `sha256`."""


class Entry(NamedTuple):
    """An entry of a directory."""

    name: str
    cid: CID
    type: str
    """`file`, `directory` or `symlink`."""
    size: int | None
    """Bytes of a file; None for a directory."""
    link: str | None = None
    """Of an entry of an encrypted directory, whose `cid` is the directory's."""


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


class Restored(NamedTuple):
    """A pin that was removed and is there again."""

    cid: CID
    name: str


class Repinned(NamedTuple):
    """The answer to RESTORE."""

    restored: list[Restored]


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
    replicas: int
    """Durable copies of the rarest block below the roots."""
