"""A store that takes long keeps its blocks young, and notices when one is gone."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from p2pfs import errors, green
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import renewing
from p2pfs.node.renewing import Renewal
from tests.green.greenlet_node import ScriptedPeer, World

DEADLINE_S = 30.0


class Asked(ScriptedPeer):
    """Counts what is renewed at it."""

    def __init__(self, peer: ScriptedPeer) -> None:
        super().__init__(peer.member)
        self.renewed: list[Multihash] = []
        self.asked = 0

    def have(self, mode: str, cids: list[CID]) -> list[bool]:
        assert mode == "renew"
        self.asked += 1
        found = super().have(mode, cids)
        self.renewed += [cid.multihash for cid, is_here in zip(cids, found, strict=True) if is_here]
        return found


@pytest.fixture
def world() -> Iterator[World]:
    world = World(5)
    world.peers = {id: Asked(peer) for id, peer in world.peers.items()}
    world.cluster.peers._peers.update(world.peers)
    yield world
    world.close()


def asked(world: World, id: str) -> Asked:
    peer = world.peers[id]
    assert isinstance(peer, Asked)
    return peer


def new_block(codec: int = RAW) -> CID:
    return CID(codec, multihash(SHA2_256, random.randbytes(100)))


def keep(world: World, cid: CID, *ids: str) -> None:
    """These have the block."""
    for id in ids:
        if id == "me":
            world.local.store._blocks[cid.multihash] = b""  # type: ignore[attr-defined]
        else:
            world.peers[id].blocks[cid.multihash] = b""


def renewal(world: World, every_s: float, failures: list[BaseException]) -> Renewal:
    return Renewal(world.local, world.cluster, 2, lambda: every_s, lambda name, error: failures.append(error))


def never(cid: CID) -> None:
    raise AssertionError(f"{cid} has its copies")


def wait_for(condition: object, what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, what
        green.sleep(0.01)


def test_what_was_placed_is_renewed_again_and_again_where_it_is(world: World) -> None:
    failures: list[BaseException] = []
    work = renewal(world, 0.1, failures)
    leaf, branch = new_block(), new_block(DAG_PB)
    others = list(world.peers)
    owners = [id for id in world.owners(leaf, 5) if id != "me"][:2]
    keep(world, leaf, *owners)
    keep(world, branch, *others)
    work.note(leaf)
    work.note(branch)
    for id in others:
        wait_for(lambda id=id: asked(world, id).renewed.count(branch.multihash) >= 2, f"{id}: the branch")
    for id in owners:
        wait_for(lambda id=id: asked(world, id).renewed.count(leaf.multihash) >= 2, f"{id}: the leaf")
    assert not failures
    assert work.finish(2, never) == 2
    work.close()


def test_a_grace_that_is_shortened_counts_from_then_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "LOOK_S", 0.02)
    grace_s, looks = [3600.0], [0]

    def every_s() -> float:
        looks[0] += 1
        return renewing.interval_s(grace_s[0])

    work = Renewal(world.local, world.cluster, 2, every_s, lambda *_: None)
    leaf = new_block()
    owner = next(id for id in world.owners(leaf, 5) if id != "me")
    keep(world, leaf, owner)
    work.note(leaf)
    wait_for(lambda: looks[0] >= 3, "it looks whether it is time")
    assert not asked(world, owner).renewed
    grace_s[0] = 0.4
    wait_for(lambda: len(asked(world, owner).renewed) >= 3, "it is renewed, again and again")
    grace_s[0] = 3600.0
    assert work.finish(1, never) is None
    work.close()


@pytest.mark.parametrize(("grace_s", "every_s"), [(24 * 3600.0, 600.0), (60.0, 15.0), (0.0, 0.25)])
def test_renewals_are_more_often_than_collections_look(grace_s: float, every_s: float) -> None:
    assert renewing.interval_s(grace_s) == every_s


def test_a_copy_on_the_last_rank_counts_and_one_that_is_nowhere_fails_the_store(world: World) -> None:
    failures: list[BaseException] = []
    work = renewal(world, 60.0, failures)
    leaf = new_block()
    last = [id for id in world.owners(leaf, 5) if id != "me"][-1]
    keep(world, leaf, last)
    work.note(leaf)
    assert work.finish(1, never) is None  # it did not take long: nobody is asked
    assert not any(asked(world, id).asked for id in world.peers)
    assert work.renew() == 1
    world.peers[last].blocks.clear()
    with pytest.raises(errors.TooFewNodes, match=f"the first is {leaf}; store it again, what is there"):
        work.renew()
    work.close()


def test_a_block_that_is_gone_ends_the_store_at_once(world: World) -> None:
    failures: list[BaseException] = []
    work = renewal(world, 0.05, failures)
    work.note(new_block())
    wait_for(lambda: failures, "it is noticed")
    assert isinstance(failures[0], errors.TooFewNodes)
    work.close()


def test_one_that_is_silent_is_asked_once_a_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "HAVE_BATCH", 2)
    work = renewal(world, 60.0, [])
    for _ in range(40):
        branch = new_block(DAG_PB)
        keep(world, branch, "n1", "n2", "n3")
        work.note(branch)
    world.peers["n0"].refuses = errors.DeadlinePassed("no answer")
    assert work.renew() == 3
    assert asked(world, "n0").asked == 1
    assert asked(world, "n1").asked == 20
    work.close()


def test_a_long_list_of_blocks_is_in_a_file_and_renewed_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "MEMORY_BYTES", 100 * renewing.ROW)
    work = renewal(world, 60.0, [])
    for _ in range(3000):
        leaf = new_block()
        keep(world, leaf, "n1", "n2")
        work.note(leaf)
    work.note(CID(RAW, b"\0\x01x"))  # a CID that holds its data: there is no block
    assert work._size == 3000 * renewing.ROW
    assert work._rows._rolled  # type: ignore[attr-defined]
    assert work.renew() == 2
    assert len(asked(world, "n1").renewed) == 3000
    work.close()
