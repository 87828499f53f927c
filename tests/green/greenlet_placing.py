"""Placing a block where some of the nodes hang: the store goes on, and who hangs costs it once, not for each block."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from p2pfs import errors, green
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.node import place
from p2pfs.node.buffers import SMALL
from tests.green.greenlet_node import ScriptedPeer, World, block_owned_by_others, remember_nothing


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second instead of seconds."""
    monkeypatch.setattr(place, "GRACE_S", 0.2)
    monkeypatch.setattr(place, "SLOW_S", 0.3)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(5)
    yield world
    world.close()


def put(world: World, wanted: int, quorum: int, cid: CID, data: bytes) -> tuple[set[str], float]:
    """Who holds it, and the seconds that it took; nobody reads the buffer any more."""
    view = memoryview(bytearray(data))
    begin = time.monotonic()
    copies = world.placer.put(cid, view, wanted, quorum, remember_nothing)
    took_s = time.monotonic() - begin
    view.release()  # would be refused if somebody still had a hold on it
    return set(copies.holders), took_s


def new_block(size: int = 1000) -> tuple[CID, bytes]:
    """Some block, whoever should have it."""
    data = random.randbytes(size)
    return CID(RAW, multihash(SHA2_256, data)), data


def hang(world: World, *ids: str) -> list[ScriptedPeer]:
    """These do not answer any more."""
    peers = [world.peers[id] for id in ids]
    for peer in peers:
        peer.hangs = True
    return peers


def test_the_next_rank_replaces_one_that_hangs_beyond_the_quorum(world: World) -> None:
    cid, data = block_owned_by_others(world)
    first, second, third = world.owners(cid, 3)
    [hanging] = hang(world, second)
    holders, took_s = put(world, 2, 1, cid, data)
    assert holders == {first, third}
    assert 0.2 <= took_s < 0.6
    assert hanging.is_avoided
    assert "did not take a block within" in hanging.last_error


def test_one_that_hangs_costs_once_and_the_rest_is_left_to_the_audit() -> None:
    world = World(3)
    hang(world, "n0")
    spent_s = []
    for _ in range(10):
        cid, data = new_block()
        holders, took_s = put(world, 3, 2, cid, data)
        assert holders == {"me", "n1"}
        spent_s.append(took_s)
    assert spent_s[0] >= 0.2
    assert sum(spent_s[1:]) < 0.15
    world.close()


def test_below_the_quorum_the_next_rank_is_tried_beside_a_slow_one(world: World) -> None:
    cid, data = block_owned_by_others(world)
    owners = world.owners(cid, 4)
    hanging = hang(world, *owners[:2])
    holders, took_s = put(world, 2, 2, cid, data)
    assert holders == set(owners[2:])
    assert 0.3 <= took_s < 0.8
    assert all(peer.is_avoided for peer in hanging)


def test_a_slow_one_is_still_welcome_when_nobody_else_takes_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3)
    monkeypatch.setattr(world.peers["n0"], "_answer", lambda: green.sleep(0.3))  # HAVE and PUT: 0.6 s
    world.peers["n1"].refuses = errors.NoSpace("full")
    cid, data = new_block()
    holders, took_s = put(world, 2, 2, cid, data)
    assert holders == {"me", "n0"}
    assert took_s >= 0.6
    world.close()


def test_a_node_that_usually_takes_its_time_is_given_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cid, data = block_owned_by_others(world)
    first, second = world.owners(cid)
    slow = world.peers[second]
    slow.answer_s = 0.1
    monkeypatch.setattr(slow, "_answer", lambda: green.sleep(0.2))  # HAVE and PUT: 0.4 s
    holders, _ = put(world, 2, 1, cid, data)
    assert holders == {first, second}


def test_an_avoided_node_is_asked_when_the_quorum_needs_it() -> None:
    world = World(2)
    world.peers["n0"].avoid("it was late")
    cid, data = new_block()
    holders, _ = put(world, 2, 2, cid, data)
    assert holders == {"me", "n0"}
    world.close()


def test_one_that_is_late_again_is_avoided_for_longer_and_a_block_that_comes_through_ends_that(world: World) -> None:
    peer = world.peers["n0"]
    spans_s = []
    for _ in range(6):
        peer.avoid_until = 0.0
        peer.avoid("late")
        peer.avoid("late again, in the same time")
        spans_s.append(round(peer.avoid_until - time.monotonic()))
    assert spans_s == [5, 10, 20, 40, 60, 60]
    peer.avoid_until = 0.0
    cid, data = block_owned_by_others(world)
    peer.blocks[cid.multihash] = data
    peer.get_block(cid, memoryview(bytearray(len(data))))
    peer.avoid("late")
    assert round(peer.avoid_until - time.monotonic()) == 5


def test_when_everybody_hangs_the_error_names_them(world: World) -> None:
    cid, data = block_owned_by_others(world)
    for peer in world.peers.values():
        peer.refuses = errors.DeadlinePassed("no answer")
    with pytest.raises(errors.TooFewNodes, match="no answer"):
        put(world, 3, 2, cid, data)


def place_all(world: World, blocks: list[tuple[CID, bytes]]) -> tuple[int, int]:
    """The blocks of one store; how often a member was asked for one, and how many were sent."""
    expected = place.Expectation()
    for peer in world.peers.values():
        peer.questions = peer.puts = 0
    for cid, data in blocks:
        world.placer.put(cid, memoryview(data), 1, 1, remember_nothing, expected=expected)
    return sum(peer.questions for peer in world.peers.values()), sum(peer.puts for peer in world.peers.values())


def test_a_store_stops_asking_who_lacks_everything_and_sends_nothing_that_is_there() -> None:
    world = World(2)
    blocks = []
    while len(blocks) < 40:
        cid, data = new_block(SMALL + 1)
        if world.owners(cid, 1) == ["n0"]:
            blocks.append((cid, data))
    old, new = blocks[:20], blocks[20:]
    assert place_all(world, old) == (place.ASK_FIRST, 20), "new: asked about the first few only"
    assert place_all(world, old) == (20, 0), "the same again: asked about each, nothing is sent"
    assert place_all(world, old[:10] + new + old[10:]) == (10 + place.ASK_FIRST + 9, 20 + 1), (
        "resumed, then known again: the first block that was there brings the questions back"
    )
    world.close()
