"""Small blocks in messages: to peers that are scripted, and from them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from p2pfs import errors, green
from p2pfs.core import batches
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import IDENTITY, SHA2_256, multihash
from p2pfs.core.wire import MAX_SMALL
from p2pfs.node import small
from p2pfs.node.small import SmallReader
from tests.green.greenlet_node import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World(4)
    yield world
    world.close()


@pytest.fixture
def reader(world: World) -> Iterator[SmallReader]:
    reader = SmallReader(world.local, world.cluster, world.fetcher, world.buffers, lambda: 2)
    yield reader
    reader.close()


def files(count: int, size: int = 100) -> dict[CID, bytes]:
    return {CID(RAW, multihash(SHA2_256, data)): data for data in (random.randbytes(size) for _ in range(count))}


def spread(world: World, wanted: dict[CID, bytes]) -> None:
    """Each at its owners."""
    for cid, data in wanted.items():
        for id in world.owners(cid):
            if id == "me":
                world.local.put(cid.multihash, memoryview(data))
            else:
                world.peers[id].blocks[cid.multihash] = data


def read(world: World, reader: SmallReader, cids: list[CID]) -> dict[CID, bytes]:
    with world.paced.buffer() as scratch:
        return dict(reader.read(cids, scratch))


def test_many_files_take_a_message_to_an_owner(world: World, reader: SmallReader) -> None:
    wanted = files(batches.MOST)
    spread(world, wanted)
    assert read(world, reader, list(wanted)) == wanted
    assert 1 <= sum(peer.messages for peer in world.peers.values()) <= len(world.peers)


@pytest.mark.parametrize("trouble", ["lies", "refuses", "empty", "hangs"])
def test_what_a_bad_owner_does_not_send_is_hunted(
    world: World, reader: SmallReader, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "LATE_S", 0.05)
    wanted = files(40)
    spread(world, wanted)
    bad = world.peers["n0"]
    bad.lies, bad.hangs = trouble == "lies", trouble == "hangs"
    bad.refuses = errors.Busy("no") if trouble == "refuses" else None
    if trouble == "empty":
        bad.blocks.clear()
    assert read(world, reader, list(wanted)) == wanted
    assert bad.is_avoided or trouble != "lies"


def test_what_nobody_has_is_an_error_and_what_is_not_small_is_left_out(world: World, reader: SmallReader) -> None:
    wanted, big, branch = files(3), files(2, MAX_SMALL + 1), CID(0x70, multihash(SHA2_256, b"branch"))
    spread(world, wanted | big)
    assert read(world, reader, [*big, *wanted, branch]) == wanted
    gone = files(1)
    with pytest.raises(errors.NotFound, match=str(next(iter(gone)))):
        read(world, reader, [*wanted, *gone])


def test_what_is_not_found_in_time_is_left_out(
    world: World, reader: SmallReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "LATE_S", 0.05)
    monkeypatch.setattr(small, "HUNT_S", 0.05)
    here, elsewhere = files(3), files(20)
    for data in here.values():
        world.local.put(multihash(SHA2_256, data), memoryview(data))
    for peer in world.peers.values():
        peer.blocks.update((cid.multihash, data) for cid, data in elsewhere.items())
        peer.hangs = True
    with green.deadline(10, "reading small files"):
        assert read(world, reader, [*elsewhere, *here]) == here
    assert world.buffers.in_use == 0


def test_what_lies_in_its_cid_is_asked_of_nobody(world: World, reader: SmallReader) -> None:
    wanted = {CID(RAW, multihash(IDENTITY, data)): data for data in (b"", b"1", bytes(128))}
    assert read(world, reader, list(wanted)) == wanted
    assert sum(peer.messages for peer in world.peers.values()) == 0


def test_an_answer_stays_within_a_message_whatever_a_directory_said(world: World, reader: SmallReader) -> None:
    wanted = files(40, MAX_SMALL)
    spread(world, wanted)
    found = read(world, reader, list(wanted))
    assert 0 < len(found) < 40
    assert len(batches.pack(found.items())) <= 1024 * 1024


def test_small_puts_to_one_peer_travel_together(world: World) -> None:
    wanted = files(200)
    written: list[tuple[CID, str, int]] = []
    group = green.Group("puts")
    for cid, data in wanted.items():
        group.spawn("put", world.placer.put, cid, memoryview(data), 2, 2, lambda *row: written.append(row))
    assert group.join(30)
    holders = {cid: sum(cid.multihash in peer.blocks for peer in world.peers.values()) for cid in wanted}
    ours = sum(world.local.have([cid.multihash for cid in wanted]))
    assert sum(holders.values()) + ours == 400 == len(written)
    assert sum(peer.messages for peer in world.peers.values()) < 40
