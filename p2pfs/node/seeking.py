"""The first contact: while nobody answers, ask the seeds, and those who are known from before."""

from __future__ import annotations

import logging
from collections.abc import Callable

from p2pfs import errors
from p2pfs.core.member import Member
from p2pfs.node.cluster import Cluster

log = logging.getLogger(__name__)

RETRY_S = 1.0
RETRY_MOST_S = 30.0


class Seeking:
    """Finds a first member for a node that knows none alive."""

    def __init__(
        self, cluster: Cluster, seeds: tuple[str, ...], say: Callable[[], bytes], hear: Callable[[bytes, str], Member]
    ) -> None:
        """`say` makes the message with the whole table; `hear` takes the answer, and the id of who sent it."""
        self._cluster = cluster
        self._seeds = seeds
        self._say = say
        self._hear = hear
        self._pause_s = RETRY_S

    def seek(self) -> float:
        """Look for somebody, if nobody else is there; the seconds until the next look."""
        if self._cluster.live_peers():
            self._pause_s = RETRY_S
            return RETRY_S
        known = [address for member in self._cluster.absent() for address in member.addresses]
        for address in dict.fromkeys([*self._seeds, *known]):
            if address in self._cluster.membership.me.addresses:
                continue
            try:
                self._meet(address)
                return RETRY_S
            except errors.P2pfsError as error:
                log.warning("seed %s: %s", address, error)
        if self._seeds or known:
            self._pause_s = min(2 * self._pause_s, RETRY_MOST_S)
        return self._pause_s

    def _meet(self, address: str) -> None:
        body = self._say()
        connection, answer = self._cluster.peers.dial(address)
        try:
            if answer.id == self._cluster.id:
                raise errors.IdentityRefused(f"{address} is this node itself")
            self._hear(connection.request("MEMBERS", body=body), answer.id)
        finally:
            connection.close()
