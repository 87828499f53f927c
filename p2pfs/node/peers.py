"""The other members that this node talks to, by id, and how it is connected to anybody."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from p2pfs import errors, green
from p2pfs.core.membership import Member
from p2pfs.net.connection import Connection, connect
from p2pfs.net.tls import Party, Refusal
from p2pfs.node.hello import Caller, Hello, hello
from p2pfs.node.peer import Peer

CONNECT_S = 3.0


class Peers:
    """All peers by node id, following the membership table."""

    def __init__(
        self, caller: Caller, context: Callable[[], ssl.SSLContext], refusal: Refusal = lambda party: None
    ) -> None:
        self.caller = caller
        self._context = context
        self._refusal_of_member = refusal
        self._peers: dict[str, Peer] = {}
        self._group = green.Group("peers")

    def get(self, member: Member) -> Peer:
        """The peer of a member's row; a changed address closes the old connections."""
        peer = self._peers.get(member.id)
        if peer is None or peer.member.addresses != member.addresses:
            if peer:
                peer.sever()
            peer = self._peers[member.id] = Peer(member, self.caller, self._connect, self._group)
        peer.member = member
        return peer

    def known(self, id: str) -> Peer | None:
        """The peer of that id, when there was reason to talk to it."""
        return self._peers.get(id)

    def dial(self, address: str) -> tuple[Connection, Hello]:
        """A connection to whoever is at this address; the caller closes it. Raises P2pfsError."""
        connection = self._connect(address, None)
        answer = hello(connection, self.caller)
        if (proven := connection.peer_id()) != answer.id:
            connection.close()
            raise errors.IdentityRefused(f"{address} says that it is {answer.id}, its certificate that it is {proven}")
        return connection, answer

    def _connect(self, address: str, id: str | None) -> Connection:
        return connect(address, self._context(), CONNECT_S, id, refusal=self._refusal)

    def _refusal(self, party: Party) -> str | None:
        if party.kind != "member":
            return f"no member but the {party.kind} {party.id}"
        return self._refusal_of_member(party)

    def meet(self, address: str) -> Hello:
        """Who is at this address? Raises P2pfsError."""
        connection, answer = self.dial(address)
        connection.close()
        return answer

    def drop(self, id: str) -> None:
        """Close the connections to a member that is gone."""
        peer = self._peers.get(id)
        if peer:
            peer.sever()

    def forget(self, id: str) -> None:
        """As `drop`, and remember nothing of it."""
        self.drop(id)
        self._peers.pop(id, None)

    def retire(self) -> None:
        """Of every peer: see `Peer.retire`."""
        for peer in self._peers.values():
            peer.retire()

    def close(self) -> None:
        """Close all."""
        self._group.close()
        for peer in self._peers.values():
            peer.sever()
