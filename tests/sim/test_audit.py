"""Audits that interleave in any order, with outdated views: nothing is lost, and all ends where it should."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from p2pfs.core.audit import owners
from p2pfs.core.multihash import shard_of
from tests.sim.audits import GRACE, World, block, placement

IDS = "abcd"
BLOCKS = [block(number) for number in range(2)]
MANY = settings(max_examples=150)

Step = tuple[str, int, int]


def steps(*kinds: str) -> st.SearchStrategy[list[Step]]:
    """What happens: mostly somebody's next step, for what is interesting lies between the steps."""
    kind = st.sampled_from(["run"] * 6 + list(kinds))
    return st.lists(st.tuples(kind, st.integers(0, len(IDS) - 1), st.integers(0, 15)), min_size=20, max_size=120)


def some_of(mask: int) -> list[str]:
    return [id for number, id in enumerate(IDS) if mask >> number & 1]


def take(world: World, step: Step) -> None:
    """`run`: its next step. `view`: it takes these for the members. `learn`: it sees all, and another's catalog."""
    kind, number, value = step
    node = world.nodes[IDS[number]]
    what = BLOCKS[value % len(BLOCKS)]
    if kind == "run":
        world.run(node.id)
    elif kind == "view":
        node.members = frozenset(some_of(value))
    elif kind == "learn":
        node.members = frozenset(IDS)
        node.merge(world.nodes[IDS[value % len(IDS)]].catalog)
    elif kind == "flip":
        node.is_up, node.work = not node.is_up, None
    elif kind == "wait":
        world.now += GRACE // 4 * (1 + value % 8)
    elif kind == "store" and node.is_up:
        world.begin_store(node.id, what, 1 + value % 3)
    elif kind == "remove" and node.is_up:
        world.pin(what, 0, [node])


class Start(NamedTuple):
    """Who takes whom for members, and of each block how many copies are wanted and who holds it."""

    views: list[int]
    blocks: list[tuple[int, int]]
    has_branch: bool = False

    def world(self, room: int | None = None, without: str = "") -> World:
        world = World(IDS, room, without)
        world.branches = {BLOCKS[0]} if self.has_branch else set()
        for id, mask in zip(IDS, self.views, strict=True):
            world.nodes[id].members = frozenset(some_of(mask))
        for what, (copies, mask) in zip(BLOCKS, self.blocks, strict=True):
            world.place(what, copies, some_of(mask))
        return world


STARTS = st.builds(
    Start,
    st.lists(st.integers(0, 15), min_size=len(IDS), max_size=len(IDS)),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 15)), min_size=len(BLOCKS), max_size=len(BLOCKS)),
    st.booleans(),
)
ROOM = st.none() | st.integers(1, len(BLOCKS))


# --- nothing is lost ---------------------------------------------------------------------------------

@MANY
@given(STARTS, steps("view", "view", "learn", "flip", "wait", "store", "remove"))
def test_no_wanted_block_loses_its_last_copy(start: Start, happens: list[Step]) -> None:
    """Joins, leaves and drains are changes of views here, and deaths are flips: each node may have heard of any."""
    world = start.world()
    for step in happens:
        take(world, step)
        assert not world.lost()


@MANY
@given(STARTS, steps("view", "view", "learn"), ROOM)
def test_audits_alone_never_make_fewer_copies_than_wanted(start: Start, happens: list[Step], room: int | None) -> None:
    world = start.world(room)
    for step in happens:
        take(world, step)
        for what, (_, mask) in zip(BLOCKS, start.blocks, strict=True):
            least = min(mask.bit_count(), world.least_wanted.get(what, 99))
            assert len(world.holders(what)) >= least


MUTUAL = Start([0b0010, 0b0001, 0, 0], [(1, 0b0011)] * 2)
"""`a` takes `b` for the only member, `b` takes `a`: each would give up its copy for the other's."""


def loses(start: Start, happens: list[Step], without: str) -> bool:
    world = start.world(without=without)
    for step in happens:
        take(world, step)
    return bool(world.lost())


@pytest.mark.parametrize(("without", "is_lost"), [("", False), ("renewal", True), ("token", True)])
def test_a_mutual_giving_up_needs_both_the_renewal_and_the_token(without: str, is_lost: bool) -> None:
    in_turn = [("run", number % 2, 0) for number in range(12)]
    assert loses(MUTUAL, in_turn, without) == is_lost


@pytest.mark.parametrize(("without", "is_lost"), [("", False), ("age", True), ("comparing", True)])
def test_collection_beside_a_store_needs_the_age_and_the_comparison(without: str, is_lost: bool) -> None:
    """`a` stores a block whose only owner is `b`, which collects meanwhile, or long afterwards."""
    def loses_when(steps_before_the_pin: int, wait: int) -> bool:
        world = World("ab", without=without)
        for id in "ab":
            world.nodes[id].members = frozenset("b")
        world.begin_store("a", BLOCKS[0], 1)
        for id in "aa" + "b" * steps_before_the_pin + "a":
            world.run(id)
        assert world.truth
        world.now += wait
        for _ in range(10):
            world.run("b")
        return bool(world.lost())

    assert any(loses_when(number, wait) for number in range(8) for wait in (0, 2 * GRACE)) == is_lost


@pytest.mark.slow
@pytest.mark.parametrize("without", ["renewal", "token"])
def test_the_search_finds_a_loss_when_one_of_the_safeguards_is_off(without: str) -> None:
    """So that the tests above are known to look where a loss would be."""
    find(
        st.tuples(STARTS, steps("view", "view", "learn")),
        lambda case: loses(case[0], case[1], without),
        settings=settings(
            max_examples=20_000, derandomize=True, database=None, phases=[Phase.generate],
        ),
    )


# --- all ends where it should ------------------------------------------------------------------------

def check_settled(world: World) -> None:
    """Every owner that has room holds its blocks, and nobody else keeps a leaf that all owners hold."""
    for what, record in world.truth.items():
        for node in world.nodes.values():
            live = world.live(node, what)
            if not record.copies or live is None or not node.is_up:
                continue
            holders = owners(world.stand(node, what), live)
            is_full = node.room is not None and len(node.holds) >= node.room
            if node.id in holders:
                assert what in node.holds or is_full
            else:
                assert what not in node.holds or not set(holders) <= set(world.holders(what))


@MANY
@given(STARTS, steps("view", "learn", "flip", "wait", "store", "remove"), ROOM)
def test_when_views_agree_blocks_end_at_their_owners(start: Start, happens: list[Step], room: int | None) -> None:
    world = start.world(room)
    for step in happens:
        take(world, step)
    for node in world.nodes.values():
        node.is_up = True
    world.settle(IDS)
    assert not world.lost()
    check_settled(world)


def full_world(ids: str, count: int, copies: int) -> World:
    """That many blocks, each where it belongs."""
    world = World(ids)
    for number in range(count):
        world.place(block(number), copies, placement(frozenset(ids)).owners(shard_of(block(number)), copies))
    return world


STEPS_EACH = 30


def run_a_while(world: World, members: str, chance: random.Random) -> None:
    """Steps of all nodes in any order; one after the other hears who the members are."""
    for hearing in chance.sample(list(world.nodes), k=len(world.nodes)):
        world.learn(hearing, members)
        for id in chance.choices(list(world.nodes), k=STEPS_EACH):
            world.run(id)


@pytest.mark.parametrize(("ids", "copies"), [("ab", 2), ("abc", 2), ("abcde", 3), ("abcdefghi", 3)])
def test_a_join_moves_what_the_new_member_owns_and_nothing_else(ids: str, copies: int) -> None:
    count, members = 1000, ids + "z"
    world = full_world(ids, count, copies)
    world.join("z")
    run_a_while(world, members, random.Random(7))
    world.settle(members)
    ideal = count * copies / len(members)
    assert {id for id, _ in world.fetched} == {"z"}
    assert abs(len(world.fetched) - ideal) < 0.1 * ideal
    assert world.given_up == len(world.fetched), "what moved in was moved out elsewhere"
    check_settled(world)


@pytest.mark.parametrize("seed", range(3))
def test_a_drain_moves_what_the_member_held_and_leaves_nothing_behind(seed: int) -> None:
    world = full_world("abcde", 300, 3)
    held = len(world.nodes["e"].holds)
    run_a_while(world, "abcd", random.Random(seed))
    world.settle("abcd")
    assert not world.nodes["e"].holds
    assert len(world.fetched) == held and all(len(world.holders(what)) == 3 for what in world.truth)


@pytest.mark.parametrize("seed", range(3))
def test_who_is_back_before_out_after_fetches_what_it_missed_and_nobody_else_anything(seed: int) -> None:
    chance, ids = random.Random(seed), "abcde"
    world = full_world(ids, 300, 3)
    world.nodes["e"].is_up = False
    missed = []
    for number in range(300, 330):
        storing = chance.choice("abcd")
        world.begin_store(storing, block(number), 3)
        for id in chance.choices("abcd", k=8) + [storing] * 7:
            world.run(id)
        assert len(world.holders(block(number))) == 3, "the next rank took the copy of who is away"
        if world.is_owner("e", block(number)):
            missed.append(("e", block(number)))
    assert not world.fetched and len(missed) > 10
    world.nodes["e"].is_up = True
    run_a_while(world, ids, chance)
    world.settle(ids)
    assert sorted(world.fetched) == sorted(missed)
    assert all(len(world.holders(what)) == 3 for what in world.truth)


@pytest.mark.parametrize("seed", range(3))
def test_who_is_away_for_longer_is_replaced_and_gets_nothing_twice(seed: int) -> None:
    chance = random.Random(seed)
    world = full_world("abcde", 300, 3)
    held = set(world.nodes["e"].holds)
    world.nodes["e"].is_up = False
    run_a_while(world, "abcd", chance)
    world.settle("abcd")
    assert {what for _, what in world.fetched} == held and len(world.fetched) == len(held)
    world.nodes["e"].is_up = True
    run_a_while(world, "abcde", chance)
    world.settle("abcde")
    assert len(world.fetched) == len(held), "it had all that it owns"
    check_settled(world)
    assert all(len(world.holders(what)) == 3 for what in world.truth)
