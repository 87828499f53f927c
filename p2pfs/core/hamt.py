"""Directories too big for one block: a hash array mapped trie of shards (ipfs/specs unixfs.md, boxo ipld/unixfs/hamt).

An entry's place is murmur3 x64 (first 64 bits, seed 0) of its name. With a fanout of 256, byte d of that hash is the
bucket at depth d. A bucket of one entry is a link named "%02X" + the entry's name; a bucket of more is a link named
"%02X" to a shard one level deeper. The set of entries alone decides the tree, so it is built from the sorted list.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import mmh3

from p2pfs import errors
from p2pfs.core import dagpb, unixfs
from p2pfs.core.cid import CID, DAG_PB
from p2pfs.core.dagpb import PBLink
from p2pfs.core.layout import Block, Link
from p2pfs.core.multihash import multihash

HASH_BITS = 64
MIN_FANOUT = 8
MAX_FANOUT = 1024
"""Beyond it, readers have been made to reserve memory by a claim alone (CVE-2023-23625)."""

_HASH_BYTES = HASH_BITS // 8
_PREFIXES = [b"%02X" % bucket for bucket in range(unixfs.FANOUT)]
_Hashed = tuple[bytes, PBLink]


def name_hash(name: bytes) -> bytes:
    """The 8 bytes that decide where an entry goes, the first byte first."""
    return mmh3.hash64(name, x64arch=True, signed=False)[0].to_bytes(_HASH_BYTES, "big")


def build(entries: list[PBLink], hash_code: int) -> tuple[Link, list[Block]]:
    """The root's link and all shards, children first, of entries with distinct names: (cid, name, tsize).

    Raises UsageError when two names have the same hash.
    """
    hashed = sorted((name_hash(entry[1]), entry) for entry in entries)
    blocks: list[Block] = []
    cid, tsize = _shard(hashed, 0, len(hashed), 0, hash_code, blocks)
    return Link(cid, 0, tsize), blocks


def _shard(
    hashed: list[_Hashed], start: int, stop: int, depth: int, hash_code: int, blocks: list[Block]
) -> tuple[CID, int]:
    """The shard of entries whose hashes agree in their first `depth` bytes; recursion ends after 8 levels."""
    if depth == _HASH_BYTES:
        names = [name for _, (_, name, _) in hashed[start : start + 2]]
        raise errors.UsageError(f"the names {names[0]!r} and {names[1]!r} have the same hash; rename one of them")
    links: list[PBLink] = []
    bitfield = 0
    while start < stop:
        bucket = hashed[start][0][depth]
        end = start + 1
        while end < stop and hashed[end][0][depth] == bucket:
            end += 1
        bitfield |= 1 << bucket
        if end - start == 1:
            hash, name, tsize = hashed[start][1]
            links.append((hash, _PREFIXES[bucket] + name, tsize))
        else:
            child, tsize = _shard(hashed, start, end, depth + 1, hash_code, blocks)
            links.append((child.encode(), _PREFIXES[bucket], tsize))
        start = end
    data = dagpb.encode(links, unixfs.encode_shard(bitfield))
    cid = CID(DAG_PB, multihash(hash_code, data))
    blocks.append(Block(cid, data))
    return cid, len(data) + sum(link[2] for link in links)


class Shape(NamedTuple):
    """What a shard's fanout fixes."""

    bits: int
    """Bits of the hash that one level takes."""
    width: int
    """Hex digits before a name."""
    max_depth: int


def shape_of(node: unixfs.UnixFs) -> Shape:
    """Checks what a foreign shard claims, before anything is done with it. Raises Malformed."""
    fanout = node.fanout
    if node.hash_type != unixfs.HASH_MURMUR3:
        raise errors.Malformed(f"a directory shard with hash type {node.hash_type:#x}; only murmur3 (0x22) is known")
    if not MIN_FANOUT <= fanout <= MAX_FANOUT or fanout & (fanout - 1):
        raise errors.Malformed(
            f"a directory shard with a fanout of {fanout}; a power of two from {MIN_FANOUT} to {MAX_FANOUT} is read"
        )
    bits = fanout.bit_length() - 1
    return Shape(bits, len(b"%X" % (fanout - 1)), HASH_BITS // bits)


def split_links(links: list[PBLink], shape: Shape) -> Iterator[tuple[bytes | None, PBLink]]:
    """(entry name, or None for a deeper shard; link) of each link. Raises Malformed for what no shard can hold."""
    prefixes = _prefixes(shape)
    if len(links) > len(prefixes):
        raise errors.Malformed(f"a directory shard with {len(links)} links and {len(prefixes)} buckets")
    for link in links:
        name = link[1]
        if name[: shape.width] not in prefixes:
            raise errors.Malformed(f"the link {name[:64]!r} in a directory shard does not begin with its bucket")
        yield name[shape.width :] or None, link


@lru_cache(maxsize=8)  # as many as there are fanouts
def _prefixes(shape: Shape) -> frozenset[bytes]:
    return frozenset(b"%0*X" % (shape.width, bucket) for bucket in range(1 << shape.bits))


def prefix_at(hash: bytes, depth: int, shape: Shape) -> bytes:
    """The prefix that links of this hash have at a depth."""
    shift = HASH_BITS - shape.bits * (depth + 1)
    bucket = int.from_bytes(hash, "big") >> shift & ((1 << shape.bits) - 1)
    return b"%0*X" % (shape.width, bucket)
