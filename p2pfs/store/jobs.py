"""Jobs of one block each, for native threads: everything that a block needs while no greenlet has to run.

Between two greenlet switches a block is read, hashed and written here in one go; the GIL is released for nearly all
of it. Buffers come from the caller and stay the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from p2pfs import errors
from p2pfs.core.batches import weight
from p2pfs.core.chunker import Cutter
from p2pfs.core.multihash import Multihash, multihash
from p2pfs.core.wire import MAX_MESSAGE, MAX_SMALL
from p2pfs.store.base import BlockStore


class Taken(NamedTuple):
    """What became of a leaf: its name, and its fate on this disk."""

    block: Multihash
    is_local: bool
    """It is durable on this disk."""
    token: int | None
    """Its age token when it is new here (`BlockStore.put`)."""
    refusal: errors.NoSpace | None
    """Why it should be on this disk and is not."""


class Keeper(Protocol):
    """What a leaf is kept by: a `BlockStore`, or a node's way to one."""

    def put(self, block: Multihash, data: memoryview, is_verified: bool = False) -> int | None:
        """See `BlockStore.put`."""


def read_range(fd: int, offset: int, view: memoryview) -> None:
    """Fill the view from a file. Raises Refused when the file has become shorter than it was, or cannot be read."""
    done = 0
    while done < len(view):
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            raise errors.Refused(f"the file cannot be read at byte {offset + done}: {error.strerror}") from error
        if not count:
            raise errors.Refused(f"the file became shorter while it was read: nothing at byte {offset + done}")
        done += count


def write_range(fd: int, offset: int, view: memoryview) -> None:
    """Write the whole view into a file. Raises NoSpace."""
    done = 0
    try:
        while done < len(view):
            done += os.pwritev(fd, [view[done:]], offset + done)
    except OSError as error:
        raise errors.NoSpace(f"cannot write the output file: {error.strerror}") from error


def take_leaf(store: Keeper, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]) -> Taken:
    """Hash a leaf; when it should be on this disk, make it durable."""
    block = multihash(hash_code, view)
    if not is_mine(block):
        return Taken(block, False, None, None)
    try:
        return Taken(block, True, store.put(block, view, is_verified=True), None)
    except errors.NoSpace as refusal:
        return Taken(block, False, None, refusal)


def take_leaf_from(
    fd: int, offset: int, store: BlockStore, view: memoryview, hash_code: int, is_mine: Callable[[Multihash], bool]
) -> Taken:
    """Read a leaf from a file, then as `take_leaf`."""
    read_range(fd, offset, view)
    return take_leaf(store, view, hash_code, is_mine)


def cuts_from(fd: int, offset: int, view: memoryview, cutter: Cutter, is_end: bool) -> list[int]:
    """Fill the view from a file; the lengths of the leaves that begin there (`Cutter.cuts`)."""
    read_range(fd, offset, view)
    return cutter.cuts(view, is_end)


def read_small(
    store: BlockStore, blocks: Sequence[Multihash], scratch: memoryview
) -> list[bytes | errors.P2pfsError]:
    """The verified bytes of small blocks, or why not: NotFound, Corrupt; TooBig for one that is not small, and for all
    that do not fit into one message any more."""
    found: list[bytes | errors.P2pfsError] = []
    left = MAX_MESSAGE
    for block in blocks:
        try:
            length = store.read(block, scratch) if left > 0 else 0
            left -= weight(length)
            if left < 0 or length > MAX_SMALL:
                raise errors.TooBig("not small, or no room for it in this message")
            found.append(bytes(scratch[:length]))
        except errors.P2pfsError as error:
            found.append(error)
    return found


def is_there(fd: int, offset: int, view: memoryview, block: Multihash) -> bool:
    """Does the file hold this very leaf at the offset already? Uses the view as scratch."""
    try:
        read_range(fd, offset, view)
    except errors.Refused:
        return False
    return multihash(block[0], view) == block
