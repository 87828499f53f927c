"""The block store contract: what every implementation promises, and one suite (tests/contract) checks.

A store keeps blocks: immutable bytes of at most 2 MiB, each under the multihash of its content. The codec and
the version of the CID that led here do not matter: the same bytes are one block.

Calls block, and come from many native threads at once. Each is all that has to be done for one block, so that
a caller spends one thread job on it. Buffers belong to the caller and are not kept after the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from p2pfs import errors
from p2pfs.core.multihash import Multihash, digest_of, matches
from p2pfs.core.wire import MAX_BLOCK


class Usage(NamedTuple):
    """What a store holds; quarantined blocks are not in it."""

    blocks: int
    bytes: int
    is_exact: bool
    """False after an unclean stop until `recount` ends: the figures are then those of the last clean one."""


class Seen(NamedTuple):
    """A block that is here."""

    size: int
    token: int
    """Nanoseconds since 1970 by the clock of `store.ages`, of when it was put or renewed last. What `put` returns and
    `discard` takes: as long as a block has this token, nobody renewed it."""


Outcome = int | errors.P2pfsError | None
"""What `put` would return or raise."""


class BlockStore(Protocol):
    """Blocks by multihash. A method raises what its text names; NoSpace, Busy, Refused if the disk fails."""

    def has(self, block: Multihash, renew: bool = False) -> bool:
        """Whether the block is here, durably. Its bytes are not looked at.

        With `renew` a True also makes it as young as one put now, so that neither collection nor `discard`
        removes it under a store that counts on it. False may also mean "about to be, or just not any more":
        then `put` it, which is cheap if it is here after all.
        """

    def seen(self, block: Multihash) -> Seen | None:
        """Length and age token of a block that is here, durably; None as `has` says False. Does not renew it."""

    def size(self, block: Multihash) -> int:
        """The length of the block in bytes. Raises NotFound."""

    def read(self, block: Multihash, into: memoryview) -> int:
        """Read the block into the front of a buffer of at least 2 MiB; return its length.

        What this returns was hashed after it was read. A copy that does not match its name, or cannot be
        read, is moved to quarantine before Corrupt is raised: it is never served, and `has` is False from
        then on. Where the disk refuses to move it, Corrupt has `is_in_place`, and what the others say of the
        block is not to be relied on. Raises NotFound, Corrupt. The buffer's content is undefined after an error.
        """

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """Keep a block. When this returns, the block survives the loss of power.

        Returns the age token of a block that is new here (never 0; see `discard`), None when it was here
        already: its age is then renewed as by `has`, and a copy of the wrong length goes to quarantine and
        counts as absent. Several threads may put the same block: one writes, the others wait for it, and all
        may rely on it.

        `is_verified` is for a caller that computed `block` from this very buffer in the same job; anybody
        else leaves it, and the store hashes. Nothing is left behind by a failure. Raises TooBig over 2 MiB,
        Corrupt when `data` does not have that hash, NoSpace when a limit or the disk leaves no room or
        refuses writes.
        """

    def put_many(self, blocks: Sequence[tuple[Multihash, memoryview]], is_verified: bool = False) -> list[Outcome]:
        """`put` for several small blocks, which wait for the disk together; what became of each.

        One that fails does not keep the others from being durable when this returns. One that comes twice is new once.
        """

    def discard(self, block: Multihash, token: int) -> bool:
        """Take back a block whose `put` returned `token`, or of which `seen` told it, unless it was renewed since.

        True when it went. Where a file system keeps whole seconds only, a renewal within the same second would not
        show: there the token of a `put` takes nothing back, and that of `seen` does if the block was then at least
        2 s old.
        """

    def delete(self, block: Multihash) -> bool:
        """Remove a block; True when there was one. Works on a full disk; a loss of power may undo it."""

    def iterate(self, shard: int) -> Iterator[Multihash]:
        """The blocks of one shard (0 to 4095) in ascending order of digest.

        Files that are no blocks are skipped. A block that is put or removed meanwhile may be in it or not.
        """

    @property
    def needs_count(self) -> bool:
        """A `put` has to count all that is here before it knows whether there is room, and all others wait for it."""

    def usage(self) -> Usage:
        """How many blocks and bytes are here. Does not touch the disk."""

    def recount(self) -> Usage:
        """Count what is here from the beginning, beside puts and removals, and make `usage` exact.

        Raises Interrupted after `stop_counting`.
        """

    def stop_counting(self) -> None:
        """End a `recount` in another thread soon, and with it whatever waits for it: `close` is to follow."""

    def free_bytes(self) -> int:
        """How much more the limits and the disk leave room for."""

    def set_limits(self, max_size: int | None, reserve_free: int) -> None:
        """Other limits from now on, in bytes; None is no `max_size`. What is stored stays, even over them."""

    def quarantined(self) -> int:
        """How many bad copies wait in quarantine."""

    def close(self) -> None:
        """End the use of the store; no other call may run or follow."""


def check_block(block: Multihash, data: memoryview, is_verified: bool) -> None:
    """What `put` checks of its arguments. Raises TooBig, Corrupt."""
    if len(data) > MAX_BLOCK:
        raise errors.TooBig(f"a block of {len(data)} bytes; at most {MAX_BLOCK} are allowed")
    if not is_verified and not matches(block, data):
        raise errors.Corrupt(f"{len(data)} bytes came as {digest_of(block).hex()}, and are not that block")


def check_buffer(into: memoryview) -> None:
    """What `read` checks of its arguments."""
    if len(into) < MAX_BLOCK:
        raise ValueError(f"the buffer has {len(into)} bytes; a block may need {MAX_BLOCK}")
