"""Put a block on the nodes that should hold it, and on the next ranks where those cannot."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from p2pfs import errors, green
from p2pfs.core import multihash
from p2pfs.core.cid import CID
from p2pfs.core.multihash import Multihash
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.node.peers import Peer
from p2pfs.store.jobs import Taken

log = logging.getLogger(__name__)


class Copies(NamedTuple):
    """Where a block is durable now."""

    holders: tuple[str, ...]
    """Node ids, at least the wanted quorum."""
    is_new: bool
    """Some of them did not have it before."""


Remember = Callable[[CID, str, int], None]
"""Called with a block, a node id and an age token as soon as a copy was written: also when the rest then fails."""


class _Outcome:
    """What came of a put so far."""

    def __init__(self, cid: CID, remember: Remember) -> None:
        self.cid = cid
        self.holders: list[str] = []
        self.failures: dict[str, errors.P2pfsError] = {}
        self.is_new = False
        self._remember = remember

    def note(self, id: str, token: int | None) -> None:
        """A copy is durable at this node; with a token it was not there before."""
        self.holders.append(id)
        if token is not None:
            self.is_new = True
            self._remember(self.cid, id, token)


class Placer:
    """Puts blocks. `wanted` copies are tried for on every rank that lives; fewer than `quorum` is an error."""

    def __init__(self, local: LocalStore, cluster: Cluster) -> None:
        self._local = local
        self._cluster = cluster

    def is_mine(self, wanted: int) -> Callable[[Multihash], bool]:
        """Should this node hold a block, by its name? A plain lookup, callable from native threads."""
        cluster = self._cluster
        return lambda block: cluster.id in cluster.ranks(multihash.shard_of(block))[:wanted]

    def put(
        self, cid: CID, data: memoryview, wanted: int, quorum: int, remember: Remember,
        taken: Taken | None = None,
    ) -> Copies:
        """Make a block durable on `wanted` nodes, in rank order, those that fail replaced by the next.

        `taken` tells what this node's own disk did with it already. Raises TooFewNodes, or NoSpace when it was room
        that lacked.
        """
        me = self._cluster.id
        outcome = _Outcome(cid, remember)
        if taken is not None and taken.is_local:
            outcome.note(me, taken.token)
        elif taken is not None and taken.refusal is not None:
            outcome.failures[me] = taken.refusal
        if len(outcome.holders) < wanted:
            done = {*outcome.holders, *outcome.failures}
            ranks = (id for id in self._cluster.willing(cid.shard) if id not in done)
            self._fill(outcome, data, wanted, ranks)
        if len(outcome.holders) < quorum:
            raise self._too_few(quorum, outcome)
        return Copies(tuple(outcome.holders), outcome.is_new)

    def put_everywhere(self, cid: CID, data: memoryview, quorum: int, remember: Remember) -> Copies:
        """Put a branch on every member that lives: each can then walk every root by itself."""
        return self.put(cid, data, self._cluster.size, quorum, remember)

    def _fill(self, outcome: _Outcome, data: memoryview, wanted: int, ranks: Iterator[str]) -> None:
        """Try ranks, as many at once as copies lack, until there are enough or no rank is left."""
        def put_at(id: str) -> None:
            try:
                outcome.note(id, self._put_at(id, outcome.cid, data))
            except errors.P2pfsError as error:
                outcome.failures[id] = error

        while len(outcome.holders) < wanted:
            wave = list(itertools.islice(ranks, wanted - len(outcome.holders)))
            if not wave:
                return
            others = green.Group("place")
            try:
                for id in wave[1:]:
                    others.spawn(f"put-{outcome.cid}", put_at, id)
                put_at(wave[0])
                others.join()
            finally:
                # Nobody may read the buffer any more when this returns, however it does.
                others.close()

    def _put_at(self, id: str, cid: CID, data: memoryview) -> int | None:
        if id == self._cluster.id:
            return self._local.put(cid.multihash, data, is_verified=True)
        peer = self._cluster.peer(id)
        if peer.has_renewed(cid):
            return None
        return parse_put_answer(peer.put_block(cid, data))

    def holds_already(self, cid: CID, wanted: int) -> bool:
        """Is the block on any of the nodes that should hold it? For dry runs: nothing is renewed."""
        for id in self._cluster.ranks(cid.shard)[:wanted]:
            try:
                if id == self._cluster.id:
                    found = self._local.have([cid.multihash])[0]
                else:
                    found = self._cluster.peer(id).have("check", [cid])[0]
            except errors.P2pfsError as error:
                log.info("dry run: %s", error)
                continue
            if found:
                return True
        return False

    def take_back(self, written: dict[str, list[tuple[CID, int]]]) -> None:
        """Remove blocks that a failed store wrote, unless somebody asked for them since. Best effort."""
        for id, blocks in written.items():
            try:
                if id == self._cluster.id:
                    self._local.discard([(cid.multihash, token) for cid, token in blocks])
                else:
                    self._take_back_at(self._cluster.peer(id), blocks)
            except errors.P2pfsError as error:
                log.warning("cannot take back %d blocks at %s: %s", len(blocks), self._cluster.name_of(id), error)

    @staticmethod
    def _take_back_at(peer: Peer, blocks: list[tuple[CID, int]]) -> None:
        for start in range(0, len(blocks), 4096):
            body = "\n".join(f"{cid} {token}" for cid, token in blocks[start : start + 4096]).encode("ascii")
            peer.call("bulk", lambda connection, body=body: connection.request("DISCARD", body=body))  # type: ignore[misc]

    def _too_few(self, quorum: int, outcome: _Outcome) -> errors.P2pfsError:
        cid, holders, failures = outcome.cid, outcome.holders, outcome.failures
        reasons = "; ".join(f"{self._cluster.name_of(id)}: {error}" for id, error in failures.items())
        absent = [member.name for member in self._cluster.absent()]
        if absent:
            reasons += f"{'; ' if reasons else ''}away: {', '.join(absent)}"
        if any(isinstance(error, errors.NoSpace) for error in failures.values()):
            return errors.NoSpace(f"{len(holders)} of the {quorum} nodes needed have room for {cid} ({reasons})")
        return errors.TooFewNodes(
            f"{len(holders)} of the {quorum} nodes needed took {cid} ({reasons}); bring nodes back, "
            "or ask for less with --replicas or [cluster] write_quorum"
        )


def parse_put_answer(answer: str) -> int | None:
    """`new TOKEN` or `old`, the body of PUT's answer. Raises ProtocolError."""
    word, _, token = answer.partition(" ")
    if word == "old" and not token:
        return None
    if word == "new" and token.isdigit() and len(token) <= 20:
        return int(token)
    raise errors.ProtocolError(f"{answer[:40]!r} is no answer to PUT")
