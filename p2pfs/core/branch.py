"""One block of a DAG that may come from a stranger: decoded, with every claim of it that can be checked alone checked.

What cannot be read raises Malformed, with the block's CID in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from p2pfs import errors
from p2pfs.core import dagpb, hamt, unixfs
from p2pfs.core.cid import CID, DAG_PB, RAW, codec_name
from p2pfs.core.dagpb import PBLink
from p2pfs.core.multihash import Buffer, digest_of
from p2pfs.core.unixfs import TYPE_DIRECTORY, TYPE_FILE, TYPE_RAW, TYPE_SHARD, TYPE_SYMLINK, UnixFs

Load: TypeAlias = Callable[[CID], bytes]
"""The verified block of a branch, from wherever the caller has it; may raise NotFound."""

_KINDS = {
    TYPE_RAW: "file", TYPE_FILE: "file", TYPE_DIRECTORY: "directory", TYPE_SHARD: "directory", TYPE_SYMLINK: "symlink"
}


def fetch(load: Load, cid: CID) -> bytes:
    """The branch's block, by `load` unless the CID holds it itself."""
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be walked")
    return digest_of(cid.multihash) if cid.is_identity else load(cid)


def parse(cid: CID, block: Buffer) -> tuple[list[PBLink], UnixFs]:
    """Its links, and the UnixFS node that it is."""
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be read")
    try:
        links, data = dagpb.decode(block)
        if data is None:
            raise errors.Malformed("no UnixFS data in it, so neither file nor directory")
        return links, unixfs.decode(data)
    except errors.Malformed as error:
        raise errors.Malformed(f"{cid}: {error}") from None


def links_of(cid: CID, block: Buffer) -> list[PBLink]:
    """Its links alone: what is no UnixFS has some, too."""
    try:
        return dagpb.decode(block)[0]
    except errors.Malformed as error:
        raise errors.Malformed(f"{cid}: {error}") from None


def child(parent: CID, hash: bytes) -> CID:
    """What a link leads to."""
    try:
        return CID.decode(hash)
    except errors.BadCid as error:
        raise errors.Malformed(f"{parent} has a link that cannot be used: {error}") from None


def kind(cid: CID, node: UnixFs) -> str:
    """"file", "directory" or "symlink"."""
    if node.type not in _KINDS:
        name = unixfs.TYPE_NAMES.get(node.type, node.type)
        raise errors.Malformed(f"{cid} is UnixFS of type {name}, which is not read here")
    return _KINDS[node.type]


def want(cid: CID, node: UnixFs, wanted: str, is_root: bool = True) -> None:
    """Raises UsageError for a root of another kind: somebody named it; Malformed for what a parent led to."""
    found = kind(cid, node)
    if found != wanted:
        error = errors.UsageError if is_root else errors.Malformed
        raise error(f"{cid} is a {found}, not a {wanted}")


def file_size(cid: CID, links: list[PBLink], node: UnixFs) -> int:
    """A file node's bytes, when all that it says of sizes agrees."""
    if len(links) != len(node.blocksizes):
        raise errors.Malformed(f"{cid} has {len(links)} links and {len(node.blocksizes)} blocksizes")
    if any(name for _, name, _ in links):
        raise errors.Malformed(f"{cid} is a file with a named link")
    total = len(node.data) + sum(node.blocksizes)
    if node.filesize is not None and node.filesize != total:
        raise errors.Malformed(f"{cid} says it is a file of {node.filesize} bytes and holds {total}")
    return total


def payload(cid: CID, block: Buffer) -> memoryview:
    """The file bytes in a block: all of a raw one, the inline data of a dag-pb one."""
    if cid.codec == RAW:
        return memoryview(block)
    return memoryview(parse(cid, block)[1].data)


def shard_links(load: Load, cid: CID, shape: hamt.Shape) -> list[PBLink]:
    """The links of a shard below another one of that shape."""
    links, node = parse(cid, fetch(load, cid))
    if node.type != TYPE_SHARD or hamt.shape_of(node) != shape:
        raise errors.Malformed(f"{cid} is no directory shard like the one above it")
    return links
