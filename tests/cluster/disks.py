"""What the tests of upkeep look at: the disks of nodes, and what placement says should be on them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from kit.cluster import Node
from kit.truth import Disk, Truth, count_root
from p2pfs import Client, errors
from p2pfs.client.answers import Peer
from p2pfs.core.cid import CID
from p2pfs.core.multihash import Multihash, shard_of
from p2pfs.core.placement import Candidate, Placement

MIB = 1024 * 1024


def make_file(path: Path, size: int) -> Path:
    """Random bytes, so that nothing is stored already."""
    path.write_bytes(random.randbytes(size))
    return path


def store(node: Node, path: Path) -> CID:
    """Store in small leaves, many of them: shares of few come out too uneven to be measured."""
    with Client(str(node.control)) as client:
        return client.store(path, chunker="fixed-256KiB").cid


def content(node: Node, cid: CID) -> bytes:
    """A stored file, read through a node."""
    with Client(str(node.control)) as client:
        return b"".join(client.read(cid))


def disks(nodes: Iterable[Node], truth: Truth | None = None) -> list[Disk]:
    """A census of what these nodes hold."""
    look = truth or Truth()
    return [look.disk(node.data_dir) for node in nodes]


def below(found: Sequence[Disk], roots: Iterable[CID], copies: int) -> int:
    """Blocks with fewer copies on these disks than wanted: leaves `copies`, branches one on each."""
    try:
        return sum(count_root(found, root).below(copies, len(found)) for root in roots)
    except errors.Malformed:  # the root itself is on no disk
        return 1


def above(found: Sequence[Disk], roots: Iterable[CID], copies: int) -> int:
    """Leaves with more copies on these disks than wanted."""
    return sum(count > copies for root in roots for count in count_root(found, root).leaves.values())


def leaves(found: Sequence[Disk], roots: Iterable[CID]) -> dict[Multihash, int]:
    """Every leaf below the roots, and its size."""
    sizes: dict[Multihash, int] = {}
    for root in roots:
        for leaf in count_root(found, root).leaves:
            sizes[leaf] = _size(leaf, found)
    return sizes


def _size(block: Multihash, found: Sequence[Disk]) -> int:
    """Of the copies that were seen, one may have been given up since: it is surplus where another node has its own."""
    for disk in found:
        if block in disk.blocks:
            with contextlib.suppress(FileNotFoundError):
                return disk.blocks[block].stat().st_size
    raise AssertionError(f"{block.hex()} was seen, and is nowhere any more")


def branches(found: Sequence[Disk], roots: Iterable[CID]) -> set[Multihash]:
    """Every branch below the roots."""
    return {branch for root in roots for branch in count_root(found, root).branches}


def peers(node: Node) -> list[Peer]:
    """The members that a node knows. By a client here: a process of the CLI takes long on a busy machine."""
    with Client(str(node.control)) as client:
        return client.peers()


def state(node: Node, other: Node) -> str:
    """How a node sees another; empty when it does not know it."""
    return next((row.state for row in peers(node) if row.name == other.name), "")


def id_of(node: Node, other: Node) -> str:
    """The id of a member that a node knows."""
    return next(row.id for row in peers(node) if row.name == other.name)


def placement(rows: Iterable[Peer]) -> Placement:
    """Who owns what, among these members."""
    return Placement(Candidate(row.id, row.capacity, row.zone) for row in rows)


def share(blocks: Iterable[Multihash], owners: Placement, id: str, copies: int) -> set[Multihash]:
    """Those of the leaves that a member should hold."""
    return {block for block in blocks if id in owners.owners(shard_of(block), copies)}


def requests(node: Node, verb: str) -> int:
    """Requests of that verb that a node has answered since its start."""
    with Client(str(node.control)) as client:
        lines = client.metrics().splitlines()
    return sum(
        int(float(line.rsplit(" ", 1)[1])) for line in lines
        if line.startswith("p2pfs_requests_total{") and f'verb="{verb}"' in line
    )


def total(nodes: Iterable[Node], metric: str) -> int:
    """A metric, added up over nodes."""
    return int(sum(node.metric(metric) for node in nodes))


def is_at_rest(node: Node) -> bool:
    """The node's audit has seen all changes, and neither lacks a block nor has one too many or too few copies of."""
    with Client(str(node.control)) as client:
        status = client.status()
    audit, health = status.audit, status.health
    assert audit is not None
    assert health is not None
    return audit.is_current and not audit.is_running and not health.missing_blocks and not health.below_blocks
