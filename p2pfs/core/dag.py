"""Reading DAGs: what a CID is, which leaves a byte range is in, what a directory holds, which blocks there are.

Any DAG here may come from a stranger. So: no recursion, a limit on everything that a block can ask for, and every
claim (numbers of links and sizes, a child's size in its parent) is checked before it is used. `load` is the caller's:
it returns the verified block of a branch, and may raise NotFound. What cannot be read raises Malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from p2pfs import errors
from p2pfs.core import dagpb, hamt, unixfs
from p2pfs.core.cid import CID, DAG_PB, RAW, codec_name
from p2pfs.core.dagpb import PBLink
from p2pfs.core.directory import Entry, show
from p2pfs.core.multihash import Buffer, Multihash, digest_of
from p2pfs.core.unixfs import TYPE_DIRECTORY, TYPE_FILE, TYPE_RAW, TYPE_SHARD, TYPE_SYMLINK, UnixFs

Load: TypeAlias = Callable[[CID], bytes]

MAX_FILE_DEPTH = 64
"""Branches above a leaf in one file: with two children a branch that is 2^64 leaves."""
MAX_PATH_DEPTH = 1024
"""Directories (and shards of directories) in each other."""
MAX_PENDING = 1 << 19
"""Links that a walk keeps for later: hostile wide and deep DAGs end here, at about 100 MB."""
MAX_BLOCKS = 1 << 24
"""Distinct blocks of one walk: 16 TiB of 1 MiB leaves."""

_KINDS = {
    TYPE_RAW: "file", TYPE_FILE: "file", TYPE_DIRECTORY: "directory", TYPE_SHARD: "directory", TYPE_SYMLINK: "symlink"
}


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
    return _kind(cid, _parse(cid, block)[1])


def file_size(cid: CID, block: Buffer) -> int:
    """Bytes of a file. Raises UsageError for what is none."""
    if cid.codec == RAW:
        return len(block)
    links, node = _parse(cid, block)
    _want(cid, node, "file")
    return _checked_size(cid, links, node)


def symlink_target(cid: CID, block: Buffer) -> bytes:
    """What a symbolic link points to: any bytes, never to be followed here. Raises UsageError for what is none."""
    _, node = _parse(cid, block)
    _want(cid, node, "symlink")
    return node.data


def leaf_payload(cid: CID, block: Buffer) -> memoryview:
    """The file bytes in a block: all of a raw one, the inline data of a dag-pb one."""
    if cid.codec == RAW:
        return memoryview(block)
    return memoryview(_parse(cid, block)[1].data)


def span_payload(span: Span, block: Buffer) -> memoryview:
    """The bytes that a span stands for. Raises Malformed when the block is not as long as its parent says."""
    payload = leaf_payload(span.cid, block)
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
        links, node = _parse(cid, _load(load, cid))
        _want(cid, node, "file", is_root=not depth)
        total = _checked_size(cid, links, node)
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
                below.append((_child(cid, hash), offset, size, depth + 1))
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
        links, node = ([], None) if cid.codec == RAW else _parse(cid, _load(load, cid))
        shown = f"{root}/{'/'.join(show(part)[1:-1] for part in path[: index + 1])}"
        if node is None or _kind(cid, node) != "directory":
            raise errors.NotFound(f"there is no {shown}: what is before {show(name)} is no directory")
        if node.type == TYPE_SHARD:
            found = _look_up(load, cid, links, node, name)
        else:
            found = next((_child(cid, hash) for hash, other, _ in links if other == name), None)
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
                return _child(cid, target)
            if other == prefix:
                deeper = _child(cid, target)
        if deeper is None:
            return None
        cid = deeper
        links, node = _shard(load, cid, shape)
    raise errors.Malformed(f"{cid} is a directory shard deeper than the hash of a name is long")


def entries(load: Load, cid: CID) -> Iterator[Entry]:
    """What a directory holds, in the order in which it is stored; the names are a stranger's: any bytes.

    Raises UsageError when it is no directory.
    """
    if cid.codec == RAW:
        raise errors.UsageError(f"{cid} is a file, not a directory")
    links, node = _parse(cid, _load(load, cid))
    _want(cid, node, "directory")
    if node.type == TYPE_DIRECTORY:
        for hash, name, tsize in links:
            yield Entry(name, _child(cid, hash), tsize)
        return
    shape = hamt.shape_of(node)
    # Two places in one trie hold different names, so a shard that comes twice is a trap.
    seen: set[Multihash] = {cid.multihash}
    stack = [(cid, hamt.split_links(links, shape))]
    while stack:
        cid, level = stack[-1]
        for entry_name, (hash, _, tsize) in level:
            child = _child(cid, hash)
            if entry_name is not None:
                yield Entry(entry_name, child, tsize)
                continue
            if child.multihash in seen or len(stack) == shape.max_depth:
                raise errors.Malformed(f"{child} is a directory shard that comes twice or too deep")
            seen.add(child.multihash)
            stack.append((child, hamt.split_links(_shard(load, child, shape)[0], shape)))
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
        block = _load(load, cid)
        if not cid.is_identity:
            yield Visit(cid, True, len(block))
        below = []
        for hash, name, tsize in _links(cid, block):
            child = _child(cid, hash)
            if child.multihash not in (leaves if child.codec == RAW else branches):
                below.append((child, tsize, path_depth + 1 if name else path_depth, 0 if name else file_depth + 1))
        stack += reversed(below)
        _limit_pending(root, stack)


# --- one block ---------------------------------------------------------------------------------------


def children(cid: CID, block: Buffer) -> list[tuple[CID, int]]:
    """What a branch links to, with the size that each link claims: bytes, in a leaf's case."""
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be walked")
    return [(_child(cid, hash), tsize) for hash, _, tsize in _links(cid, block)]


def _load(load: Load, cid: CID) -> bytes:
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be walked")
    return digest_of(cid.multihash) if cid.is_identity else load(cid)


def _links(cid: CID, block: Buffer) -> list[PBLink]:
    try:
        return dagpb.decode(block)[0]
    except errors.Malformed as error:
        raise errors.Malformed(f"{cid}: {error}") from None


def _parse(cid: CID, block: Buffer) -> tuple[list[PBLink], UnixFs]:
    if cid.codec != DAG_PB:
        raise errors.Malformed(f"{cid} is {codec_name(cid.codec)}; only raw and dag-pb blocks can be read")
    try:
        links, data = dagpb.decode(block)
        if data is None:
            raise errors.Malformed("no UnixFS data in it, so neither file nor directory")
        return links, unixfs.decode(data)
    except errors.Malformed as error:
        raise errors.Malformed(f"{cid}: {error}") from None


def _kind(cid: CID, node: UnixFs) -> str:
    if node.type not in _KINDS:
        name = unixfs.TYPE_NAMES.get(node.type, node.type)
        raise errors.Malformed(f"{cid} is UnixFS of type {name}, which is not read here")
    return _KINDS[node.type]


def _want(cid: CID, node: UnixFs, wanted: str, is_root: bool = True) -> None:
    found = _kind(cid, node)
    if found != wanted:
        error = errors.UsageError if is_root else errors.Malformed
        raise error(f"{cid} is a {found}, not a {wanted}")


def _checked_size(cid: CID, links: list[PBLink], node: UnixFs) -> int:
    """A file node's bytes, when all that it says of sizes agrees."""
    if len(links) != len(node.blocksizes):
        raise errors.Malformed(f"{cid} has {len(links)} links and {len(node.blocksizes)} blocksizes")
    if any(name for _, name, _ in links):
        raise errors.Malformed(f"{cid} is a file with a named link")
    total = len(node.data) + sum(node.blocksizes)
    if node.filesize is not None and node.filesize != total:
        raise errors.Malformed(f"{cid} says it is a file of {node.filesize} bytes and holds {total}")
    return total


def _shard(load: Load, cid: CID, shape: hamt.Shape) -> tuple[list[PBLink], UnixFs]:
    links, node = _parse(cid, _load(load, cid))
    if node.type != TYPE_SHARD or hamt.shape_of(node) != shape:
        raise errors.Malformed(f"{cid} is no directory shard like the one above it")
    return links, node


def _child(parent: CID, hash: bytes) -> CID:
    try:
        return CID.decode(hash)
    except errors.BadCid as error:
        raise errors.Malformed(f"{parent} has a link that cannot be used: {error}") from None


def _limit_pending(root: CID, stack: Sequence[object]) -> None:
    if len(stack) > MAX_PENDING:
        raise errors.Malformed(f"{root} is too wide and deep at once: over {MAX_PENDING} links wait to be looked at")
