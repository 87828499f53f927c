"""Reading DAGs: what a CID is, which leaves a byte range is in, what a directory holds, which blocks there are.

Any DAG here may come from a stranger. So: no recursion, a limit on everything that a block can ask for, and every
claim (numbers of links and sizes, a child's size in its parent) is checked before it is used: those of one block in
`core/branch.py`, those that two blocks make of each other here. What cannot be read raises Malformed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import branch, hamt
from p2pfs.core.branch import Load
from p2pfs.core.cid import CID, DAG_PB, RAW, codec_name
from p2pfs.core.dagpb import PBLink
from p2pfs.core.directory import Entry, show
from p2pfs.core.multihash import Buffer, Multihash, digest_of
from p2pfs.core.unixfs import TYPE_DIRECTORY, TYPE_SHARD, UnixFs

MAX_FILE_DEPTH = 64
"""Branches above a leaf in one file: with two children a branch that is 2^64 leaves."""
MAX_PATH_DEPTH = 1024
"""Directories (and shards of directories) in each other."""
MAX_PENDING = 1 << 19
"""Links that a walk keeps for later: hostile wide and deep DAGs end here, at about 100 MB."""
MAX_BLOCKS = 1 << 24
"""Distinct blocks of one walk: 16 TiB of 1 MiB leaves."""


class Span(NamedTuple):
    """Part of a file that is in one block."""

    cid: CID
    offset: int
    """Where in the file the part begins."""
    length: int
    """Its bytes, at least 1."""
    skip: int
    """Bytes of the block's payload before it."""
    size: int | None
    """All bytes of the payload, as the parent says; None for a raw block that is the whole file."""


class Visit(NamedTuple):
    """A block below a root."""

    cid: CID
    is_branch: bool
    size: int
    """Bytes of the block: exact for a branch, for a leaf what the link to it claims."""


def kind(cid: CID, block: Buffer) -> str:
    """"file", "directory" or "symlink"."""
    if cid.codec == RAW:
        return "file"
    return branch.kind(cid, branch.parse(cid, block)[1])


def file_size(cid: CID, block: Buffer) -> int:
    """Bytes of a file. Raises UsageError for what is none."""
    if cid.codec == RAW:
        return len(block)
    links, node = branch.parse(cid, block)
    branch.want(cid, node, "file")
    return branch.file_size(cid, links, node)


def symlink_target(cid: CID, block: Buffer) -> bytes:
    """What a symbolic link points to: any bytes, never to be followed here. Raises UsageError for what is none."""
    _, node = branch.parse(cid, block)
    branch.want(cid, node, "symlink")
    return node.data


def span_payload(span: Span, block: Buffer) -> memoryview:
    """The bytes that a span stands for. Raises Malformed when the block is not as long as its parent says."""
    payload = branch.payload(span.cid, block)
    wanted = len(payload) if span.size is None else span.size
    if len(payload) != wanted or span.skip + span.length > wanted:
        raise errors.Malformed(
            f"{span.cid} has {len(payload)} bytes of a file, its parent says {max(wanted, span.skip + span.length)}"
        )
    return payload[span.skip : span.skip + span.length]


def spans(load: Load, root: CID, start: int, stop: int) -> Iterator[Span]:
    """The blocks that hold the bytes from `start` to before `stop` (or the file's end) of a file, in order.

    Only branches are loaded, and of those only the ones above the range; dag-pb leaves count as branches. A root that
    is a raw block is not loaded to learn its size: there, `stop` must not be beyond it. Raises UsageError when the
    root is no file.
    """
    # (what, offset in the file, size that the parent claims, branches above)
    stack: list[tuple[CID, int, int | None, int]] = [(root, 0, None, 0)]
    while stack:
        cid, offset, size, depth = stack.pop()
        if cid.codec == RAW:
            yield from _leaf_span(cid, offset, size, start, stop)
            continue
        if depth == MAX_FILE_DEPTH:
            raise errors.Malformed(f"{root} has more than {MAX_FILE_DEPTH} branches above a leaf")
        links, node = branch.parse(cid, branch.fetch(load, cid))
        branch.want(cid, node, "file", is_root=not depth)
        total = branch.file_size(cid, links, node)
        if size is not None and total != size:
            raise errors.Malformed(f"{cid} is {total} bytes of a file, its parent says {size}")
        inline = len(node.data)
        if inline and offset < stop and start < offset + inline:
            first = max(start, offset)
            yield Span(cid, first, min(stop, offset + inline) - first, first - offset, inline)
        below = []
        offset += inline
        for (hash, _, _), size in zip(links, node.blocksizes, strict=True):
            if size and offset < stop and start < offset + size:
                below.append((branch.child(cid, hash), offset, size, depth + 1))
            offset += size
        stack += reversed(below)
        _limit_pending(root, stack)


def _leaf_span(cid: CID, offset: int, size: int | None, start: int, stop: int) -> Iterator[Span]:
    if cid.is_identity:
        held = len(digest_of(cid.multihash))
        if size is not None and size != held:
            raise errors.Malformed(f"{cid} holds {held} bytes, its parent says {size}")
        size = held
    end = stop if size is None else min(stop, offset + size)
    first = max(start, offset)
    if first < end:
        yield Span(cid, first, end - first, first - offset, size)


def resolve(load: Load, root: CID, path: Sequence[bytes]) -> CID:
    """The CID at a path inside a root; symbolic links on it are not followed. Raises NotFound."""
    cid = root
    for index, name in enumerate(path):
        links, node = ([], None) if cid.codec == RAW else branch.parse(cid, branch.fetch(load, cid))
        shown = f"{root}/{'/'.join(show(part)[1:-1] for part in path[: index + 1])}"
        if node is None or branch.kind(cid, node) != "directory":
            raise errors.NotFound(f"there is no {shown}: what is before {show(name)} is no directory")
        if node.type == TYPE_SHARD:
            found = _look_up(load, cid, links, node, name)
        else:
            found = next((branch.child(cid, hash) for hash, other, _ in links if other == name), None)
        if found is None:
            raise errors.NotFound(f"there is no {shown}")
        cid = found
    return cid


def _look_up(load: Load, cid: CID, links: list[PBLink], node: UnixFs, name: bytes) -> CID | None:
    """The entry of a name in a sharded directory: one shard a level is read."""
    shape = hamt.shape_of(node)
    hash = hamt.name_hash(name)
    for depth in range(shape.max_depth):
        prefix = hamt.prefix_at(hash, depth, shape)
        deeper = None
        for target, other, _ in links:
            if other == prefix + name:
                return branch.child(cid, target)
            if other == prefix:
                deeper = branch.child(cid, target)
        if deeper is None:
            return None
        cid = deeper
        links = branch.shard_links(load, cid, shape)
    raise errors.Malformed(f"{cid} is a directory shard deeper than the hash of a name is long")


def entries(load: Load, cid: CID) -> Iterator[Entry]:
    """What a directory holds, in the order in which it is stored; the names are a stranger's: any bytes.

    Raises UsageError when it is no directory.
    """
    if cid.codec == RAW:
        raise errors.UsageError(f"{cid} is a file, not a directory")
    links, node = branch.parse(cid, branch.fetch(load, cid))
    branch.want(cid, node, "directory")
    if node.type == TYPE_DIRECTORY:
        for hash, name, tsize in links:
            yield Entry(name, branch.child(cid, hash), tsize)
        return
    shape = hamt.shape_of(node)
    # Two places in one trie hold different names, so a shard that comes twice is a trap.
    seen: set[Multihash] = {cid.multihash}
    stack = [(cid, hamt.split_links(links, shape))]
    while stack:
        cid, level = stack[-1]
        for entry_name, (hash, _, tsize) in level:
            child = branch.child(cid, hash)
            if entry_name is not None:
                yield Entry(entry_name, child, tsize)
                continue
            if child.multihash in seen or len(stack) == shape.max_depth:
                raise errors.Malformed(f"{child} is a directory shard that comes twice or too deep")
            seen.add(child.multihash)
            stack.append((child, hamt.split_links(branch.shard_links(load, child, shape), shape)))
            break
        else:
            stack.pop()


def walk(load: Load, root: CID, root_bytes: int = 0) -> Iterator[Visit]:
    """Every block below a root, the root first, depth first in the order of links, each multihash once.

    Leaves are not loaded; `root_bytes` is what is told of a root that is a raw block. Identity CIDs are no blocks and
    are left out, what they link to is not. Bytes that are linked to both as raw and as dag-pb come twice, the second
    time as a branch.
    """
    leaves: set[Multihash] = set()
    branches: set[Multihash] = set()
    # (what, its size as its parent says, directories above, branches of the same file above)
    stack: list[tuple[CID, int, int, int]] = [(root, root_bytes, 0, 0)]
    while stack:
        cid, size, path_depth, file_depth = stack.pop()
        block_name = cid.multihash
        if cid.codec == RAW:
            if block_name not in leaves and block_name not in branches and not cid.is_identity:
                leaves.add(block_name)
                yield Visit(cid, False, size)
            continue
        if block_name in branches:
            continue
        if path_depth > MAX_PATH_DEPTH or file_depth >= MAX_FILE_DEPTH:
            raise errors.Malformed(
                f"{root} is nested too deep: over {MAX_PATH_DEPTH} directories or {MAX_FILE_DEPTH} branches of a file"
            )
        branches.add(block_name)
        if len(leaves) + len(branches) > MAX_BLOCKS:
            raise errors.Malformed(f"{root} has more than {MAX_BLOCKS} blocks")
        block = branch.fetch(load, cid)
        if not cid.is_identity:
            yield Visit(cid, True, len(block))
        below = []
        for hash, name, tsize in branch.links_of(cid, block):
            child = branch.child(cid, hash)
            if child.multihash not in (leaves if child.codec == RAW else branches):
                below.append((child, tsize, path_depth + 1 if name else path_depth, 0 if name else file_depth + 1))
        stack += reversed(below)
        _limit_pending(root, stack)


def children(cid: CID, block: Buffer) -> list[tuple[CID, int]]:
    """What a branch links to, with the size that each link claims: bytes, in a leaf's case."""
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be walked")
    return [(branch.child(cid, hash), tsize) for hash, _, tsize in branch.links_of(cid, block)]


def _limit_pending(root: CID, stack: Sequence[object]) -> None:
    if len(stack) > MAX_PENDING:
        raise errors.Malformed(f"{root} is too wide and deep at once: over {MAX_PENDING} links wait to be looked at")
