"""Hunting for a block among members that hang or say what is not so."""

from __future__ import annotations

import random
import statistics
import time

import pytest

from p2pfs import errors
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from tests.green.greenlet_node import ScriptedPeer, World, block_owned_by_others

SOON_S = 1.5


def strangers(world: World, cid: CID) -> list[ScriptedPeer]:
    """Members that should not have the block."""
    return [peer for id, peer in world.peers.items() if id not in world.owners(cid)]


def timed_fetch(world: World, cid: CID) -> tuple[bytes, float]:
    begin = time.monotonic()
    data = world.fetch(cid)
    return data, time.monotonic() - begin


def test_one_that_says_to_have_what_it_has_not_is_got_past_and_named() -> None:
    world = World(6)
    cid, data = block_owned_by_others(world)
    liar, honest, _ = strangers(world, cid)
    honest.blocks[cid.multihash] = data
    liar.have = lambda mode, cids: [True] * len(cids)  # type: ignore[method-assign]
    liar.answer_s = 0.0001  # it would be the first choice
    assert world.fetch(cid) == data
    assert liar.is_avoided
    assert f"said that it has {cid}" in liar.last_error
    assert not honest.is_avoided
    world.close()


def test_a_hanging_stranger_does_not_hold_up_the_search() -> None:
    world = World(6)
    cid, data = block_owned_by_others(world)
    first, second, third = strangers(world, cid)
    first.hangs = second.hangs = True
    third.blocks[cid.multihash] = data
    fetched, took_s = timed_fetch(world, cid)
    assert fetched == data
    assert took_s < SOON_S
    world.close()


def test_an_owner_that_hangs_is_avoided_after_a_few_blocks_and_costs_nothing_then() -> None:
    world = World(6)
    blocks = []
    while len(blocks) < 8:
        data = random.randbytes(1000)
        cid = CID(RAW, multihash(SHA2_256, data))
        owners = world.owners(cid)
        if "n0" in owners and "me" not in owners:
            blocks.append((cid, data))
            for id in owners:
                world.peers[id].blocks[cid.multihash] = data
    hanging = world.peers["n0"]
    hanging.hangs, hanging.answer_s = True, 0.0001
    spent_s = []
    for number, (cid, data) in enumerate(blocks):
        if number == 3:
            hanging.is_asked.clear()
        fetched, took_s = timed_fetch(world, cid)
        assert fetched == data
        spent_s.append(took_s)
    assert all(took_s >= 0.2 for took_s in spent_s[:3])
    assert not hanging.is_asked.is_set()
    assert statistics.median(spent_s[3:]) < 0.2
    assert "sent none of the last 3 blocks in time" in hanging.last_error
    world.close()


def test_a_damaged_block_is_called_damaged_where_nobody_can_be_asked() -> None:
    world = World(1)
    data = random.randbytes(1000)
    cid = CID(RAW, multihash(SHA2_256, data))
    world.local.put(cid.multihash, memoryview(data))
    world.local.store._blocks[cid.multihash] = b"other bytes", 1  # type: ignore[attr-defined]
    with pytest.raises(errors.Corrupt, match="damaged copies on: me"):
        world.fetch(cid)
    world.close()


def test_the_last_of_many_is_found_and_when_nobody_has_it_all_were_asked() -> None:
    world = World(60)
    cid, data = block_owned_by_others(world)
    holder = strangers(world, cid)[-1]
    holder.blocks[cid.multihash] = data
    assert world.fetch(cid) == data
    holder.blocks.clear()
    with pytest.raises(errors.NotFound, match="this node and 59 of 59 other members do not have it"):
        world.fetch(cid)
    world.close()
