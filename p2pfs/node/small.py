"""Small files by the hundred: one look at this disk for all, one question to an owner for many, hunts for the rest."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterable

from p2pfs import errors, green, metrics
from p2pfs.core import batches, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import digest_of, matches
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer

log = logging.getLogger(__name__)

LATE_S = 1.5
"""An owner that needs longer for a message of small blocks is not waited for: each of them is hunted."""
HUNT_S = 10.0
"""What is not found so soon is left out: who asked waits for an answer, and reads the rest one by one."""
HUNTS = 8
"""Blocks hunted at once for one reader."""

Found = dict[CID, bytes]


class SmallReader:
    """Reads files of one small leaf each."""

    def __init__(
        self, local: LocalStore, cluster: Cluster, fetcher: Fetcher, buffers: BufferPool, copies: Callable[[], int]
    ) -> None:
        self._local = local
        self._cluster = cluster
        self._fetcher = fetcher
        self._buffers = buffers
        self._copies = copies
        self._group = green.Group("small")

    def read(self, cids: list[CID], scratch: memoryview) -> list[tuple[CID, bytes]]:
        """The verified bytes of up to `batches.MOST` files, in order; `scratch` is a buffer that the disk reads into.

        Left out is what is no leaf, is not small, does not fit into a message any more, or takes too long to be found.
        Raises NotFound, Corrupt, DeadlinePassed.
        """
        wanted = [cid for cid in dict.fromkeys(cids) if cid.codec == RAW]
        found: Found = {cid: digest_of(cid.multihash) for cid in wanted if cid.is_identity}
        missing = self._read_here([cid for cid in wanted if not cid.is_identity], found, scratch)
        self._ask_owners(missing, found)
        self._hunt([cid for cid in missing if cid not in found], found)
        return _fitting((cid, found[cid]) for cid in wanted if cid in found)

    def _read_here(self, cids: list[CID], found: Found, scratch: memoryview) -> list[CID]:
        """Those that have to come from elsewhere."""
        missing: list[CID] = []
        for cid, outcome in zip(cids, self._local.read_small([cid.multihash for cid in cids], scratch), strict=True):
            if isinstance(outcome, bytes):
                found[cid] = outcome
            elif not isinstance(outcome, errors.TooBig):
                missing.append(cid)
        return missing

    # --- owners --------------------------------------------------------------------------------------

    def _ask_owners(self, cids: list[CID], found: Found) -> None:
        questions: dict[Peer, list[CID]] = collections.defaultdict(list)
        for cid in cids:
            owners = self._cluster.owner_peers(cid.shard, self._copies())
            if willing := [peer for peer in owners if not peer.is_avoided]:
                questions[min(willing, key=lambda peer: peer.cost * (1 + len(questions[peer])))].append(cid)
        green.wait([
            self._group.spawn(f"gets-{peer.member.name}", self._ask, peer, asked, found)
            for peer, asked in questions.items() if asked
        ])

    def _ask(self, peer: Peer, cids: list[CID], found: Found) -> None:
        try:
            with green.deadline(LATE_S, f"small blocks of {peer.member.name}"):
                blocks = peer.get_blocks(cids)
        except errors.DeadlinePassed:
            peer.avoid(f"did not send small blocks in time ({LATE_S} s)")
            return
        except errors.P2pfsError as error:
            log.info("no small blocks from %s: %s", peer.member.name, error)
            return
        right = self._local.run(_verified, cids, blocks)
        if len(right) < len(blocks):
            metrics.BLOCKS_CORRUPT.inc()
            peer.accuse("sent wrong bytes for a small block, or others than it was asked for")
        found.update(right)

    # --- the rest ------------------------------------------------------------------------------------

    def _hunt(self, cids: list[CID], found: Found) -> None:
        failures: list[errors.P2pfsError] = []

        def hunt(cid: CID) -> None:
            try:
                with self._buffers.buffer() as view:
                    length = self._fetcher.block(cid, view)
                    if length <= wire.MAX_SMALL:
                        found[cid] = bytes(view[:length])
            except errors.P2pfsError as error:
                failures.append(error)

        end, group = time.monotonic() + HUNT_S, green.Group("hunts")
        try:
            for start in range(0, len(cids), HUNTS):
                for cid in cids[start : start + HUNTS]:
                    group.spawn("hunt", hunt, cid)
                is_done = group.join(max(0.0, end - time.monotonic()))
                if failures:
                    raise failures[0]
                if not is_done:
                    return
        finally:
            group.close()

    def close(self) -> None:
        """End what is still running."""
        self._group.close()


def _verified(cids: list[CID], blocks: dict[CID, memoryview]) -> Found:
    """Those of the blocks that were asked for and have the right bytes; a native job."""
    asked = set(cids)
    return {cid: bytes(data) for cid, data in blocks.items() if cid in asked and matches(cid.multihash, data)}


def _fitting(files: Iterable[tuple[CID, bytes]]) -> list[tuple[CID, bytes]]:
    """As many of them as fit into a message."""
    left = wire.MAX_MESSAGE
    fitting: list[tuple[CID, bytes]] = []
    for cid, data in files:
        left -= batches.weight(len(data))
        if left < 0:
            break
        fitting.append((cid, data))
    return fitting
