"""The block store contract, for every implementation."""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from p2pfs import errors
from p2pfs.core.multihash import BLAKE3, SHA2_256, digest_of, multihash, shard_of
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import folders
from p2pfs.store.base import BlockStore, Seen
from p2pfs.store.disk import DiskStore
from p2pfs.store.memory import MemoryStore

Open = Callable[..., BlockStore]
BUFFER = memoryview(bytearray(MAX_BLOCK))


@pytest.fixture(autouse=True)
def few_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shard folders are made when they are needed: 4096 of them for each test would take most of its time."""
    monkeypatch.setattr(folders, "make_shards", lambda blocks: None)


@pytest.fixture(params=["memory", "disk"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "memory":
        return MemoryStore
    return lambda **options: DiskStore(tmp_path, **options)


@pytest.fixture
def store(open_store: Open) -> BlockStore:
    return open_store()


def named(data: bytes, code: int = SHA2_256) -> tuple[bytes, memoryview]:
    return multihash(code, data), memoryview(data)


def in_one_shard(count: int) -> list[tuple[bytes, memoryview]]:
    """Different blocks that fall into the same shard."""
    by_shard: dict[int, list[tuple[bytes, memoryview]]] = {}
    for number in itertools.count():
        block, data = named(b"%d" % number)
        found = by_shard.setdefault(shard_of(block), [])
        found.append((block, data))
        if len(found) == count:
            return found
    raise AssertionError


@pytest.mark.parametrize("code", [SHA2_256, BLAKE3])
@pytest.mark.parametrize("length", [0, 1, 4096, 1_000_001, MAX_BLOCK])
def test_what_was_put_is_read(store: BlockStore, code: int, length: int) -> None:
    block, data = named(bytes(range(251)) * (length // 251) + bytes(length % 251), code)
    assert not store.has(block)
    assert store.put(block, data)
    assert store.has(block) and store.size(block) == length
    assert store.read(block, BUFFER) == length
    assert BUFFER[:length] == data
    assert store.usage() == (1, length, True)


def test_a_second_put_is_no_new_block(store: BlockStore) -> None:
    block, data = named(b"twice")
    assert store.put(block, data)
    assert store.put(block, data) is None
    assert store.put(block, data, is_verified=True) is None
    assert store.usage() == (1, 5, True)


def test_one_content_under_two_hashes_is_two_blocks(store: BlockStore) -> None:
    for code in (SHA2_256, BLAKE3):
        assert store.put(*named(b"same bytes", code))
    assert store.usage().blocks == 2


def test_absent_blocks_are_not_found(store: BlockStore) -> None:
    block, _ = named(b"nowhere")
    with pytest.raises(errors.NotFound, match=digest_of(block).hex()):
        store.read(block, BUFFER)
    with pytest.raises(errors.NotFound):
        store.size(block)
    assert not store.has(block) and not store.has(block, renew=True)
    assert not store.delete(block) and not store.discard(block, 1)
    assert store.seen(block) is None


def test_put_refuses_bytes_of_another_name(store: BlockStore) -> None:
    block, _ = named(b"a name")
    with pytest.raises(errors.Corrupt):
        store.put(block, memoryview(b"other bytes"))
    assert not store.has(block) and store.usage() == (0, 0, True)


def test_put_refuses_names_that_no_block_is_stored_under(store: BlockStore) -> None:
    for block in (b"\x00\x02ab", b"\x11\x14" + bytes(20), b"", b"\x12\x20short"):
        with pytest.raises(errors.BadCid):
            store.put(block, memoryview(b"ab"))
    assert store.usage() == (0, 0, True)


def test_put_refuses_more_than_2_mib(store: BlockStore) -> None:
    block, data = named(bytes(MAX_BLOCK + 1))
    for is_verified in (False, True):
        with pytest.raises(errors.TooBig):
            store.put(block, data, is_verified)
    assert not store.has(block)


def test_of_many_each_has_the_fate_that_it_would_have_alone(open_store: Open) -> None:
    store = open_store(max_size=20)
    here, new, big, last = named(b"here"), named(b"twelve bytes"), named(b"too much now"), named(b"last")
    store.put(*here)
    wrong, nameless = (here[0], memoryview(b"hare")), (b"\x11\x14" + bytes(20), memoryview(b"ab"))
    outcomes = store.put_many([here, new, wrong, big, new, nameless, last])
    assert [type(outcome) for outcome in outcomes] == [
        type(None), int, errors.Corrupt, errors.NoSpace, type(None), errors.BadCid, int,
    ]
    assert store.usage() == (3, 20, True) == store.recount()
    for block, data in (here, new, last):
        assert store.has(block) and BUFFER[: store.read(block, BUFFER)] == data
    assert isinstance(outcomes[1], int) and store.discard(new[0], outcomes[1]) is False, "it was renewed as the fifth"
    assert isinstance(outcomes[6], int) and store.discard(last[0], outcomes[6])
    assert store.put_many([]) == []


def test_read_refuses_a_buffer_that_a_block_may_not_fit_in(store: BlockStore) -> None:
    block, data = named(b"small")
    store.put(block, data)
    with pytest.raises(ValueError, match="buffer"):
        store.read(block, BUFFER[:-1])


def test_a_false_name_that_was_called_verified_is_never_served(store: BlockStore) -> None:
    block, _ = named(b"a name")
    store.put(block, memoryview(b"wrong!"), is_verified=True)
    with pytest.raises(errors.Corrupt):
        store.read(block, BUFFER)
    assert not store.has(block) and store.quarantined() == 1
    with pytest.raises(errors.NotFound):
        store.read(block, BUFFER)
    assert store.usage() == (0, 0, True)
    assert store.put(block, memoryview(b"a name"))
    assert store.read(block, BUFFER) == 6


def test_a_copy_of_the_wrong_length_is_replaced_by_put(store: BlockStore) -> None:
    block, data = named(b"the right one")
    store.put(block, memoryview(b"short"), is_verified=True)
    assert store.put(block, data)
    assert store.read(block, BUFFER) == 13
    assert store.quarantined() == 1 and store.usage() == (1, 13, True)


def test_discard_takes_back_what_nobody_renewed(store: BlockStore) -> None:
    block, data = named(b"taken back")
    token = store.put(block, data)
    assert token
    assert store.discard(block, token)
    assert not store.has(block) and store.usage() == (0, 0, True)


@pytest.mark.parametrize("renew", [
    lambda store, block, data: store.has(block, renew=True),
    lambda store, block, data: store.put(block, data) is None,
], ids=["has", "put"])
def test_discard_leaves_what_was_renewed_a_moment_later(
    store: BlockStore, renew: Callable[[BlockStore, bytes, memoryview], bool]
) -> None:
    for number in range(50):  # faster than the kernel's clock ticks
        block, data = named(b"renewed %d" % number)
        token = store.put(block, data)
        assert token
        assert renew(store, block, data)
        assert not store.discard(block, token)
        assert store.has(block)


def test_seen_tells_length_and_age(store: BlockStore) -> None:
    before = time.time_ns()
    block, data = named(b"seen")
    token = store.put(block, data)
    assert token
    assert store.seen(block) == Seen(4, token) == store.seen(block), "looking does not renew"
    assert before - 50_000_000 < token < time.time_ns() + 50_000_000, "apart by a tick of the kernel's clock"
    assert store.discard(block, token)
    assert store.seen(block) is None


def test_discard_takes_what_seen_told_and_leaves_what_was_renewed_since(store: BlockStore) -> None:
    for number in range(50):
        block, data = named(b"seen %d" % number)
        store.put(block, data)
        assert store.has(block, renew=True)
        seen = store.seen(block)
        assert seen
        assert store.has(block, renew=True)
        again = store.seen(block)
        assert again and again.token > seen.token
        assert not store.discard(block, seen.token) and store.has(block)
        assert store.discard(block, again.token) and not store.has(block)


def round_down(folder: Path, block: bytes, changed: int) -> None:
    """What a file system that keeps whole seconds would tell of a block that was renewed in that second."""
    name = digest_of(block).hex()
    os.utime(folder / "blocks" / name[:3] / name, (changed, changed))


def test_whole_seconds_hide_a_renewal_so_a_young_block_stays(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    block, data = named(b"rounded")
    store.put(block, data)
    now = int(time.time())
    round_down(tmp_path, block, now)
    seen = store.seen(block)
    assert seen
    round_down(tmp_path, block, now)  # a renewal in the same second: nothing shows
    assert not store.discard(block, seen.token) and store.has(block)


def test_whole_seconds_do_not_stop_the_discard_of_an_older_block(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    block, data = named(b"rounded")
    store.put(block, data)
    now = int(time.time())
    round_down(tmp_path, block, now - 3)
    seen = store.seen(block)
    assert seen
    round_down(tmp_path, block, now)
    assert not store.discard(block, seen.token), "it was renewed"
    round_down(tmp_path, block, now - 3)
    assert store.discard(block, seen.token) and not store.has(block)


def test_what_is_no_file_is_not_seen(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    block, _ = named(b"a folder in its place")
    name = digest_of(block).hex()
    (tmp_path / "blocks" / name[:3] / name).mkdir(parents=True)
    assert store.seen(block) is None


def test_looking_does_not_renew(store: BlockStore) -> None:
    block, data = named(b"looked at")
    token = store.put(block, data)
    assert token
    assert store.has(block) and store.read(block, BUFFER) and store.size(block) and store.seen(block)
    assert store.discard(block, token)


def test_delete_removes_whatever_its_age(store: BlockStore) -> None:
    block, data = named(b"deleted")
    store.put(block, data)
    store.has(block, renew=True)
    assert store.delete(block)
    assert not store.delete(block)
    assert store.usage() == (0, 0, True)


def test_iterate_gives_a_shard_in_order(store: BlockStore) -> None:
    blocks = in_one_shard(3)
    for block, data in blocks:
        store.put(block, data)
    other = next(b for b in map(named, (b"x", b"y")) if shard_of(b[0]) != shard_of(blocks[0][0]))
    store.put(*other)
    assert list(store.iterate(shard_of(blocks[0][0]))) == sorted(block for block, _ in blocks)
    assert sum(len(list(store.iterate(shard))) for shard in range(4096)) == 4


def test_max_size_is_hard_and_removal_makes_room(open_store: Open) -> None:
    store = open_store(max_size=10)
    first, second = named(b"12345"), named(b"6789012")
    assert store.free_bytes() == 10
    store.put(*first)
    with pytest.raises(errors.NoSpace, match=r"max_size|10"):
        store.put(*second)
    assert not store.has(second[0]) and store.free_bytes() == 5
    assert store.put(*first) is None, "what is here needs no room"
    assert store.put(*named(b"abcde"))
    assert store.free_bytes() == 0
    assert store.delete(first[0]) and store.free_bytes() == 5


def test_limits_can_change(open_store: Open) -> None:
    store = open_store(max_size=4)
    first, second = named(b"12345"), named(b"67890")
    with pytest.raises(errors.NoSpace):
        store.put(*first)
    store.set_limits(5, 0)
    assert store.put(*first)
    store.set_limits(3, 0)
    assert store.has(first[0]) and store.free_bytes() == 0
    with pytest.raises(errors.NoSpace):
        store.put(*second)
    store.set_limits(None, 0)
    assert store.put(*second)


def test_recount_agrees(store: BlockStore) -> None:
    for number in range(20):
        store.put(*named(b"%d" % number))
    before = store.usage()
    assert store.recount() == before == (20, 30, True)


def in_threads(count: int, run: Callable[[int], None]) -> None:
    """Run `run(0)` ... at the same time; the first exception is raised here."""
    barrier, failures = threading.Barrier(count), []

    def body(number: int) -> None:
        barrier.wait(60)
        try:
            run(number)
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_many_threads_put_one_block(store: BlockStore) -> None:
    def put_at_once(block: bytes, data: memoryview) -> list[int | None]:
        tokens: list[int | None] = []
        in_threads(4, lambda _: tokens.append(store.put(block, data)))
        return tokens

    for number in range(20):
        tokens = put_at_once(*named(b"%d" % number * 1000))
        assert len(tokens) == 4 and sum(token is not None for token in tokens) == 1
    assert store.usage() == store.recount()


def test_many_threads_put_the_same_blocks_in_any_order(store: BlockStore) -> None:
    blocks = [named(b"%d" % number * 100) for number in range(12)]
    outcomes: list[object] = []

    def run(number: int) -> None:
        for turn in range(4):
            at = (5 * number + turn) % len(blocks)
            mine = blocks[at:] + blocks[:at]
            outcomes.extend(store.put_many(mine[::-1] if number % 2 else mine))

    in_threads(4, run)
    assert sum(outcome is not None for outcome in outcomes) == len(blocks)
    assert store.usage() == (12, sum(len(data) for _, data in blocks), True) == store.recount()


def test_limits_hold_against_many_threads(open_store: Open) -> None:
    store = open_store(max_size=100_000)
    refused = []

    def run(number: int) -> None:
        for turn in range(20):
            try:
                store.put(*named(b"%d %d " % (number, turn) * 1000))
            except errors.NoSpace as error:
                refused.append(error)

    in_threads(6, run)
    assert refused
    assert 90_000 < store.usage().bytes <= 100_000
    assert store.usage() == store.recount()


def test_who_is_told_that_it_is_here_can_rely_on_it(store: BlockStore) -> None:
    """One thread puts and takes back, others renew: a True of `has` means that it stays."""
    block, data = named(b"contended" * 100)
    for _ in range(100):
        promised = threading.Event()

        def run(number: int, promised: threading.Event = promised) -> None:
            if number:
                if store.has(block, renew=True):
                    promised.set()
            else:
                token = store.put(block, data)
                assert token
                store.discard(block, token)

        in_threads(3, run)
        assert store.has(block) or not promised.is_set()
        store.delete(block)


def test_a_count_beside_changes_is_exact(store: BlockStore) -> None:
    done = threading.Event()

    def run(number: int) -> None:
        if number == 0:
            for _ in range(2):
                store.recount()
            done.set()
            return
        for turn in itertools.count():
            if done.is_set():
                return
            block, data = named(b"%d %d" % (number, turn))
            store.put(block, data)
            if turn % 3:
                store.delete(block)

    in_threads(3, run)
    counted = store.usage()
    assert counted.is_exact and counted == store.recount()


DATA = st.binary(max_size=5)


class Model(RuleBasedStateMachine):
    """Any order of calls gives what a dict gives."""

    store: BlockStore

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, bytes] = {}
        self.tokens: dict[bytes, int] = {}
        self.stale: dict[bytes, int] = {}

    @rule(data=DATA, code=st.sampled_from([SHA2_256, BLAKE3]))
    def put(self, data: bytes, code: int) -> None:
        block, view = named(data, code)
        token = self.store.put(block, view)
        assert (token is None) == (block in self.model)
        self.model[block] = data
        self.renewed(block)
        if token is not None:
            self.tokens[block] = token

    @rule(several=st.lists(DATA, max_size=4))
    def put_many(self, several: list[bytes]) -> None:
        outcomes = self.store.put_many([named(data) for data in several])
        for data, outcome in zip(several, outcomes, strict=True):
            block, _ = named(data)
            assert (outcome is None) == (block in self.model)
            self.renewed(block)
            self.model[block] = data
            if isinstance(outcome, int) and several.count(data) == 1:
                self.tokens[block] = outcome

    def renewed(self, block: bytes) -> None:
        if block in self.tokens:
            self.stale[block] = self.tokens.pop(block)

    @rule(data=DATA, other=DATA)
    def put_under_a_wrong_name(self, data: bytes, other: bytes) -> None:
        if data != other:
            with pytest.raises(errors.Corrupt):
                self.store.put(named(data)[0], memoryview(other))

    @rule(data=DATA, renew=st.booleans())
    def has(self, data: bytes, renew: bool) -> None:
        block, _ = named(data)
        assert self.store.has(block, renew) == (block in self.model)
        if renew:
            self.renewed(block)

    @rule(data=DATA)
    def read(self, data: bytes) -> None:
        block, _ = named(data)
        if block in self.model:
            assert BUFFER[: self.store.read(block, BUFFER)] == data
            assert self.store.size(block) == len(data)
        else:
            with pytest.raises(errors.NotFound):
                self.store.read(block, BUFFER)

    @rule(data=DATA)
    def seen(self, data: bytes) -> None:
        block, _ = named(data)
        seen = self.store.seen(block)
        assert (seen.size if seen else None) == (len(data) if block in self.model else None)
        if seen:
            assert self.tokens.setdefault(block, seen.token) == seen.token

    @rule(data=DATA)
    def delete(self, data: bytes) -> None:
        block, _ = named(data)
        assert self.store.delete(block) == (block in self.model)
        self.model.pop(block, None)
        self.renewed(block)

    @rule(data=DATA, is_stale=st.booleans())
    def discard(self, data: bytes, is_stale: bool) -> None:
        block, _ = named(data)
        token = self.stale.get(block, 1) if is_stale else self.tokens.get(block, 1)
        can_go = block in self.tokens and not is_stale
        assert self.store.discard(block, token) == can_go
        if can_go:
            del self.model[block]
            self.renewed(block)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        shards = {shard_of(block) for block in self.model}
        assert [b for shard in sorted(shards) for b in self.store.iterate(shard)] == sorted(
            self.model, key=lambda block: (digest_of(block), block)
        )
        assert self.store.usage() == (len(self.model), sum(map(len, self.model.values())), True)


class MemoryModel(Model):
    @initialize()
    def start(self) -> None:
        self.store = MemoryStore()


def test_memory_against_a_dict() -> None:
    run_state_machine_as_test(MemoryModel, settings=settings(max_examples=50))


def test_disk_against_a_dict(tmp_path: Path) -> None:
    class DiskModel(Model):
        @initialize()
        def start(self) -> None:
            self.store = DiskStore(tmp_path)
            for shard in range(4096):  # one folder for all runs: laying it out takes longer than a run
                for block in list(self.store.iterate(shard)):
                    self.store.delete(block)
            self.store.recount()

        @rule()
        def reopen(self) -> None:
            self.store.close()
            self.store = DiskStore(tmp_path)

    run_state_machine_as_test(
        DiskModel, settings=settings(max_examples=15, stateful_step_count=30)
    )
