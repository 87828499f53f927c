"""SWIM in a simulated cluster: detection in time, no false deaths, refutation, healing, joining."""

from __future__ import annotations

import pytest

from p2pfs.core.membership import Timing
from tests.sim.world import Node, World


def detection_s(count: int, seed: int, refuses: bool = True) -> float:
    """Kill one; seconds until the last of the others holds it for dead. Asserts that nobody else died."""
    world = World(count, seed)
    nodes = world.introduce_all()
    world.run(7 + world.chance.random())
    assert world.deaths() == []
    victim = nodes[world.chance.randrange(count)]
    start = world.now
    world.kill(victim, refuses)
    world.run(15)
    assert {whom for _, _, whom in world.deaths()} == {victim.id}
    others = [node for node in nodes if node is not victim]
    assert all(node.when(victim, "suspect", start) or node.when(victim, "dead", start) for node in others)
    return max(node.when(victim, "dead", start) or world.now for node in others) - start


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 10])
def test_a_killed_member_is_dead_everywhere_within_five_seconds(count: int) -> None:
    assert max(detection_s(count, seed) for seed in range(12)) < 5.0


@pytest.mark.parametrize("count", [3, 10])
def test_a_host_that_vanished_is_dead_everywhere_within_seven_seconds(count: int) -> None:
    assert max(detection_s(count, seed, refuses=False) for seed in range(8)) < 7.0


def test_fifty_members_find_a_killed_one() -> None:
    assert max(detection_s(50, seed) for seed in range(2)) < 10.0


@pytest.mark.slow
def test_a_thousand_members_find_a_killed_one_and_no_other() -> None:
    world = World(1000, 3, tick_s=0.5)
    nodes = world.introduce_all()
    world.run(2)
    world.kill(nodes[500])
    world.run(25)
    assert world.states(nodes[500]) == {"dead"}
    assert {whom for _, _, whom in world.deaths()} == {nodes[500].id}


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_late_answers_kill_nobody(count: int) -> None:
    """Every member is now and then, in one of five messages, up to 2 s late; the suspects refute."""
    world = World(count, seed=count)
    for node in world.introduce_all():
        node.busy_s = lambda: world.chance.uniform(0.0, 2.0) if world.chance.random() < 0.2 else 0.0
    world.run(120)
    assert world.deaths() == []
    assert sum(node.membership.refutations for node in world.nodes.values()) > 0


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_members_that_stand_still_for_a_moment_die_for_nobody_and_blame_nobody(count: int) -> None:
    """All of them stop for 1 to 2 s again and again, as under heavy load on a small machine."""
    world = World(count, seed=count)
    chance = world.chance
    watch = Node(world, 9999, 0)

    def stop(node: Node) -> None:
        world.pause(node)
        world.after(chance.uniform(1.0, 2.0), watch, lambda: go_on(node))

    def go_on(node: Node) -> None:
        world.resume(node)
        world.after(chance.uniform(1.0, 5.0), watch, lambda: stop(node))

    for node in world.introduce_all():
        world.after(chance.uniform(0.0, 5.0), watch, lambda node=node: stop(node))  # type: ignore[misc]
    world.run(60)
    assert world.deaths() == []
    assert sum(node.membership.stalls for node in world.nodes.values()) > 0


def test_loss_and_doubling_of_messages_kill_nobody() -> None:
    world = World(20, seed=5)
    world.loss, world.duplication = 0.03, 0.1
    world.introduce_all()
    world.run(60)
    assert world.deaths() == []


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_paused_member_dies_refutes_and_comes_back(count: int) -> None:
    world = World(count, seed=7)
    nodes = world.introduce_all()
    world.run(5)
    victim = nodes[0]
    world.pause(victim)
    world.run(20)
    assert world.states(victim) == {"dead"}
    world.resume(victim)
    world.run(10)
    assert world.states(victim) == {"alive"}
    assert victim.membership.refutations > 0
    assert {whom for _, _, whom in world.deaths()} == {victim.id}, "who stood still must not blame the others"


@pytest.mark.parametrize("halves", [(1, 1), (1, 2), (3, 3), (10, 15)])
def test_two_halves_of_a_split_cluster_find_each_other(halves: tuple[int, int]) -> None:
    world = World(sum(halves), seed=11)
    nodes = world.introduce_all()
    world.run(5)
    left = {node.id for node in nodes[: halves[0]]}
    world.is_cut = lambda a, b: (a.id in left) != (b.id in left)
    world.run(60)
    for node in nodes:
        for other in nodes:
            expected = "alive" if (node.id in left) == (other.id in left) else "dead"
            assert node.state_of(other) == expected
    world.is_cut = lambda a, b: False
    world.run(30)
    assert all(world.states(node) == {"alive"} for node in nodes)


def test_one_seed_suffices_and_may_be_gone_later() -> None:
    world = World(1, seed=13)
    seed = world.nodes["n0000"]
    seed.start()
    joined = [world.add() for _ in range(11)]
    for node in joined:
        node.start()
        node.join(seed)
        world.run(1)
    world.run(3)
    assert all(len(node.membership.members()) == 12 for node in world.nodes.values())
    world.kill(seed)
    world.run(12)
    assert world.states(seed) == {"dead"}
    late = world.add()
    late.start()
    late.join(joined[3])
    world.run(8)
    assert world.states(late) == {"alive"}
    assert {row.id for row in late.membership.members()} == set(world.nodes)
    assert {whom for _, _, whom in world.deaths()} == {seed.id}


def test_joining_while_the_seed_is_away_goes_on_until_it_answers() -> None:
    world = World(2, seed=17)
    seed, node = world.nodes.values()
    world.kill(seed)
    node.start()
    node.join(seed)
    world.run(5)
    again = world.restart(seed)
    again.start()
    node.join(again)
    world.run(5)
    assert again.state_of(node) == node.state_of(again) == "alive"


def test_a_restarted_member_replaces_its_earlier_life() -> None:
    world = World(4, seed=19)
    nodes = world.introduce_all()
    world.run(5)
    world.kill(nodes[2])
    world.run(10)
    assert world.states(nodes[2]) == {"dead"}
    again = world.restart(nodes[2])
    again.start()
    again.join(nodes[0])
    world.run(6)
    assert world.states(again) == {"alive"}
    assert len(again.membership.members()) == 4


def test_a_member_that_leaves_is_never_suspected() -> None:
    world = World(5, seed=23)
    nodes = world.introduce_all()
    world.run(5)
    nodes[1].membership.leave()
    world.run(1.5)
    world.kill(nodes[1])
    world.run(10)
    assert world.states(nodes[1]) == {"left"}
    assert all(node.when(nodes[1], "suspect") is None for node in nodes)


def test_a_forgotten_member_stays_forgotten_though_news_are_late() -> None:
    world = World(5, seed=29)
    nodes = world.introduce_all()
    world.run(5)
    world.kill(nodes[4])
    world.pause(nodes[3])
    world.run(10)
    nodes[0].membership.forget(world.now, nodes[4].id)
    world.run(5)
    world.resume(nodes[3])
    world.run(60)
    assert world.states(nodes[4]) == {"left"}
    assert all(len(node.membership.members()) == 4 for node in nodes[:4])


def test_draining_reaches_everybody_and_outlives_suspicion() -> None:
    world = World(5, seed=31)
    nodes = world.introduce_all()
    world.run(5)
    nodes[1].membership.drain()
    world.run(3)
    for node in nodes:
        owners = {candidate.id for candidate in node.membership.owners_candidates(world.now, 600)}
        assert owners == set(world.nodes) - {"n0001"}
    world.kill(nodes[1])
    world.run(2)
    for node in nodes:
        owners = {candidate.id for candidate in node.membership.owners_candidates(world.now, 600)}
        assert owners == set(world.nodes) - {"n0001"}


def test_the_whole_table_is_exchanged_now_and_then() -> None:
    """A row that gossip has told often enough still reaches who missed it."""
    world = World(6, seed=37, timing=Timing(retransmit=0))
    nodes = world.introduce_all()
    world.run(1)
    nodes[0].membership.update_self(zone="east")
    world.is_cut = lambda a, b: nodes[0] in (a, b) and nodes[1] not in (a, b)
    world.run(2)
    world.kill(nodes[0])
    world.is_cut = lambda a, b: False
    world.run(150)
    zones = {row.zone for node in nodes[1:] for row in node.membership.members() if row.id == "n0000"}
    assert zones == {"east"}
