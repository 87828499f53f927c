"""Get a block from wherever it is: this disk, its owners, anybody. Whatever comes back was verified."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterator

from p2pfs import errors, green, metrics
from p2pfs.core import multihash
from p2pfs.core.cid import CID
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.node.peers import Peer

log = logging.getLogger(__name__)

BLOCK_S = 60.0
"""Deadline of one block, whatever happens."""
HEDGE_LEAST_S = 0.2
"""A second holder is asked when the first needs longer than this, and longer than 4 times its usual."""
SEARCH_AT_ONCE = 16
CACHE_BYTES = 4 * 1024 * 1024


class Fetcher:
    """Blocks from this disk or from peers.

    The caller's buffer serves the attempts one after the other; a hedge, which runs beside the slow attempt, needs
    a buffer more and is left out when none is free. So a fetch never waits for memory while it holds some.
    """

    def __init__(self, local: LocalStore, cluster: Cluster, buffers: BufferPool, copies: int) -> None:
        self._copies = copies
        self._local = local
        self._cluster = cluster
        self._buffers = buffers
        self._group = green.Group("fetch")
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

    def branch(self, cid: CID) -> bytes:
        """A branch, from a small cache or as `block`. One that came from a peer is kept on this disk."""
        cached = self._branches.get(cid.multihash)
        if cached is not None:
            self._branches.move_to_end(cid.multihash)
            return cached
        with self._buffers.buffer() as view:
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
        self._branches[block] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > CACHE_BYTES:
            _, old = self._branches.popitem(last=False)
            self._cached_bytes -= len(old)

    def _keep(self, cid: CID, data: memoryview) -> None:
        try:
            self._local.put(cid.multihash, data, is_verified=True)
        except errors.NoSpace as error:
            log.info("a fetched block is not kept here: %s", error)

    def _from_peers(self, cid: CID, view: memoryview, was_here: bool) -> int:
        asked: dict[str, errors.P2pfsError | None] = {}
        spare = [view]
        extra: list[memoryview] = []

        def attempt(peer: Peer) -> tuple[memoryview, int]:
            buffer = spare.pop() if spare else self._extra_buffer(extra)
            try:
                return buffer, self._get(peer, cid, buffer, asked)
            except BaseException:
                spare.append(buffer)
                raise

        try:
            winner, length = green.race(
                self._group, f"get-{cid}", self._runners(cid, attempt, asked), self._hedge_s, BLOCK_S
            )
            if winner is not view:
                view[:length] = winner[:length]
            return length
        except errors.DeadlinePassed:
            raise
        except errors.P2pfsError:
            raise self._nobody(cid, asked, was_here) from None
        finally:
            for buffer in extra:
                self._buffers.give(buffer)

    def _extra_buffer(self, extra: list[memoryview]) -> memoryview:
        buffer = self._buffers.take(wait_s=0)
        extra.append(buffer)
        return buffer

    def _runners(
        self,
        cid: CID,
        attempt: Callable[[Peer], tuple[memoryview, int]],
        asked: dict[str, errors.P2pfsError | None],
    ) -> Iterator[Callable[[], tuple[memoryview, int]]]:
        """Attempts in the order of their promise: owners by cost, then whoever of the others says to have it."""
        owners = self._cluster.owner_peers(cid.shard, self._copies)
        for number in range(len(owners)):
            peer = min(owners, key=lambda peer: peer.cost)
            owners.remove(peer)
            if number:
                metrics.HEDGES.inc()
            self._slowest_usual_s = peer.answer_s
            yield lambda peer=peer: attempt(peer)  # type: ignore[misc]
        yield lambda: attempt(self._search(cid, asked))

    def _hedge_s(self) -> float:
        return max(HEDGE_LEAST_S, 4 * self._slowest_usual_s)

    _slowest_usual_s = 0.0

    def _get(
        self, peer: Peer, cid: CID, buffer: memoryview, asked: dict[str, errors.P2pfsError | None]
    ) -> int:
        try:
            length = peer.get_block(cid, buffer)
            if not self._local.run(multihash.matches, cid.multihash, buffer[:length]):
                metrics.BLOCKS_CORRUPT.inc()
                peer.accuse(f"sent wrong bytes for {cid}")
                raise errors.Corrupt(f"{peer.member.name} sent bytes that are not {cid}")
            return length
        except errors.P2pfsError as error:
            asked[peer.member.id] = error
            raise

    def _search(self, cid: CID, asked: dict[str, errors.P2pfsError | None]) -> Peer:
        """Ask everybody who was not asked yet; the cheapest who has it. Raises NotFound."""
        rest = [peer for peer in self._cluster.live_peers() if peer.member.id not in asked]
        found: list[Peer] = []

        def ask(peer: Peer) -> None:
            try:
                answer = peer.have("check", [cid])[0]
            except errors.P2pfsError as error:
                asked[peer.member.id] = error
                return
            if answer:
                found.append(peer)
            else:
                asked[peer.member.id] = errors.NotFound("does not have it")

        end = time.monotonic() + BLOCK_S / 2
        for start in range(0, len(rest), SEARCH_AT_ONCE):
            wave = [self._group.spawn(f"have-{peer.member.name}", ask, peer) for peer in rest[start:][:SEARCH_AT_ONCE]]
            green.wait(wave, timeout=max(0.0, end - time.monotonic()))
            if found:
                return min(found, key=lambda peer: peer.cost)
        raise errors.NotFound("nobody has it")

    def holders(self, cids: list[CID]) -> tuple[list[set[str]], dict[str, errors.P2pfsError]]:
        """For each of up to HAVE_BATCH blocks the ids of all members that say to have it; and who did not answer."""
        found: list[set[str]] = [set() for _ in cids]
        silent: dict[str, errors.P2pfsError] = {}

        def note(id: str, flags: list[bool]) -> None:
            for holders, flag in zip(found, flags, strict=True):
                if flag:
                    holders.add(id)

        def ask(peer: Peer) -> None:
            try:
                note(peer.member.id, peer.have("check", cids))
            except errors.P2pfsError as error:
                silent[peer.member.id] = error

        note(self._cluster.id, self._local.have([cid.multihash for cid in cids]))
        peers = self._cluster.live_peers()
        for start in range(0, len(peers), SEARCH_AT_ONCE):
            wave = [self._group.spawn(f"have-{peer.member.name}", ask, peer) for peer in peers[start:][:SEARCH_AT_ONCE]]
            green.wait(wave)
        return found, silent

    def missing(self, cids: list[CID]) -> list[CID]:
        """Those of up to HAVE_BATCH blocks that no member says to have."""
        if not cids:
            return []
        return [cid for cid, holders in zip(cids, self.holders(cids)[0], strict=True) if not holders]

    def _nobody(
        self, cid: CID, asked: dict[str, errors.P2pfsError | None], was_here: bool
    ) -> errors.P2pfsError:
        """The error that tells how hard we looked."""
        lacking = [id for id, error in asked.items() if isinstance(error, errors.NotFound)]
        damaged = [id for id, error in asked.items() if isinstance(error, errors.Corrupt)]
        silent = [id for id in asked if id not in lacking and id not in damaged]
        absent = [member.name for member in self._cluster.absent()]
        text = f"{cid}: this node and {len(lacking)} of {self._cluster.size - 1} other members do not have it"
        if silent:
            text += f"; no answer from {self._cluster.names(silent)}"
        if absent:
            text += f"; not asked, since they are away: {', '.join(absent)}"
        if damaged or was_here:
            where = self._cluster.names(damaged + [self._cluster.id] * was_here)
            return errors.Corrupt(f"{text}; damaged copies on: {where}")
        return errors.NotFound(text)

    def close(self) -> None:
        """End what is still running."""
        self._group.close()
