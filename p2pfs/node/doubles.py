"""A second node with our identity: somebody copied a data directory. Whoever started later gives way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from p2pfs import errors, green
from p2pfs.core.member import Member
from p2pfs.node.cluster import Cluster

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Addresses that are looked at at once."""


class Doubles:
    """Looks for one wherever others say that this node is, and it is not."""

    def __init__(
        self, cluster: Cluster, group: green.Group, on_clash: Callable[[errors.IdentityRefused], None]
    ) -> None:
        """`on_clash` is called when there is one that was there first."""
        self._cluster = cluster
        self._group = group
        self._on_clash = on_clash
        self._looking: set[tuple[str, ...]] = set()

    def watch(self, rows: Iterable[Member]) -> None:
        """Does one of them speak of our id at another address? An old row of ours, or a second node with our key."""
        me = self._cluster.membership.me
        for row in rows:
            is_news = row.id == me.id and row.addresses != me.addresses and row.addresses not in self._looking
            if is_news and len(self._looking) < AT_ONCE:
                self._looking.add(row.addresses)
                self._group.spawn("identity", self._look, row.addresses)

    def _look(self, addresses: tuple[str, ...]) -> None:
        try:
            for address in addresses:
                self._meet(address)
        finally:
            self._looking.discard(addresses)

    def _meet(self, address: str) -> None:
        try:
            answer = self._cluster.peers.meet(address)
        except errors.P2pfsError as error:
            log.info("no second node with our identity at %s: %s", address, error)
            return
        # The instance begins with the time of start: the later one gives way, whoever notices.
        if answer.id == self._cluster.id and answer.instance < self._cluster.peers.caller.instance:
            self._on_clash(errors.IdentityRefused(
                f"{address} has this node's identity (id {self._cluster.id}) and was there first; "
                "was the data directory copied? Remove identity.pem from one of the copies"
            ))
