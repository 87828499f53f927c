"""Who is there and who owns what: the membership table, placement over it, and the peers to talk to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from p2pfs import errors, metrics
from p2pfs.core.member import STATES, Member
from p2pfs.core.membership import Membership
from p2pfs.core.placement import Candidate, Placement
from p2pfs.node.peer import Peer
from p2pfs.node.peers import Peers


class Cluster:
    """The cluster as this node sees it now. `changed` is called whenever a row changed."""

    def __init__(
        self, membership: Membership, peers: Peers, out_after_s: float, seeks_others: bool = False
    ) -> None:
        """`seeks_others`: there are seeds, so this node is not alone."""
        self.membership = membership
        self.peers = peers
        self.out_after_s = out_after_s
        self.seeks_others = seeks_others
        self.id = membership.me.id
        self._placement: Placement | None = None
        self._ranks: dict[int, tuple[str, ...]] = {}
        self._basis: tuple[tuple[Candidate, ...], tuple[str, ...]] = ((), ())
        self.has_met = False
        """Some member told who is there, since this node started."""
        self.on_change: Callable[[], None] | None = None
        """Called when other members may own shards than before, or can be reached."""

    def changed(self) -> None:
        """Forget what was derived from the table, where it differs now."""
        candidates = tuple(sorted(self.membership.owners_candidates(time.monotonic(), self.out_after_s)))
        reachable = tuple(sorted(member.id for member in self.members() if member.is_reachable))
        if (candidates, reachable) != self._basis:
            self._basis = (candidates, reachable)
            self._placement = Placement(candidates)
            self._ranks = {}
            if self.on_change:
                self.on_change()
        counts = dict.fromkeys(STATES, 0)
        for member in self.members():
            counts[member.state] += 1
        for state, count in counts.items():
            metrics.MEMBERS.labels(state).set(count)

    # --- members -------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Every row, this node among them, by name."""
        return sorted(self.membership.members(), key=lambda member: (member.name, member.id))

    def member(self, id: str) -> Member:
        """The row of a member. Raises NotFound."""
        found = self.membership.get(id)
        if found is None:
            raise errors.NotFound(f"no member has the id {id}")
        return found

    @property
    def size(self) -> int:
        """Members that belong to the cluster, dead ones included until they are forgotten."""
        return len(self.membership.members())

    @property
    def knows_nobody(self) -> bool:
        """There are seeds, and nobody was met yet or is on the list, not even a member that left or was struck."""
        return self.seeks_others and not self.has_met and len(self.membership.snapshot()) == 1

    def absent(self) -> list[Member]:
        """Members that belong to the cluster and do not answer."""
        return [member for member in self.members() if member.state == "dead"]

    def names(self, ids: Iterable[str]) -> str:
        """Names for people, in a fixed order."""
        return ", ".join(sorted(self.name_of(id) for id in ids))

    def name_of(self, id: str) -> str:
        """A member's name; its id when it is not known."""
        found = self.membership.get(id)
        return found.name if found else id

    def peer(self, id: str) -> Peer:
        """The peer of a member. Raises NotFound."""
        return self.peers.get(self.member(id))

    def live_peers(self) -> list[Peer]:
        """Every other member that should answer."""
        return [self.peers.get(member) for member in self.members() if member.is_reachable and member.id != self.id]

    @property
    def is_draining(self) -> bool:
        """This node is to leave, and what it holds goes with it."""
        return self.membership.me.drains

    # --- placement -----------------------------------------------------------------------------------

    def limited(self, copies: int) -> int:
        """That many copies, or as many as there are members that may own a shard (dead ones may, until `out_after`)."""
        return max(1, min(copies, len(self._basis[0])))

    def quorum(self, copies: int) -> int:
        """That many copies, or as many as there are members that do not drain, dead ones included until `forget`.

        Not limited as long as a node that has seeds knows of nobody: it does not know yet how many they are.
        """
        if self.knows_nobody:
            return copies
        return max(1, min(copies, sum(not member.drains for member in self.members())))

    def order(self, shard: int) -> tuple[str, ...]:
        """All members that may own a shard in rank order, dead ones included until `out_after`."""
        assert self._placement is not None, "changed() was not called yet"
        return self._placement.order(shard)

    def ranks(self, shard: int) -> tuple[str, ...]:
        """Members that can take a block of the shard now, in rank order. Called from native threads too."""
        known = self._ranks  # as of now: should members change beside us, what we find is not for those that come then
        ranks = known.get(shard)
        if ranks is None:
            ranks = known[shard] = tuple(id for id in self.order(shard) if self.member(id).is_reachable)
        return ranks

    def willing(self, shard: int) -> list[str]:
        """As `ranks`, those that just failed at the end."""
        def is_avoided(id: str) -> bool:
            peer = self.peers.known(id)
            return peer is not None and peer.is_avoided

        return sorted(self.ranks(shard), key=is_avoided)

    def owner_peers(self, shard: int, copies: int) -> list[Peer]:
        """The other members that should hold a shard and can answer."""
        return [self.peer(id) for id in self.ranks(shard)[:copies] if id != self.id]
