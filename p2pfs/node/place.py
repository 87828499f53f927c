"""Put a block on the nodes that should hold it, and on the next ranks where those cannot."""

from __future__ import annotations

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

log = logging.getLogger(__name__)


class Copies(NamedTuple):
    """Where a block is durable now."""

    holders: tuple[str, ...]
    """Node ids, at least the wanted quorum."""
    written: tuple[tuple[str, int], ...]
    """The holders that did not have it before, each with its age token."""


class Placer:
    """Puts blocks. `wanted` copies are tried for on every rank that lives; fewer than `quorum` is an error."""

    def __init__(self, local: LocalStore, cluster: Cluster) -> None:
        self._local = local
        self._cluster = cluster
        self._group = green.Group("place")

    def is_mine(self, wanted: int) -> Callable[[Multihash], bool]:
        """Should this node hold a block, by its name? A plain lookup, callable from native threads."""
        cluster = self._cluster
        return lambda block: cluster.id in cluster.ranks(multihash.shard_of(block))[:wanted]

    def put(
        self, cid: CID, data: memoryview, wanted: int, quorum: int, token: int | None = None,
        is_local: bool = False, refusal: errors.NoSpace | None = None,
    ) -> Copies:
        """Make a block durable on `wanted` nodes, in rank order, those that fail replaced by the next.

        `is_local`, `token` and `refusal` tell what this node's own disk did already (`store.jobs.Taken`).
        Raises TooFewNodes, or NoSpace when it was room that lacked.
        """
        me = self._cluster.id
        holders = [me] if is_local else []
        written = [(me, token)] if is_local and token is not None else []
        failures: dict[str, errors.P2pfsError] = {me: refusal} if refusal else {}
        ranks = (id for id in self._cluster.willing(cid.shard) if not (id == me and (is_local or refusal)))
        if not is_local or wanted > 1:
            self._fill(cid, data, wanted, ranks, holders, written, failures)
        if len(holders) < quorum:
            raise self._too_few(cid, quorum, holders, failures)
        return Copies(tuple(holders), tuple(written))

    def put_everywhere(self, cid: CID, data: memoryview, quorum: int) -> Copies:
        """Put a branch on every member that lives: each can then walk every root by itself."""
        return self.put(cid, data, self._cluster.size, quorum)

    def _fill(
        self, cid: CID, data: memoryview, wanted: int, ranks: Iterator[str],
        holders: list[str], written: list[tuple[str, int]], failures: dict[str, errors.P2pfsError],
    ) -> None:
        def put_at(id: str) -> None:
            try:
                token = self._put_at(id, cid, data)
            except errors.P2pfsError as error:
                failures[id] = error
                return
            holders.append(id)
            if token is not None:
                written.append((id, token))

        while len(holders) < wanted:
            wave = [id for _, id in zip(range(wanted - len(holders)), ranks, strict=False)]
            if not wave:
                return
            others = [self._group.spawn(f"put-{cid}", put_at, id) for id in wave[1:]]
            put_at(wave[0])
            green.wait(others)

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

    def _too_few(
        self, cid: CID, quorum: int, holders: list[str], failures: dict[str, errors.P2pfsError]
    ) -> errors.P2pfsError:
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

    def close(self) -> None:
        """End what is still running."""
        self._group.close()


def parse_put_answer(answer: str) -> int | None:
    """`new TOKEN` or `old`, the body of PUT's answer. Raises ProtocolError."""
    word, _, token = answer.partition(" ")
    if word == "old" and not token:
        return None
    if word == "new" and token.isdigit() and len(token) <= 20:
        return int(token)
    raise errors.ProtocolError(f"{answer[:40]!r} is no answer to PUT")
