"""Targets: content from strangers. CIDs, blocks, DAGs, CARs."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import branch, dag, dagpb, hamt, unixfs, varint
from p2pfs.core.car import CarReader, frame, header
from p2pfs.core.chunker import Cutter
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.dagpb import PBLink
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.profile import CHUNKERS, Profile, profile
from p2pfs.core.unixfs import UnixFs

_MOST = 1000
"""Steps of a walk that are looked at: hostile DAGs have any number of them."""
_DIGITS = {
    "z": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", "k": "0123456789abcdefghijklmnopqrstuvwxyz",
}


# --- names ---------------------------------------------------------------------------------------------

def parse_varints(data: bytes) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """The number at the front in both dialects, with its end; the multiformats one may be refused alone."""
    protobuf = varint.decode_protobuf(data, 0)
    try:
        return data, varint.decode(data, 0), protobuf
    except errors.Malformed:
        return data, (-1, 0), protobuf


def check_varints(found: tuple[bytes, tuple[int, int], tuple[int, int]]) -> None:
    """Both dialects agree, and the stricter one takes nothing but the shortest form."""
    data, (value, end), (wide, wide_end) = found
    assert varint.decode_protobuf(varint.encode(wide), 0)[0] == wide < 1 << 64
    assert wide_end <= varint.MAX_PROTOBUF_BYTES
    if end:
        assert (value, end) == (wide, wide_end)
        assert varint.encode(value) == data[:end] and varint.length(value) == end


class Spelled(NamedTuple):
    """A CID, and the text that it was read from."""

    cid: CID
    text: str


def parse_cid_text(data: bytes) -> Spelled:
    """A CID as a user, a request or a record gives it."""
    text = data.decode("utf-8", "surrogateescape")
    return Spelled(CID.parse(text), text)


def check_cid_text(found: Spelled) -> None:
    """No CID has two spellings in one base, and all bases mean the same."""
    cid, text = found
    data = cid.encode()
    if cid.version == 0:
        right = _spell(data, _DIGITS["z"])
    elif text[0] in "bB":
        right = str(cid)
    elif text[0] in "fF":
        right = "f" + data.hex()
    else:
        base = text[0].lower()
        right = base + _spell(data, _DIGITS[base])
    assert text == (right.upper() if text[0] in "BFK" else right)
    assert CID.parse(str(cid)) == cid


def _spell(data: bytes, digits: str) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, len(digits))
        text = digits[digit] + text
    return digits[0] * (len(data) - len(data.lstrip(b"\0"))) + text


def check_cid(cid: CID) -> None:
    """Written it is read as the same, from text, too."""
    assert CID.decode(cid.encode()) == cid == CID.parse(str(cid))
    assert 0 <= cid.shard < 4096 if len(cid.multihash) > 3 else cid.is_identity


# --- blocks --------------------------------------------------------------------------------------------

def check_node(node: tuple[list[PBLink], bytes | None]) -> None:
    """Written as we write it, it is read as the same."""
    links, data = node
    assert dagpb.decode(dagpb.encode(links, data or b"")) == (links, data or b"")


def check_unixfs(node: UnixFs) -> None:
    """What we would write for the same content is read as the same."""
    if node.type == unixfs.TYPE_SYMLINK:
        assert unixfs.decode(unixfs.encode_symlink(node.data)).data == node.data
    if node.type == unixfs.TYPE_FILE and sum(node.blocksizes) < 1 << 64:
        again = unixfs.decode(unixfs.encode_file(node.blocksizes))
        assert again.blocksizes == node.blocksizes and again.filesize == sum(node.blocksizes)
    assert len(node.blocksizes) <= unixfs.MAX_SIZES


class Shard(NamedTuple):
    """One block of a sharded directory."""

    shape: hamt.Shape
    entries: list[tuple[bytes | None, PBLink]]


def parse_shard(block: bytes) -> Shard:
    """A block as one shard of a directory."""
    links, data = dagpb.decode(block)
    shape = hamt.shape_of(unixfs.decode(data or b""))
    return Shard(shape, list(hamt.split_links(links, shape)))


def check_shard(shard: Shard) -> None:
    """No more entries than buckets; the hash of each name leads to one of them at every depth."""
    shape = shard.shape
    assert len(shard.entries) <= 1 << shape.bits and shape.bits * shape.max_depth <= hamt.HASH_BITS
    for name, _ in shard.entries:
        if name is not None:
            hash = hamt.name_hash(name)
            assert all(len(hamt.prefix_at(hash, depth, shape)) == shape.width for depth in range(shape.max_depth))


# --- DAGs ----------------------------------------------------------------------------------------------

class Forest:
    """Blocks that a stranger made, each found under every CID whose digest ends alike: cycles, too, are possible.

    An input is a number for the path, then for each block its length in two bytes and the block.
    """

    def __init__(self, data: bytes) -> None:
        self.blocks: list[bytes] = []
        at = 1
        while at < len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            self.blocks.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        self.path = [[], [b"a"], [b"a", b"b"], [b""]][data[0] % 4] if data else []

    def load(self, cid: CID) -> bytes:
        """A block. Raises NotFound."""
        if not self.blocks:
            raise errors.NotFound("no blocks")
        return self.blocks[cid.multihash[-1] % len(self.blocks)]


def parse_forest(data: bytes) -> Forest:
    """Everything that a reader does with a root: its kind, size, target, bytes, entries, paths and blocks.

    Whatever the one refuses, the next may still take; all are tried.
    """
    forest = Forest(data)
    root = CID(DAG_PB, multihash(SHA2_256, data[:1]))
    load = forest.load
    block = forest.blocks[0] if forest.blocks else b""
    refused = 0
    for read in (
        lambda: dag.kind(root, block), lambda: dag.file_size(root, block), lambda: dag.symlink_target(root, block),
        lambda: branch.payload(root, block), lambda: dag.children(root, block),
        lambda: _check_spans(forest, root), lambda: _check_walk(dag.walk(load, root)),
        lambda: [entry.name for entry in islice(dag.entries(load, root), _MOST)],
        lambda: dag.resolve(load, root, forest.path),
    ):
        try:
            read()
        except (errors.Malformed, errors.UsageError, errors.NotFound):
            refused += 1
    if refused == 9:
        raise errors.Malformed("nothing in it can be read")
    return forest


def _check_spans(forest: Forest, root: CID) -> None:
    """The parts of a range follow each other without a gap, and each is as long as it says."""
    start, stop = len(forest.blocks), len(forest.blocks) + 100_000
    at = start
    for span in islice(dag.spans(forest.load, root, start, stop), _MOST):
        assert span.offset == at and span.length > 0 and span.skip >= 0
        at += span.length
        assert at <= stop
        if span.cid.codec != RAW:
            assert len(dag.span_payload(span, forest.load(span.cid))) == span.length


def _check_walk(visits: Iterable[dag.Visit]) -> None:
    """No block comes twice in one role."""
    seen = set()
    for visit in islice(visits, _MOST):
        key = (visit.cid.multihash, visit.is_branch)
        assert key not in seen
        seen.add(key)


# --- CARs and chunks -----------------------------------------------------------------------------------

Car = tuple[list[CID], list[tuple[CID, bytes]]]


def parse_car(data: bytes) -> Car:
    """The roots and blocks of a CAR."""
    reader = CarReader(io.BytesIO(data).read)
    return reader.roots, list(reader)


def check_car(car: Car) -> None:
    """Written anew it is read as the same."""
    roots, blocks = car
    assert parse_car(header(roots) + b"".join(frame(cid, data) + data for cid, data in blocks)) == car


Cut = tuple[Profile, bytes, list[int]]


def cut(data: bytes) -> Cut:
    """The leaves of a file: its first byte says which chunker, the rest, repeated, is the content."""
    chosen = profile(list(CHUNKERS)[(data[0] if data else 0) % len(CHUNKERS)], "sha2-256")
    content = data[1:] * (1024 * 1024 // max(1, len(data) - 1))
    return chosen, content, Cutter(chosen).cuts(content, is_end=True)


def check_cut(found: Cut) -> None:
    """The leaves are all of the content, and as long as the profile says; the first ones are certain before the end."""
    chosen, content, lengths = found
    assert sum(lengths) == len(content)
    assert all(chosen.min_leaf_bytes <= length <= chosen.max_leaf_bytes for length in lengths[:-1])
    cutter = Cutter(chosen)
    if len(content) >= cutter.window_bytes:
        early = cutter.cuts(content, is_end=False)
        assert early == lengths[: len(early)]
