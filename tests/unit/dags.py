"""A dictionary as block store, and builders over it: what the content tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from p2pfs import errors
from p2pfs.core import dag, dagpb, unixfs
from p2pfs.core.chunker import Cutter
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.layout import BalancedLayout, Block, Link
from p2pfs.core.multihash import SHA2_256, matches, multihash
from p2pfs.core.profile import Profile


class Blocks:
    """Blocks by multihash. `load` is what dag functions want; `loaded` tells what they asked for."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self.sizes: dict[bytes, int] = {}
        self.data: dict[bytes, bytes] = {}
        self.loaded: list[CID] = []
        for block in blocks:
            self.put(block)

    def put(self, block: Block, keeps: bool = True) -> CID:
        """Remember a block; without `keeps`, its size alone."""
        self.sizes[block.cid.multihash] = len(block.data)
        if keeps:
            assert matches(block.cid.multihash, block.data)
            self.data[block.cid.multihash] = block.data
        return block.cid

    def load(self, cid: CID) -> bytes:
        """As the node's loader does."""
        self.loaded.append(cid)
        if cid.multihash not in self.data:
            raise errors.NotFound(f"{cid} is not here")
        return self.data[cid.multihash]

    def block(self, cid: CID) -> bytes:
        """Any block, a leaf or identity one too."""
        return cid.multihash[2:] if cid.is_identity else self.data[cid.multihash]


def raw(data: bytes) -> Block:
    """A raw block."""
    return Block(CID(RAW, multihash(SHA2_256, data)), data)


def node(links: Iterable[tuple[CID, bytes, int]], data: bytes) -> Block:
    """Any dag-pb block, right or wrong."""
    block = dagpb.encode([(cid.encode(), name, tsize) for cid, name, tsize in links], data)
    return Block(CID(DAG_PB, multihash(SHA2_256, block)), block)


def file_node(children: Iterable[tuple[CID, int]]) -> Block:
    """A branch of a file."""
    children = list(children)
    return node([(cid, b"", size) for cid, size in children], unixfs.encode_file([size for _, size in children]))


def add_file(pieces: Iterable[bytes], profile: Profile, store: Blocks, keeps: bool = True) -> Link:
    """A file from pieces of any length, with one buffer of a window."""
    cutter = Cutter(profile)
    layout = BalancedLayout(profile)
    buffer = bytearray()

    def leaf(is_end: bool) -> None:
        length = cutter.cuts(buffer[: cutter.window_bytes], is_end)[0]
        data = bytes(buffer[:length])
        del buffer[:length]
        cid = CID(RAW, multihash(profile.hash_code, data))
        store.put(Block(cid, data), keeps)
        for block in layout.add(Link(cid, length, length)):
            store.put(block)

    for piece in pieces:
        buffer += piece
        while len(buffer) >= cutter.window_bytes:
            leaf(is_end=False)
    while buffer:
        leaf(is_end=True)
    link, blocks = layout.finish()
    for block in blocks:
        store.put(block)
    return link


def content(store: Blocks, cid: CID, start: int = 0, stop: int = 1 << 62) -> Iterator[memoryview]:
    """Bytes of a file through `dag.spans`."""
    if cid.codec == RAW:
        stop = min(stop, len(store.block(cid)))
    for span in dag.spans(store.load, cid, start, stop):
        yield dag.span_payload(span, store.block(span.cid))


def sha256_of(store: Blocks, cid: CID) -> tuple[int, str]:
    """(size, SHA-256) of a file."""
    hasher, size = hashlib.sha256(), 0
    for piece in content(store, cid):
        hasher.update(piece)
        size += len(piece)
    return size, hasher.hexdigest()
