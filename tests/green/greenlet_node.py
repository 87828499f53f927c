"""Parts of a node with peers that are scripted: placing, hunting, buffers. The disks are real or in memory."""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from p2pfs import errors, green, metrics
from p2pfs.core.cid import CID, RAW
from p2pfs.core.member import Member
from p2pfs.core.membership import Membership, Timing
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.profile import Profile
from p2pfs.core.wire import MAX_SMALL
from p2pfs.net.connection import Connection
from p2pfs.node import reading
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.cutting import add_descriptor, add_stream
from p2pfs.node.fetch import Fetcher
from p2pfs.node.hello import Caller
from p2pfs.node.ingest import Ingest
from p2pfs.node.leaves import FileIngest
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import Peer, SmallBlock
from p2pfs.node.peers import Peers
from p2pfs.node.place import Placer
from p2pfs.node.reading import Reader
from p2pfs.store.base import Outcome
from p2pfs.store.memory import MemoryStore
from tests.unit.dags import Blocks, add_file

T = TypeVar("T")
MIB = 1024 * 1024


def no_connection() -> ssl.SSLContext:
    """Scripted peers need none."""
    raise AssertionError("no connection is made")


class ScriptedPeer(Peer):
    """A peer whose blocks are a dict, and that can hang, lie, or refuse."""

    def __init__(self, member: Member) -> None:
        super().__init__(member, Caller("me", "me", "0"), no_connection, green.Group("x"))
        self.blocks: dict[bytes, bytes] = {}
        self.messages = 0
        """Of several small blocks."""
        self.questions = self.puts = 0
        self.hangs = False
        self.lies = False
        self.refuses: errors.P2pfsError | None = None
        self.is_asked = green.Event()

    def _answer(self) -> None:
        self.is_asked.set()
        if self.hangs:
            green.sleep(60)
        if self.refuses:
            raise self.refuses

    def get_block(self, cid: CID, into: memoryview) -> int:
        return self._move(metrics.BLOCKS_FETCHED, 1, lambda _: self._get(cid, into))

    def call(self, lane: str, use: Callable[[Connection], T], wait_s: float = 10.0) -> T:
        """Without one."""
        return use(cast(Connection, None))

    def _get(self, cid: CID, into: memoryview) -> int:
        self._answer()
        if cid.multihash not in self.blocks:
            raise errors.NotFound("not here")
        data = self.blocks[cid.multihash]
        into[: len(data)] = bytes(len(data)) if self.lies else data
        return len(data)

    def put_block(self, cid: CID, data: memoryview) -> int | None:
        self._answer()
        self.puts += 1
        is_new = cid.multihash not in self.blocks
        self.blocks[cid.multihash] = bytes(data)
        return 1 if is_new else None

    def put_blocks(self, blocks: list[SmallBlock]) -> list[Outcome]:
        self.messages += 1
        return [self.put_block(cid, memoryview(data)) for cid, data in blocks]

    def get_blocks(self, cids: list[CID]) -> dict[CID, memoryview]:
        self._answer()
        self.messages += 1
        there = {cid: self.blocks[cid.multihash] for cid in cids if cid.multihash in self.blocks}
        there = {cid: data for cid, data in there.items() if len(data) <= MAX_SMALL}
        return {cid: memoryview(bytes(len(data)) if self.lies else data) for cid, data in there.items()}

    def have(self, mode: str, cids: list[CID]) -> list[bool]:
        self._answer()
        return [cid.multihash in self.blocks for cid in cids]

    def has_renewed(self, cid: CID) -> bool:
        self.questions += 1
        return self.have("renew", [cid])[0]


class World:
    """This node and some scripted members."""

    def __init__(self, size: int, replicas: int = 2) -> None:
        me = Member("me", "me", ("127.0.0.1:1",))
        membership = Membership(me, Timing(), random.Random(1))
        others = [Member(f"n{number}", f"n{number}", (f"127.0.0.1:{number + 2}",)) for number in range(size - 1)]
        membership.merge(time.monotonic(), others, "")
        self.peers = {member.id: ScriptedPeer(member) for member in others}
        peers = Peers(Caller("me", "me", "0"), no_connection)
        peers._peers.update(self.peers)
        self.cluster = Cluster(membership, peers, 600.0)
        self.cluster.changed()
        self.local = LocalStore(MemoryStore(), 2)
        self.buffers = BufferPool("test", 16 * MIB)
        self.paced = BufferPool("paced", 4 * MIB)
        self.fetcher = Fetcher(self.local, self.cluster, self.buffers, lambda: replicas)
        self.placer = Placer(self.local, self.cluster)

    def owners(self, cid: CID, copies: int = 2) -> list[str]:
        return list(self.cluster.ranks(cid.shard)[:copies])

    def fetch(self, cid: CID) -> bytes:
        with self.buffers.buffer() as view:
            return bytes(view[: self.fetcher.block(cid, view)])

    def close(self) -> None:
        self.fetcher.close()
        assert self.buffers.in_use == self.paced.in_use == 0


@pytest.fixture
def world() -> Iterator[World]:
    world = World(5)
    yield world
    world.close()


def block_owned_by_others(world: World) -> tuple[CID, bytes]:
    """A block that this node should not have."""
    while True:
        data = random.randbytes(1000)
        cid = CID(RAW, multihash(SHA2_256, data))
        if "me" not in world.owners(cid):
            return cid, data


def remember_nothing(cid: CID, id: str, token: int) -> None:
    """For puts whose tokens do not matter."""


def test_a_block_comes_from_an_owner(world: World) -> None:
    cid, data = block_owned_by_others(world)
    world.peers[world.owners(cid)[1]].blocks[cid.multihash] = data
    assert world.fetch(cid) == data


def test_a_hanging_owner_is_hedged_and_no_buffer_is_lost(world: World) -> None:
    cid, data = block_owned_by_others(world)
    for id in world.owners(cid):
        world.peers[id].blocks[cid.multihash] = data
    world.peers[world.owners(cid)[0]].hangs = True
    world.peers[world.owners(cid)[0]].answer_s = 0.001  # it would be the first choice
    begin = time.monotonic()
    assert world.fetch(cid) == data
    assert time.monotonic() - begin < 5


def test_wrong_bytes_are_not_returned_and_the_liar_is_named(world: World) -> None:
    cid, data = block_owned_by_others(world)
    liar, honest = (world.peers[id] for id in world.owners(cid))
    liar.blocks[cid.multihash] = honest.blocks[cid.multihash] = data
    liar.lies, liar.answer_s = True, 0.0001
    assert world.fetch(cid) == data
    assert "wrong bytes" in liar.last_error
    assert liar.is_avoided
    honest.lies = True
    with pytest.raises(errors.Corrupt, match="damaged copies on"):
        world.fetch(cid)


def test_a_block_that_only_a_stranger_to_its_shard_has_is_found(world: World) -> None:
    cid, data = block_owned_by_others(world)
    stranger = next(id for id in world.peers if id not in world.owners(cid))
    world.peers[stranger].blocks[cid.multihash] = data
    assert world.fetch(cid) == data


def test_what_nobody_has_names_who_was_asked_and_who_was_silent(world: World) -> None:
    cid, _ = block_owned_by_others(world)
    world.peers["n0"].refuses = errors.Unreachable("gone")
    with pytest.raises(errors.NotFound, match="3 of 4 other members do not have it; no answer from n0"):
        world.fetch(cid)


def test_a_put_goes_to_the_owners_and_past_those_that_fail(world: World) -> None:
    cid, data = block_owned_by_others(world)
    first, second = world.owners(cid)
    copies = world.placer.put(cid, memoryview(data), 2, 2, remember_nothing)
    assert set(copies.holders) == {first, second}
    assert copies.is_new
    assert not world.placer.put(cid, memoryview(data), 2, 2, remember_nothing).is_new
    cid, data = block_owned_by_others(world)
    first, second, third = world.owners(cid, 3)
    world.peers[first].refuses = errors.NoSpace("full")
    copies = world.placer.put(cid, memoryview(data), 2, 2, remember_nothing)
    assert set(copies.holders) == {second, third}


def test_a_put_without_quorum_says_why(world: World) -> None:
    cid, data = block_owned_by_others(world)
    for peer in world.peers.values():
        peer.refuses = errors.Unreachable("gone")
    with pytest.raises(errors.TooFewNodes, match="1 of the 2 nodes needed"):
        world.placer.put(cid, memoryview(data), 2, 2, remember_nothing)
    for peer in world.peers.values():
        peer.refuses = errors.NoSpace("full")
    with pytest.raises(errors.NoSpace):
        world.placer.put(cid, memoryview(data), 2, 2, remember_nothing)


FIXED = Profile().with_chunk(1024)
BY_CONTENT = Profile("fastcdc", 16 * 1024, 4096, 64 * 1024, max_links=8, is_fixed=False)


def ingest(world: World, profile: Profile = FIXED) -> Ingest:
    """A store of small leaves."""
    return Ingest(world.local, world.placer, world.buffers, profile, 2, lambda: 2)


def feed(data: bytes) -> Any:
    """`read` for add_stream, in pieces of odd sizes."""
    position = 0

    def read(view: memoryview) -> int:
        nonlocal position
        count = min(len(view), random.randrange(1, 700), len(data) - position)
        view[:count] = data[position : position + count]
        position += count
        return count

    return read


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 10_000, 300_000])
def test_a_stream_becomes_leaves_in_order_on_two_nodes_each(world: World, size: int) -> None:
    data = random.randbytes(size)
    work = ingest(world)
    file = FileIngest(work, wants_sha256=True)
    add_stream(file, feed(data), world.paced)
    link, _ = file.finish()
    work.join()
    assert link.size == size
    assert work.fewest_copies == 2
    work.close()


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 300_000, 2 * MIB, 5 * MIB + 1])
def test_a_file_cut_by_content_is_the_same_one_by_one_by_descriptor_and_as_a_stream(
    world: World, tmp_path: Path, size: int
) -> None:
    data = random.randbytes(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = add_file([data], BY_CONTENT, Blocks(), keeps=False)
    work = ingest(world, BY_CONTENT)
    file, stream = FileIngest(work, wants_sha256=True), FileIngest(work, wants_sha256=True)
    with path.open("rb") as opened:
        add_descriptor(file, opened.fileno(), b"file")
    add_stream(stream, io.BytesIO(data).readinto, world.paced)
    sha256 = hashlib.sha256(data).hexdigest()
    assert file.finish() == stream.finish() == (expected, sha256)
    work.join()
    assert world.buffers.in_use == world.paced.in_use == 0
    work.close()


def test_a_file_that_became_shorter_is_refused_and_its_buffers_are_given_back(world: World, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * MIB))
    work = ingest(world, BY_CONTENT)
    file = FileIngest(work, wants_sha256=False)
    with path.open("rb") as opened:
        shorten = green.Group("shorten")
        shorten.spawn("truncate", os.truncate, path, 3 * MIB)
        with pytest.raises(errors.Refused, match="shorter"):
            add_descriptor(file, opened.fileno(), b"file")
        file.settle()
    work.close()
    assert world.buffers.in_use == 0


def test_a_store_that_fails_ends_soon_gives_every_buffer_back_and_takes_back_what_it_wrote(world: World) -> None:
    work = ingest(world)
    for peer in world.peers.values():
        peer.refuses = errors.NoSpace("full")
    file = FileIngest(work, wants_sha256=True)

    def run() -> None:
        add_stream(file, feed(random.randbytes(200_000)), world.paced)
        file.finish()

    with pytest.raises(errors.NoSpace):
        run()
    work.take_back()
    work.close()
    assert world.local.usage().blocks == 0


def test_buffers_go_to_who_waits_longest_and_not_back_to_who_gave_them() -> None:
    pool = BufferPool("test", 4 * MIB)
    mine = [pool.take(), pool.take()]
    got: list[memoryview] = []
    group = green.Group("waiters")
    group.spawn("waiter", lambda: got.append(pool.take(5)))
    green.sleep(0)
    pool.give(mine.pop())
    assert pool.try_take() is None
    assert group.join(30)
    assert len(got) == 1
    with pytest.raises(errors.Busy):
        pool.take(0.01)
    pool.give(got.pop())
    pool.give(mine.pop())
    assert pool.in_use == 0


def test_a_waiter_that_is_ended_keeps_nothing() -> None:
    pool = BufferPool("test", 4 * MIB)
    mine = [pool.take(), pool.take()]
    group = green.Group("waiters")
    group.spawn("waiter", pool.take, 5)
    green.sleep(0)
    pool.give(mine.pop())  # handed over, but its greenlet has not run yet
    group._group.kill()
    pool.give(mine.pop())
    assert pool.in_use in (0, 1)
    with pool.buffer(1):
        pass


def test_a_buffer_for_which_there_was_no_memory_may_be_had_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool("test", 4 * MIB)

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        for _ in range(2 * pool.count):
            with pytest.raises(errors.Busy, match="no memory"):
                pool.take(0.01)
    views = [pool.take(0.01) for _ in range(pool.count)]
    for view in views:
        pool.give(view)
    assert pool.in_use == 0


def test_one_party_has_a_half_of_a_pool_and_another_one_gets_the_rest() -> None:
    pool = BufferPool("test", 8 * MIB)
    mine, yours = pool.of("mine"), pool.of("yours")
    taken = [mine.take() for _ in range(2)]
    assert pool.of("mine").try_take() is None, "on another connection, too"
    with pytest.raises(errors.Busy, match="one party"):
        mine.take(0.01)
    theirs, local = yours.take(), pool.of(None).take()
    with pytest.raises(errors.Busy):
        yours.take(0.01)
    pool.give(local)
    mine.give(taken.pop())
    with mine.buffer(), yours.buffer(1):
        pass
    mine.give(taken.pop())
    yours.give(theirs)
    assert pool.in_use == 0


def test_readers_that_pause_let_go_of_what_they_fetched_ahead_and_go_on_where_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAUSE_S", 0.0)
    paced = BufferPool("paced", 8 * MIB)
    reader = Reader(world.local, world.fetcher, world.buffers, paced)
    blocks = [random.randbytes(1000) for _ in range(20)]
    cids = [CID(RAW, multihash(SHA2_256, data)) for data in blocks]
    for cid, data in zip(cids, blocks, strict=True):
        world.local.put(cid.multihash, memoryview(data))
    paused = reader.in_order(cids)
    first = next(paused)
    assert paced.in_use == 4
    assert [bytes(block) for _, block in reader.in_order(cids)] == blocks  # waits for the pool, and gets some of it
    assert bytes(first[1]) == blocks[0]
    assert [bytes(block) for _, block in paused] == blocks[1:]
    assert paced.in_use == 0
    reader.close()


@pytest.fixture
def shared(world: World) -> Iterator[tuple[Reader, list[CID]]]:
    """A reader of four buffers, two of them one party's, and twenty blocks that are here."""
    reader = Reader(world.local, world.fetcher, world.buffers, BufferPool("paced", 8 * MIB))
    blocks = [random.randbytes(1000) for _ in range(20)]
    cids = [CID(RAW, multihash(SHA2_256, data)) for data in blocks]
    for cid, data in zip(cids, blocks, strict=True):
        world.local.put(cid.multihash, memoryview(data))
    yield reader, cids
    assert reader._paced.in_use == 0
    reader.close()


def test_readers_of_one_party_take_turns_with_its_buffers(shared: tuple[Reader, list[CID]]) -> None:
    reader, cids = shared
    came: list[str] = []

    def read(who: str) -> None:
        for _ in reader.in_order(cids, "x"):
            came.append(who)
            green.sleep(0)

    readers = green.Group("readers")
    readers.spawn("first", read, "first")
    green.sleep(0)
    readers.spawn("second", read, "second")
    assert readers.join(30)
    assert len(came) == 2 * len(cids)
    assert came.index("second") < len(cids)


def test_a_reader_that_pauses_lets_another_one_of_its_party_go_on(
    shared: tuple[Reader, list[CID]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAUSE_S", 0.0)
    reader, cids = shared
    paused, stranger = reader.in_order(cids, "x"), reader.in_order(cids, "y")
    next(paused), next(stranger)
    with green.deadline(5, "reading beside one that pauses"):
        assert [cid for cid, _ in reader.in_order(cids, "x")] == cids
        assert reader._paced.in_use == 3, "another party has what it had"
        assert [cid for cid, _ in paused] == cids[1:]
    assert len(list(stranger)) == len(cids) - 1


def test_a_source_that_fails_in_the_middle_of_reading_costs_no_buffer(world: World) -> None:
    reader = Reader(world.local, world.fetcher, world.buffers, world.paced)
    data = random.randbytes(1000)
    cid = CID(RAW, multihash(SHA2_256, data))
    world.local.put(cid.multihash, memoryview(data))

    def source() -> Iterator[CID]:
        yield cid
        raise errors.NotFound("a branch is missing")

    for _ in range(5):
        with pytest.raises(errors.NotFound):
            list(reader.in_order(source()))
    assert reader._group.join(30)  # what was on its way is given back when it has arrived
    assert world.paced.in_use == 0
    reader.close()


def test_a_hanging_owner_is_got_past_even_when_no_buffer_is_left_for_a_hedge(world: World) -> None:
    cid, data = block_owned_by_others(world)
    for id in world.owners(cid):
        world.peers[id].blocks[cid.multihash] = data
    hanging = world.peers[world.owners(cid)[0]]
    hanging.answer_s = 0.0001
    hanging.refuses = errors.DeadlinePassed("it hangs")
    taken = [world.buffers.take() for _ in range(world.buffers.count - 1)]
    assert world.fetch(cid) == data
    for view in taken:
        world.buffers.give(view)


def test_no_copy_reads_the_buffer_after_a_put_was_cut_off(world: World) -> None:
    cid, data = block_owned_by_others(world)
    for id in world.owners(cid):
        world.peers[id].hangs = True
    group = green.Group("putter")
    view = memoryview(bytearray(data))
    group.spawn("put", world.placer.put, cid, view, 2, 2, remember_nothing)
    assert any(world.peers[id].is_asked.wait(30) for id in world.owners(cid))
    group.close()
    view.release()  # would be refused if somebody still had a hold on it
