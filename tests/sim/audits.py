"""Audits of several nodes, step by step, so that a test can interleave them in any order it likes.

Each node has its own view of who may own shards, right or wrong, and its own catalog. What a node does between two
questions to others is one step; `Node.work` stops after each. Decisions are those of `p2pfs.core.audit`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from p2pfs.core.audit import Live, Stand, Task, decide, owners, wanted
from p2pfs.core.multihash import shard_of
from p2pfs.core.placement import Candidate, Placement

GRACE = 1000
"""The age that collection wants; one step takes 1."""


def block(number: int) -> bytes:
    """Some block."""
    return b"\x12\x20" + hashlib.sha256(b"%d" % number).digest()


@lru_cache(maxsize=512)
def placement(ids: frozenset[str]) -> Placement:
    """The placement that a node computes which takes these for the members."""
    return Placement(Candidate(id, 1.0, "") for id in ids)


@lru_cache(maxsize=65536)
def order(ids: frozenset[str], shard: int) -> tuple[str, ...]:
    """The rank order of a shard in the view of such a node."""
    return placement(ids).order(shard)


class Record(NamedTuple):
    """What a catalog says of a block: how many copies its pin wants, 0 once that was removed."""

    stamp: int
    copies: int


class Node:
    """A disk, a catalog, and a view."""

    def __init__(self, id: str, members: Iterable[str], room: int | None) -> None:
        self.id = id
        self.members = frozenset(members)
        self.room = room
        self.is_up = True
        self.holds: dict[bytes, int] = {}
        self.catalog: dict[bytes, Record] = {}
        self.work: Iterator[None] | None = None

    def merge(self, catalog: dict[bytes, Record]) -> None:
        for key, record in catalog.items():
            self.catalog[key] = max(record, self.catalog.get(key, record))


class World:
    """All nodes, each with room for so many blocks.

    `without` switches off one of the things that keep blocks safe, to see what it is good for: "renewal" by the
    question of who gives up, "token" (a discard of whatever is there), "age" and "comparing" (of catalogs) in
    collection.
    """

    def __init__(self, ids: str, room: int | None = None, without: str = "") -> None:
        self.nodes = {id: Node(id, ids, room) for id in ids}
        self.now = GRACE
        self.truth: dict[bytes, Record] = {}
        self.fetched: list[tuple[str, bytes]] = []
        self.given_up = self.collected = 0
        self.least_wanted: dict[bytes, int] = {}
        self.branches: set[bytes] = set()
        self._without = without

    def join(self, id: str) -> None:
        self.nodes[id] = Node(id, [*self.nodes, id], None)

    def is_owner(self, id: str, what: bytes) -> bool:
        """By its own view."""
        live = self.live(self.nodes[id], what) or Live(what, self.truth[what].copies, 1, False)
        return id in owners(self.stand(self.nodes[id], what), live)

    def place(self, what: bytes, copies: int, holders: Iterable[str]) -> None:
        """An acknowledged block that everybody knows of, old enough to be collected if nobody wanted it."""
        self.pin(what, copies, self.nodes.values())
        for id in holders:
            self.nodes[id].holds[what] = self.now - GRACE
        self.now += 1

    def pin(self, what: bytes, copies: int, where: Iterable[Node]) -> None:
        self.now += 1
        self.truth[what] = Record(self.now, copies)
        for node in where:
            node.merge({what: self.truth[what]})

    def holders(self, what: bytes) -> list[str]:
        return [node.id for node in self.nodes.values() if what in node.holds]

    def lost(self) -> list[bytes]:
        """What is wanted and on no disk."""
        return [what for what, record in self.truth.items() if record.copies and not self.holders(what)]

    # --- what a node answers -------------------------------------------------------------------------

    def have(self, id: str, what: bytes) -> bool:
        node = self.nodes[id]
        if not node.is_up or what not in node.holds:
            return False
        if self._without != "renewal":
            node.holds[what] = self.now
        return True

    def put(self, id: str, what: bytes) -> bool:
        node = self.nodes[id]
        if what not in node.holds and node.room is not None and len(node.holds) >= node.room:
            return False
        node.holds[what] = self.now
        return True

    def discard(self, node: Node, what: bytes, token: int) -> bool:
        if what not in node.holds or (node.holds[what] != token and self._without != "token"):
            return False
        del node.holds[what]
        return True

    # --- what a node does ----------------------------------------------------------------------------

    def run(self, id: str) -> None:
        """One step of what a node is at: a pass, if it is at nothing."""
        self.now += 1
        node = self.nodes[id]
        if not node.is_up:
            return
        if node.work is None:
            node.work = self._pass(node)
        if next(node.work, "end") == "end":
            node.work = None

    def stand(self, node: Node, what: bytes) -> Stand:
        up = frozenset(other.id for other in self.nodes.values() if other.is_up)
        return Stand(node.id, order(node.members, shard_of(what)), up, len(node.members))

    def live(self, node: Node, what: bytes) -> Live | None:
        record = node.catalog.get(what)
        if record is None or (record.copies == 0 and record.stamp <= self.now - GRACE):
            return None
        return Live(what, record.copies, 1, what in self.branches)

    def _pass(self, node: Node) -> Iterator[None]:
        unwanted = []
        for what in sorted({*node.catalog, *node.holds}):
            live = self.live(node, what)
            task = decide(self.stand(node, what), live, what in node.holds)
            if live is not None and Task.FETCH in task:
                yield from self._fetch(node, what)
            elif live is not None and Task.GIVE_UP in task:
                yield from self._give_up(node, live)
            elif Task.COLLECT in task and (node.holds[what] <= self.now - GRACE or self._without == "age"):
                unwanted.append((what, node.holds[what]))
        if unwanted:
            yield from self._collect(node, unwanted)

    def _fetch(self, node: Node, what: bytes) -> Iterator[None]:
        yield
        is_somewhere = any(what in other.holds for other in self.nodes.values() if other.is_up)
        if is_somewhere and what not in node.holds and self.put(node.id, what):
            self.fetched.append((node.id, what))

    def _give_up(self, node: Node, live: Live) -> Iterator[None]:
        what, stand = live.block, self.stand(node, live.block)
        token = node.holds[what]
        self.least_wanted[what] = min(wanted(stand, live), self.least_wanted.get(what, 99))
        for id in owners(stand, live):
            yield
            if not self.have(id, what):
                return
        yield
        if not live.is_branch:
            self.given_up += self.discard(node, what, token)

    def _collect(self, node: Node, unwanted: list[tuple[bytes, int]]) -> Iterator[None]:
        for other in self.nodes.values():
            yield
            if not other.is_up:
                return
            if self._without != "comparing":
                node.merge(other.catalog)
                other.merge(node.catalog)
        yield
        still = [(what, token) for what, token in unwanted if self.live(node, what) is None]
        for what, token in still:
            yield
            self.collected += self.discard(node, what, token)

    def begin_store(self, id: str, what: bytes, copies: int) -> None:
        """Whatever the node was at, it stores now."""
        self.nodes[id].work = self._store(self.nodes[id], what, copies)

    def _store(self, node: Node, what: bytes, copies: int) -> Iterator[None]:
        begin, kept = self.now, 0
        for id in self.stand(node, what).order:
            yield
            if kept < copies and self.nodes[id].is_up:
                kept += self.have(id, what) or self.put(id, what)
        yield
        # A store must not take so long that its first blocks become old before its pin is there.
        if kept and self.now - begin < GRACE // 2:
            self.pin(what, copies, [node])

    def learn(self, id: str, members: Iterable[str]) -> None:
        """A node hears who owns, and all that any node's catalog has; one that is away hears nothing."""
        node = self.nodes[id]
        if not node.is_up:
            return
        node.members = frozenset(members)
        for other in self.nodes.values():
            node.merge(other.catalog)

    def settle(self, members: Iterable[str]) -> None:
        """All see the same; then passes of those that are up until nothing changes any more."""
        for node in self.nodes.values():
            self.learn(node.id, members)
            node.work = None
        for _ in range(20):
            before = {id: sorted(node.holds) for id, node in self.nodes.items()}
            for node in self.nodes.values():
                for _ in self._pass(node) if node.is_up else ():
                    self.now += 1
            if before == {id: sorted(node.holds) for id, node in self.nodes.items()}:
                return
        raise AssertionError("the passes go on for ever")
