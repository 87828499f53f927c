"""Get a block from wherever it is: this disk, its owners, anybody. Whatever comes back was verified."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

from p2pfs import errors, green
from p2pfs.core import multihash, wire
from p2pfs.core.cid import CID
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.hunt import SEARCH_AT_ONCE, Hunt
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer

log = logging.getLogger(__name__)

CACHE_BYTES = 4 * 1024 * 1024
"""Branches kept in memory: those of some tens of GiB of files."""
BRANCH_BUFFERS = 4


class Fetcher:
    """Blocks from this disk or from peers.

    Branches have buffers of their own: they are wanted in the middle of reading, by somebody who holds leaves.
    """

    def __init__(self, local: LocalStore, cluster: Cluster, buffers: BufferPool, copies: Callable[[], int]) -> None:
        self._copies = copies
        self._local = local
        self._cluster = cluster
        self._buffers = buffers
        self._group = green.Group("fetch")
        self._branch_buffers = BufferPool("branch", BRANCH_BUFFERS * wire.MAX_BLOCK)
        self._branches: collections.OrderedDict[bytes, bytes] = collections.OrderedDict()
        self._cached_bytes = 0

    def block(self, cid: CID, view: memoryview) -> int:
        """The block's bytes into the buffer (2 MiB); returns their number.

        Raises NotFound (who was asked), Corrupt (only damaged copies), DeadlinePassed.
        """
        if cid.is_identity:
            data = multihash.digest_of(cid.multihash)
            view[: len(data)] = data
            return len(data)
        try:
            return self._local.read(cid.multihash, view)
        except errors.NotFound:
            return self._from_peers(cid, view, was_here=False)
        except errors.Corrupt as error:
            log.warning("%s", error)
            length = self._from_peers(cid, view, was_here=True)
            self._keep(cid, view[:length])
            return length

    def from_others(self, cid: CID, view: memoryview) -> int:
        """As `block`, without a look at this disk."""
        return self._from_peers(cid, view, was_here=False)

    def branch(self, cid: CID) -> bytes:
        """A branch, from a small cache or as `block`. One that came from a peer is kept on this disk."""
        cached = self._branches.get(cid.multihash)
        if cached is not None:
            self._branches.move_to_end(cid.multihash)
            return cached
        with self._branch_buffers.buffer() as view:
            if cid.is_identity:
                return bytes(view[: self.block(cid, view)])
            try:
                data = bytes(view[: self._local.read(cid.multihash, view)])
            except (errors.NotFound, errors.Corrupt) as error:
                length = self._from_peers(cid, view, was_here=isinstance(error, errors.Corrupt))
                self._keep(cid, view[:length])
                data = bytes(view[:length])
        self._remember(cid.multihash, data)
        return data

    def _remember(self, block: bytes, data: bytes) -> None:
        if block in self._branches:
            return
        self._branches[block] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > CACHE_BYTES:
            _, old = self._branches.popitem(last=False)
            self._cached_bytes -= len(old)

    def _keep(self, cid: CID, data: memoryview) -> None:
        if self._local.store.needs_count:
            return  # who reads does not wait for that; the audit makes this copy
        try:
            self._local.put(cid.multihash, data, is_verified=True)
        except errors.NoSpace as error:
            log.info("a fetched block is not kept here: %s", error)

    def _from_peers(self, cid: CID, view: memoryview, was_here: bool) -> int:
        return Hunt(self._local, self._cluster, self._buffers, self._copies(), cid).run(self._group, view, was_here)

    def holders(self, cids: list[CID], mode: str = "check") -> tuple[list[set[str]], dict[str, errors.P2pfsError]]:
        """For each of up to HAVE_BATCH blocks the ids of all members that say to have it; and who did not answer.

        With `mode` "renew" the blocks are made young wherever they are.
        """
        found: list[set[str]] = [set() for _ in cids]
        silent: dict[str, errors.P2pfsError] = {}

        def note(id: str, flags: list[bool]) -> None:
            for holders, flag in zip(found, flags, strict=True):
                if flag:
                    holders.add(id)

        def ask(peer: Peer) -> None:
            try:
                note(peer.member.id, peer.have(mode, cids))
            except errors.P2pfsError as error:
                silent[peer.member.id] = error

        note(self._cluster.id, self._local.have([cid.multihash for cid in cids], mode == "renew"))
        peers = self._cluster.live_peers()
        for start in range(0, len(peers), SEARCH_AT_ONCE):
            wave = [self._group.spawn(f"have-{peer.member.name}", ask, peer) for peer in peers[start:][:SEARCH_AT_ONCE]]
            green.wait(wave)
        return found, silent

    def close(self) -> None:
        """End what is still running."""
        self._group.close()
