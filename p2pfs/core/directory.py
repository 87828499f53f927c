"""Directories and symbolic links, as blocks.

A directory is one block whose links are its entries, sorted by name as bytes; past the profile's threshold it becomes
a HAMT. The decision looks at names, CIDs and tsizes, never at how the entries arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import dagpb, hamt, unixfs, varint
from p2pfs.core.cid import CID, DAG_PB
from p2pfs.core.dagpb import PBLink
from p2pfs.core.layout import Block, Link
from p2pfs.core.multihash import multihash
from p2pfs.core.profile import HAMT_THRESHOLD_BYTES, Profile

MAX_NAME_BYTES = 255
"""What file systems take."""
MAX_TARGET_BYTES = 4096
"""PATH_MAX: no longer symbolic link can be made on Linux."""


class Entry(NamedTuple):
    """A name in a directory, and what it stands for."""

    name: bytes
    cid: CID
    tsize: int


def build_directory(entries: Iterable[Entry], profile: Profile) -> tuple[Link, Iterator[Block]]:
    """A directory of entries in any order: its link, and its blocks (children first, the root last).

    Raises UsageError that names the entry: for a name that no file may have, and for one that is there twice.
    """
    links: list[PBLink] = sorted(((entry.cid.encode(), entry.name, entry.tsize) for entry in entries), key=_name)
    last = b""
    for _, name, _ in links:
        check_name(name)
        if name == last:
            raise errors.UsageError(f"the name {show(name)} is twice in one directory")
        last = name
    if _size(links, profile) > HAMT_THRESHOLD_BYTES:
        link, blocks = hamt.build(links, profile.hash_code)
        return link, iter(blocks)
    block = _block(dagpb.encode(links, unixfs.DIRECTORY_DATA), profile)
    return Link(block.cid, 0, len(block.data) + sum(tsize for _, _, tsize in links)), iter([block])


def build_symlink(target: bytes, profile: Profile) -> tuple[Link, Block]:
    """A symbolic link; the target is kept as it is and never followed. Raises UsageError for one too long or empty."""
    if not target or len(target) > MAX_TARGET_BYTES or b"\0" in target:
        raise errors.UsageError(f"a link to {show(target)}: a target has 1 to {MAX_TARGET_BYTES} bytes, and no NUL")
    block = _block(dagpb.encode((), unixfs.encode_symlink(target)), profile)
    return Link(block.cid, 0, len(block.data)), block


def check_name(name: bytes) -> None:
    """Raises UsageError unless a directory may have an entry of this name."""
    if not name:
        raise errors.UsageError("an entry of a directory has an empty name")
    if name in (b".", b".."):
        raise errors.UsageError(f"the name {show(name)} is reserved; no entry may have it")
    if b"/" in name or b"\0" in name:
        raise errors.UsageError(f"the name {show(name)} has a slash or a NUL in it")
    if len(name) > MAX_NAME_BYTES:
        raise errors.UsageError(f"the name {show(name[:32])}... has {len(name)} bytes; the limit is {MAX_NAME_BYTES}")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        raise errors.UsageError(f"the name {show(name)} is not UTF-8; rename it") from None


def show(name: bytes) -> str:
    """A name for a message, on one line whatever is in it."""
    return repr(name[:256].decode("utf-8", "backslashreplace"))


def _name(link: PBLink) -> bytes:
    return link[1]


def _size(links: list[PBLink], profile: Profile) -> int:
    """What the threshold is compared with: the exact size of the plain block, or names and CIDs alone."""
    if not profile.counts_block_bytes:
        return sum(len(hash) + len(name) for hash, name, _ in links)
    length = varint.length
    total = 2 + len(unixfs.DIRECTORY_DATA)
    for hash, name, tsize in links:
        body = 3 + length(len(hash)) + len(hash) + length(len(name)) + len(name) + length(tsize)
        total += 1 + length(body) + body
    return total


def _block(data: bytes, profile: Profile) -> Block:
    return Block(CID(DAG_PB, multihash(profile.hash_code, data)), data)
