"""A cluster in one process: a virtual clock, a network that misbehaves on demand, and the driver of each
node.

The driver does what `p2pfs/node/gossip.py` does with greenlets and sockets, with events on a heap. Everything
that happens to a paused node waits, and happens at once when it goes on, as with SIGSTOP and SIGCONT.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from itertools import count

from p2pfs.core.membership import TICK_S, Change, Member, Membership, Timing

Reply = tuple[Member, list[Member]]
NEWS_ROWS = 32
MEET_S = 0.1
MEETINGS = 8


class Node:
    """One simulated node: its membership, whether its process runs, and what it saw."""

    def __init__(self, world: World, index: int, incarnation: int) -> None:
        self.world = world
        self.id = f"n{index:04}"
        address = f"10.0.{index // 256}.{index % 256}:4001"
        me = Member(self.id, f"node{index}", (address,), "alive", incarnation)
        self.membership = Membership(me, world.timing, random.Random(world.chance.random()))
        self.is_running = True
        self.refuses = True
        """When it does not run: connections to it are refused at once (process dead), or nothing answers
        (host dead).
        """
        self.is_paused = False
        self.waiting: list[Callable[[], None]] = []
        self.busy_s: Callable[[], float] = lambda: 0.0
        """How long it takes to get round to an event that the network brings."""
        self.log: list[tuple[float, Change]] = []

    def start(self) -> None:
        """Begin to probe and tick."""
        self.world.after(self.world.chance.random() * 0.5, self, self._probe)
        self._tick()
        self._meet()

    def note(self, changes: Iterable[Change]) -> None:
        """Remember what happened, with the time."""
        self.log += [(self.world.now, change) for change in changes]

    def merge(self, rows: Iterable[Member], source_id: str) -> None:
        """As the driver does on any message."""
        self.note(self.membership.merge(self.world.now, rows, source_id))

    def state_of(self, other: Node) -> str:
        """What this node thinks of another."""
        row = self.membership.get(other.id)
        return row.state if row else ""

    def when(self, other: Node, state: str, since: float = 0.0) -> float | None:
        """When this node first held another for alive, suspect, dead or left, after `since`."""
        for time, change in self.log:
            if change.member.id == other.id and change.new == state and time >= since:
                return time
        return None

    def join(self, seed: Node) -> None:
        """Exchange tables with a node whose address is known, again and again until it answers."""
        def done(reply: Reply | None) -> None:
            if reply is None:
                self.world.after(1.0, self, lambda: self.join(seed))
            else:
                self.merge([reply[0], *reply[1]], reply[0].id)
        body = (self.membership.me, self.membership.snapshot())
        self.world.call(self, seed, lambda: seed.sync(body), 2.0, done)

    def sync(self, body: Reply) -> Reply:
        """Answer MEMBERS."""
        self.merge([body[0], *body[1]], body[0].id)
        return self.membership.me, self.membership.snapshot()

    def pinged(self, body: Reply) -> Reply:
        """Answer PING."""
        self.merge([body[0], *body[1]], body[0].id)
        return self.membership.me, self.membership.updates(NEWS_ROWS, body[0].id)

    def _tick(self) -> None:
        self.note(self.membership.tick(self.world.now))
        self.world.after(self.world.tick_s, self, self._tick)

    def _probe(self) -> None:
        world, membership = self.world, self.membership
        partner = membership.next_sync(world.now)
        if partner:
            self._sync_with(world.nodes[partner.id])
        target = membership.next_probe(world.now)
        if target:
            self._ping(world.nodes[target.id], membership.probe_timeout_s, self._finish_probe)
        world.after(membership.probe_interval_s(), self, self._probe)

    def _meet(self) -> None:
        membership = self.membership
        for _ in range(MEETINGS):
            target = membership.next_stranger(self.world.now)
            if target:
                self._ping(self.world.nodes[target.id], membership.probe_timeout_s, self._finish_probe)
        self.world.after(MEET_S, self, self._meet)

    def _sync_with(self, partner: Node) -> None:
        def done(reply: Reply | None) -> None:
            if reply:
                self.merge([reply[0], *reply[1]], partner.id)
        body = (self.membership.me, self.membership.snapshot())
        self.world.call(self, partner, lambda: partner.sync(body), 2.0, done)

    def _ping(
        self, target: Node, timeout_s: float, done: Callable[[Node, float, Reply | None], None]
    ) -> None:
        start = self.world.now
        body = (self.membership.me, self.membership.updates(NEWS_ROWS, target.id))
        self.world.call(self, target, lambda: target.pinged(body), timeout_s,
                        lambda reply: done(target, self.world.now - start, reply))

    def _finish_probe(self, target: Node, rtt_s: float, reply: Reply | None) -> None:
        membership, now = self.membership, self.world.now
        if reply:
            self.merge([reply[0], *reply[1]], target.id)
            membership.probe_ok(now, target.id, rtt_s)
            return
        helpers = membership.probe_failed(now, target.id)
        if not helpers:
            self.note(membership.indirect_failed(now, target.id))
            return
        results: list[bool | None] = []

        def helped(result: bool | None) -> None:
            results.append(result)
            if result:
                self.note(membership.indirect_ok(self.world.now, target.id))
            elif len(results) == len(helpers) and not any(results):
                self.note(membership.indirect_failed(self.world.now, target.id, results.count(None)))

        for helper in helpers:
            self._ask(self.world.nodes[helper.id], target, helped)

    def _ask(self, helper: Node, target: Node, done: Callable[[bool | None], None]) -> None:
        """PINGREQ: True reached, False not, None when the helper itself is silent."""
        wait_s = 2 * self.membership.probe_timeout_s
        answered: list[bool] = []

        def answer(result: bool | None) -> None:
            if not answered:
                answered.append(True)
                done(result)

        def pinged(_: Node, rtt_s: float, reply: Reply | None) -> None:
            if reply:
                helper.merge([reply[0], *reply[1]], target.id)
            self.world.deliver(helper, self, lambda: answer(reply is not None))

        help_s = self.world.timing.probe_timeout_s
        self.world.deliver(self, helper, lambda: helper._ping(target, help_s, pinged))
        self.world.after(wait_s, self, lambda: answer(None))


class World:
    """The clock, the network and the nodes."""

    def __init__(
        self, size: int, seed: int = 1, timing: Timing | None = None, tick_s: float = TICK_S
    ) -> None:
        self.now = 1000.0
        self.chance = random.Random(seed)
        self.timing = timing or Timing()
        self.tick_s = tick_s
        self.loss = 0.0
        self.duplication = 0.0
        self.delay_s: Callable[[], float] = lambda: 0.0005
        self.is_cut: Callable[[Node, Node], bool] = lambda a, b: False
        self._events: list[tuple[float, int, Node, Callable[[], None]]] = []
        self._serial = count()
        self.nodes: dict[str, Node] = {}
        for _ in range(size):
            self.add()

    def add(self) -> Node:
        """One more node, which knows nobody yet and does nothing yet."""
        node = Node(self, len(self.nodes), int(self.now * 1000))
        self.nodes[node.id] = node
        return node

    def introduce_all(self) -> list[Node]:
        """Every node knows every other, and works."""
        nodes = list(self.nodes.values())
        rows = [node.membership.me for node in nodes]
        for node in nodes:
            node.membership.merge(self.now, rows, "")
            node.start()
        return nodes

    def after(self, delay_s: float, node: Node, what: Callable[[], None]) -> None:
        """Let something happen at a node, later."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._serial), node, what))

    def deliver(self, sender: Node, receiver: Node, what: Callable[[], None]) -> None:
        """A message: it may be lost, late or doubled."""
        for _ in range(2 if self.chance.random() < self.duplication else 1):
            if self.is_cut(sender, receiver) or self.chance.random() < self.loss:
                continue
            self.after(self.delay_s() + receiver.busy_s(), receiver, what)

    def call(
        self, caller: Node, callee: Node, handle: Callable[[], Reply], timeout_s: float,
        done: Callable[[Reply | None], None],
    ) -> None:
        """Request and answer; `done` is called once, and an answer after its time is lost.

        A dead process refuses at once, a dead host is silent.
        """
        is_over: list[bool] = []

        def finish(reply: Reply | None) -> None:
            if not is_over:
                is_over.append(True)
                done(reply)

        def respond(reply: Reply) -> None:
            self.deliver(callee, caller, lambda: finish(reply))

        if not callee.is_running and callee.refuses and not self.is_cut(caller, callee):
            self.after(2 * self.delay_s(), caller, lambda: finish(None))
            return
        self.deliver(caller, callee, lambda: respond(handle()))
        self.after(timeout_s, caller, lambda: finish(None))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, node, what = heapq.heappop(self._events)
            if not node.is_running:
                continue
            if node.is_paused:
                node.waiting.append(what)
            else:
                what()
        self.now = end

    def kill(self, node: Node, refuses: bool = True) -> None:
        """SIGKILL, or (not refuses) the whole host goes."""
        node.is_running, node.refuses = False, refuses

    def pause(self, node: Node) -> None:
        """SIGSTOP."""
        node.is_paused = True

    def resume(self, node: Node) -> None:
        """SIGCONT: everything that waited happens now."""
        node.is_paused = False
        waiting, node.waiting = node.waiting, []
        for what in waiting:
            self.after(0.0, node, what)

    def restart(self, node: Node) -> Node:
        """The same identity in a new process, which knows nobody."""
        index = int(node.id[1:])
        again = Node(self, index, int(self.now * 1000))
        self.nodes[node.id] = again
        return again

    def states(self, of: Node) -> set[str]:
        """What the other running nodes think of one."""
        return {node.state_of(of) for node in self.nodes.values() if node.is_running and node.id != of.id}

    def deaths(self) -> list[tuple[float, str, str]]:
        """Every time some node declared another dead: when, who, whom."""
        return [(t, node.id, change.member.id) for node in self.nodes.values()
                for t, change in node.log if change.new == "dead" and change.old != "dead"]
