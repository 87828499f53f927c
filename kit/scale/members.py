"""The membership by members, in the simulator of the tests: traffic, detection, joining; and placement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kit.scale.measure import MIB, Row, Span
from p2pfs.core import wire
from p2pfs.core.member import news_to_wire
from p2pfs.core.placement import SHARDS, Candidate, Placement
from tests.sim.world import Node, Reply, World

QUIET_S = 31.0
"""Longer than the interval between exchanges of the whole table."""
LATEST_S = 90.0
TICK_S = 0.25


class CountingWorld(World):
    """Counts the questions of all nodes, and the rows of their answers."""

    questions = rows = 0

    def call(
        self, caller: Node, callee: Node, handle: Callable[[], Reply], timeout_s: float,
        done: Callable[[Reply | None], None],
    ) -> None:
        """As `World.call`."""
        def counted() -> Reply:
            reply = handle()
            self.questions += 1
            self.rows += 1 + len(reply[1])
            return reply

        super().call(caller, callee, counted, timeout_s, done)


def gossip(members: int) -> Iterator[Row]:
    """Virtual time: what a member sends when nothing happens, and how long news take."""
    world = CountingWorld(members, seed=members, tick_s=TICK_S)
    with Span() as span:
        nodes = world.introduce_all()
        world.run(5.0)
        world.questions = world.rows = 0
        world.run(QUIET_S)
    me = nodes[0].membership.me._replace(
        id="i" * 52, version="0.1.0", used_bytes=10**12, free_bytes=10**12, incarnation=1_790_000_000_000
    )
    row_bytes = len(wire.dump_json(news_to_wire(me, [me, me]))) - len(wire.dump_json(news_to_wire(me, [me])))
    a_member_second = members * QUIET_S
    # A question is as long as its answer: each side tells its news, or its table.
    yield Row("membership: messages a member", members, 2 * world.questions / a_member_second, "1/s")
    yield Row("membership: traffic a member", members, 2 * world.rows * row_bytes / a_member_second / 1024, "KiB/s",
              f"rows of {row_bytes} bytes")
    yield Row("membership: one second of all members", members, span.cpu_s / (5.0 + QUIET_S), "s CPU", "simulated")
    victim, start = nodes[members // 2], world.now
    world.kill(victim)
    yield Row("membership: a killed one is dead for all", members, _until(world, victim, {"dead"}, start), "s")
    new, start = world.add(), world.now
    new.start()
    new.join(nodes[0])
    yield Row("membership: a new one is known to all", members, _until(world, new, {"alive"}, start), "s")


def _until(world: World, who: Node, states: set[str], since: float) -> float:
    """Seconds until all others hold it for that."""
    while world.states(who) != states:
        if world.now - since > LATEST_S:
            raise TimeoutError(f"not all hold {who.id} for {states} after {LATEST_S} s")
        world.run(0.1)
    return world.now - since


def orders(members: int) -> Iterator[Row]:
    """The order of all members for each shard."""
    candidates = [Candidate(f"{number:052}", 1.0, "") for number in range(members)]
    with Span() as span:
        Placement(candidates).order(0)
    yield Row("placement: the first order, all members new", members, 1000 * span.cpu_s, "ms CPU",
              f"memory {span.memory_bytes / MIB:+.1f} MiB")
    with Span() as span:
        placed = Placement(candidates)
        for shard in range(SHARDS):
            placed.order(shard)
    yield Row("placement: all orders, after a change", members, 1000 * span.cpu_s, "ms CPU",
              f"memory {span.memory_bytes / MIB:+.1f} MiB")
