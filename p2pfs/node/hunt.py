"""The hunt for one block among the peers: owners first, a slow one hedged, at last whoever says to have it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

from p2pfs import errors, green, metrics
from p2pfs.core import multihash
from p2pfs.core.cid import CID
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer

BLOCK_S = 60.0
"""Deadline of one block, whatever happens."""
SEARCH_S = 20.0
"""Deadline of asking everybody."""
SEARCH_AT_ONCE = 16
HEDGE_LEAST_S = 0.2
"""A second holder is asked when the first needs longer than this, and longer than 4 times its usual ..."""
HEDGE_MOST_S = 1.5
"""... and in any case after this."""

Attempt = tuple[memoryview, int]
"""The buffer that an attempt used, and the length of the verified block in it."""


class Hunt:
    """One block, sought until somebody gives it.

    The caller's buffer serves the attempts one after the other; a hedge, which runs beside a slow attempt, needs a
    buffer more and is left out when none is free: nobody waits for memory while holding some.
    """

    def __init__(self, local: LocalStore, cluster: Cluster, buffers: BufferPool, copies: int, cid: CID) -> None:
        self._local = local
        self._cluster = cluster
        self._buffers = buffers
        self._copies = copies
        self._cid = cid
        self._asked: dict[str, errors.P2pfsError | None] = {}
        """Everybody who was asked, and what came of it."""
        self._spare: list[memoryview] = []
        self._extra: list[memoryview] = []
        self._usual_s = 0.0
        self._pending: dict[Peer, float] = {}
        """Who was asked for the block and has neither sent nor refused it, and when that was."""
        self._search: Search | None = None
        self._is_waiting = False
        """An attempt waits for the search to find somebody."""

    def run(self, group: green.Group, view: memoryview, was_here: bool) -> int:
        """The block into the view, verified; its length. `was_here`: this node's own copy was just found damaged.

        Raises NotFound, Corrupt (there are only damaged copies), DeadlinePassed.
        """
        self._spare = [view]
        try:
            winner, length = green.race(group, f"get-{self._cid}", self._attempts(group), self._hedge_s, BLOCK_S)
            if winner is not view:
                view[:length] = winner[:length]
            for peer, begun in self._pending.items():
                if time.monotonic() - begun >= HEDGE_LEAST_S:
                    peer.lost_to_a_hedge()
            return length
        except errors.NotFound:  # the last attempt came to nothing, or there was nobody for a first one
            raise self._nobody(was_here) from None
        finally:
            if self._search is not None:
                self._search.close()
            for buffer in self._extra:
                self._buffers.give(buffer)

    def _attempts(self, group: green.Group) -> Iterator[Callable[[], Attempt] | None]:
        """Attempts in the order of their promise; None while there is no buffer for one more."""
        owners = self._cluster.owner_peers(self._cid.shard, self._copies)
        for number in range(len(owners)):
            while not self._has_buffer():
                yield None
            peer = min(owners, key=lambda peer: peer.cost)
            owners.remove(peer)
            if number:
                metrics.HEDGES.inc()
            self._usual_s = peer.answer_s
            yield functools.partial(self._attempt, self._spare.pop(), peer)
        self._search = Search(self._cluster, self._cid, self._asked, group)
        while not self._search.is_over:
            if self._is_waiting or not self._has_buffer():
                yield None
            else:
                self._is_waiting = True
                yield functools.partial(self._attempt, self._spare.pop(), None)

    def _has_buffer(self) -> bool:
        """Is there one for another attempt? A buffer that a failed attempt left, or one more if any is free."""
        if not self._spare and (extra := self._buffers.try_take()) is not None:
            self._extra.append(extra)
            self._spare.append(extra)
        return bool(self._spare)

    def _hedge_s(self) -> float:
        return min(HEDGE_MOST_S, max(HEDGE_LEAST_S, 4 * self._usual_s))

    def _attempt(self, buffer: memoryview, peer: Peer | None) -> Attempt:
        """Get it from this peer, or from the next one that the search finds."""
        try:
            return buffer, self._get(peer, buffer) if peer else self._get_found(buffer)
        except errors.P2pfsError as error:
            # What one attempt met, a deadline say, is not what the hunt comes to: that is `_nobody`'s to tell.
            self._spare.append(buffer)
            raise errors.NotFound(str(error)) from None

    def _get_found(self, buffer: memoryview) -> int:
        assert self._search is not None
        try:
            peer = self._search.next()
        finally:
            self._is_waiting = False
        try:
            return self._get(peer, buffer)
        except errors.NotFound:
            peer.avoid(f"said that it has {self._cid}, and did not send it")
            raise

    def _get(self, peer: Peer, buffer: memoryview) -> int:
        self._asked[peer.member.id] = None
        self._pending[peer] = time.monotonic()
        try:
            length = peer.get_block(self._cid, buffer)
            del self._pending[peer]
            with buffer[:length] as data:
                is_right = self._local.run(multihash.matches, self._cid.multihash, data)
            if not is_right:
                metrics.BLOCKS_CORRUPT.inc()
                peer.accuse(f"sent wrong bytes for {self._cid}")
                raise errors.Corrupt(f"{peer.member.name} sent bytes that are not {self._cid}")
            return length
        except errors.P2pfsError as error:
            self._pending.pop(peer, None)
            self._asked[peer.member.id] = error
            raise

    def _nobody(self, was_here: bool) -> errors.P2pfsError:
        """The error that tells how hard we looked."""
        cluster, asked = self._cluster, self._asked
        lacking = [id for id, error in asked.items() if isinstance(error, errors.NotFound)]
        damaged = [id for id, error in asked.items() if isinstance(error, errors.Corrupt)]
        silent = [id for id in asked if id not in lacking and id not in damaged]
        absent = [member.name for member in cluster.absent()]
        text = f"{self._cid}: this node and {len(lacking)} of {cluster.size - 1} other members do not have it"
        if silent:
            text += f"; no answer from {cluster.names(silent)}"
        if absent:
            text += f"; not asked, since they are away: {', '.join(absent)}"
        if damaged or was_here:
            where = cluster.names(damaged + [cluster.id] * was_here)
            return errors.Corrupt(f"{text}; damaged copies on: {where}")
        return errors.NotFound(text)


class Search:
    """The question to everybody who was not asked yet, some at a time, until the hunt is over."""

    def __init__(
        self, cluster: Cluster, cid: CID, asked: dict[str, errors.P2pfsError | None], group: green.Group
    ) -> None:
        self._cid = cid
        self._asked = asked
        self._group = group
        self._found: list[Peer] = []
        self._news = green.Event()
        self._end = time.monotonic() + SEARCH_S
        self._open = [peer for peer in cluster.live_peers() if peer.member.id not in asked]
        self._questions = len(self._open)
        """Not answered yet."""
        self._ask_next(SEARCH_AT_ONCE)

    def _ask_next(self, count: int) -> None:
        batch, self._open = self._open[:count], self._open[count:]
        for peer in batch:
            self._group.spawn(f"have-{peer.member.name}", self._ask, peer)

    def _ask(self, peer: Peer) -> None:
        self._asked[peer.member.id] = None
        try:
            if peer.have("check", [self._cid])[0]:
                self._found.append(peer)
            else:
                self._asked[peer.member.id] = errors.NotFound("does not have it")
        except errors.P2pfsError as error:
            self._asked[peer.member.id] = error
        finally:
            self._questions -= 1
            self._news.set()
        self._ask_next(1)

    @property
    def is_over(self) -> bool:
        """Nobody is left who has it, or may still say so."""
        return not self._found and (not self._questions or time.monotonic() > self._end)

    def next(self) -> Peer:
        """The cheapest of those that say to have it and were not tried. Raises NotFound."""
        while not self._found:
            if self.is_over:
                raise errors.NotFound("nobody has it")
            self._news.wait(max(0.0, self._end - time.monotonic()))
            self._news.clear()
        best = min(self._found, key=lambda peer: peer.cost)
        self._found.remove(best)
        return best

    def close(self) -> None:
        """Ask nobody any more. Those that were asked may answer: who is cut off costs a new connection."""
        self._questions -= len(self._open)
        self._open = []
