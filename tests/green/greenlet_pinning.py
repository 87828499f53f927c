"""Catalogs of several nodes that compare with each other under a virtual clock: splits, tombstones, long absence."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors, green
from p2pfs.core import hlc, rights, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.member import Member
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Key, Pin, bucket_of, newer, split_digests
from p2pfs.node import levelling, member_verbs
from p2pfs.node.levelling import Levelling, format_digests, parse_digests
from p2pfs.node.pinning import ATTEMPTS, BATCH, Pinning, outranked_by
from p2pfs.node.securing import make_pins
from p2pfs.store.catalog import Catalog, Digests

DAY_S = 24 * 3600
LIFE_S = 90 * DAY_S
ROOTS = [CID(RAW, multihash(SHA2_256, b"%d" % number)) for number in range(4)]


class Parts:
    """A streaming answer."""

    def __init__(self, parts: list[bytes], result: bytes) -> None:
        self._parts = parts
        self.result = result

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


class Wires:
    """What a connection to a node would answer."""

    sent = 0
    """Records that were asked for, by all."""

    def __init__(self, levelling: Levelling) -> None:
        self._levelling = levelling
        self._pinning = levelling.pinning

    def request(self, verb: str, body: bytes = b"") -> bytes:
        if verb == "DIGESTS":
            return format_digests(self._pinning.run(self._pinning.catalog.digests))
        assert verb == "PIN" and len(body) <= wire.MAX_MESSAGE
        answers: list[bytes] = []
        services = SimpleNamespace(pinning=self._pinning, levelling=self._levelling)
        session = SimpleNamespace(body=lambda: body, party=SimpleNamespace(id="caller"), reply=answers.append)
        member_verbs.pin(cast(Any, services), cast(Any, session), cast(Any, None))
        return answers[0]

    def stream(self, verb: str, number: int, body: bytes) -> Parts:
        assert verb == "BUCKET"
        records, alone = self._pinning.run(self._pinning.catalog.differences, number, split_digests(body))
        Wires.sent += len(records)
        return Parts(
            [wire.dump_json([record.to_wire() for record in records[start : start + BATCH]])
             for start in range(0, len(records), BATCH)],
            b"".join(alone),
        )


class View:
    """The cluster as one node of the world sees it; also the peers that it gets from it."""

    def __init__(self, world: World, id: str) -> None:
        self._world = world
        self.id = id

    @property
    def is_draining(self) -> bool:
        return self.id in self._world.draining

    def members(self) -> list[Member]:
        world = self._world
        return [
            Member(id, id, (), self._state(id), drains=id in world.draining)
            for id in world.nodes if id not in world.forgotten
        ]

    def _state(self, id: str) -> str:
        return "alive" if self._world.side[id] == self._world.side[self.id] else "dead"

    def absent(self) -> list[Member]:
        return [member for member in self.members() if member.state == "dead"]

    def live_peers(self) -> list[Link]:
        return [Link(self._world, m) for m in self.members() if m.state == "alive" and m.id != self.id]


class Link:
    """A peer."""

    def __init__(self, world: World, member: Member) -> None:
        self._world = world
        self.member = member
        self.clock_ahead_s = 0.0

    def call(self, lane: str, use: Callable[[Wires], Any], wait_s: float = 10.0) -> Any:
        if self.member.id in self._world.silent:
            raise errors.Unreachable(f"{self.member.id} does not answer")
        return use(Wires(self._world.levelling[self.member.id]))

    def read_clock(self) -> None:
        self._world.clocks_read.append(self.member.id)


class World:
    """Some nodes, all on one side of a network that can be cut in two."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.now_ms = 1_800_000_000_000
        self.side = {f"n{number}": 0 for number in range(size)}
        self.ahead_days = dict.fromkeys(self.side, 0)
        self.silent: set[str] = set()
        self.draining: set[str] = set()
        self.forgotten: set[str] = set()
        self.clocks_read: list[str] = []
        self.nodes: dict[str, Pinning] = {}
        self.levelling: dict[str, Levelling] = {}
        for id in self.side:
            self._begin(id)

    def _begin(self, id: str) -> None:
        folder = self.folder / id
        folder.mkdir(exist_ok=True)
        catalog = Catalog(folder / "catalog.sqlite")
        catalog._db.execute("PRAGMA synchronous = OFF")
        view = cast(Any, View(self, id))
        self.nodes[id] = Pinning(
            catalog, view, folder / "catalog.jsonl", lambda: self.now_ms + self.ahead_days[id] * DAY_S * 1000,
        )
        self.levelling[id] = Levelling(self.nodes[id], view, folder, 30.0)

    def pass_days(self, days: float) -> None:
        self.now_ms += int(days * DAY_S * 1000)

    def cut(self, *ids: str) -> None:
        """These on one side, the others on the other; none: one network again."""
        self.side = {id: int(id in ids) for id in self.nodes}

    def write(self, id: str, number: int, *, removed: bool = False) -> Pin:
        """A pin made at a node, pushed to those that it can reach."""
        node = self.nodes[id]
        pin = Pin(ROOTS[number], "", 1, None, 1, 1, 1, node.stamp(), id, removed)
        node.publish([pin])
        return node.catalog.record(pin.key) or pin

    def compare(self, *pairs: str) -> None:
        """`"n0 n1"`: n0 compares with n1."""
        for pair in pairs:
            one, other = pair.split()
            self.levelling[one].compare(cast(Any, Link(self, Member(other, other, ()))))

    def level(self) -> None:
        """Everybody compares with everybody, twice: what one learned last reaches those that it met first."""
        for _ in range(2):
            for each in self.levelling.values():
                each.compare_all()

    def chat(self) -> None:
        """Everybody compares with everybody that it reaches, one pair after the other, as time goes by."""
        for other, one in itertools.permutations(self.nodes, 2):
            self.pass_days(0.001)
            if self.side[one] == self.side[other]:
                self.compare(f"{one} {other}")

    def records(self, id: str) -> dict[Key, Pin]:
        return {pin.key: pin for number in range(256) for pin in self.nodes[id].catalog.bucket(number)}

    def live(self, id: str) -> set[int]:
        return {ROOTS.index(pin.cid) for pin in self.nodes[id].catalog.pins()}

    def restart(self, id: str) -> None:
        self._end(id)
        self._begin(id)

    def _end(self, id: str) -> None:
        self.levelling[id].stop()
        self.nodes[id].stop()

    def restart_empty(self, id: str) -> None:
        self._end(id)
        shutil.rmtree(self.folder / id)
        self._begin(id)

    def close(self) -> None:
        for id in self.nodes:
            self._end(id)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, 3)
    yield world
    world.close()


def test_what_one_lacks_comes_from_the_other_in_both_directions(world: World) -> None:
    world.cut("n0")
    world.write("n0", 0)
    world.write("n1", 1)
    world.cut()
    world.compare("n0 n1")
    assert world.live("n0") == world.live("n1") == {0, 1}
    assert world.live("n2") == {1}


def test_what_both_have_does_not_travel_however_much_it_is(world: World) -> None:
    for number in range(len(ROOTS)):
        world.write("n0", number)
    same_bucket = [name for name in map(str, range(5000)) if bucket_of((ROOTS[0], name)) == bucket_of((ROOTS[0], ""))]
    pins = [Pin(ROOTS[0], name, 1, None, 1, 1, 1, world.nodes["n0"].stamp(), "n0") for name in same_bucket]
    for id in ("n0", "n1"):
        world.nodes[id].merge(pins[2:])
    world.nodes["n1"].merge(pins[:1])
    world.nodes["n0"].merge(pins[1:2])
    before = Wires.sent
    world.compare("n0 n1")
    assert Wires.sent - before == 1 and len(pins) > 10
    assert world.records("n0") == world.records("n1")


def test_who_wants_to_know_what_changed_is_told(world: World) -> None:
    told: list[Pin] = []
    world.nodes["n1"].on_change = told.extend
    pin = world.write("n0", 0)
    world.compare("n0 n1", "n1 n0")
    assert told == [pin]


def test_comparing_with_all_names_those_that_are_away_and_those_that_do_not_answer(world: World) -> None:
    assert world.levelling["n0"].compare_all() == {}
    assert sorted(world.clocks_read) == ["n1", "n2"], "whoever collects by age now knows their clocks"
    world.silent = {"n1"}
    assert world.levelling["n0"].compare_all() == {"n1": "n1 does not answer"}
    world.cut("n2")
    assert world.levelling["n0"].compare_all() == {"n1": "n1 does not answer", "n2": "it is away"}


def test_of_two_halves_the_later_writer_wins_pin_or_tombstone(world: World) -> None:
    world.write("n0", 0)
    world.write("n0", 1)
    world.cut("n0")
    world.write("n0", 0, removed=True)
    world.write("n1", 1, removed=True)
    world.pass_days(1)
    world.write("n1", 0)
    world.write("n0", 1)
    world.cut()
    world.level()
    assert world.live("n0") == world.live("n1") == world.live("n2") == {0, 1}


def test_tombstones_go_when_all_know_them_and_are_old(world: World) -> None:
    world.write("n0", 0)
    world.write("n1", 0, removed=True)
    world.pass_days(89)
    assert world.levelling["n0"].purge(LIFE_S) == 0
    world.pass_days(2)
    world.cut("n2")
    assert world.levelling["n0"].purge(LIFE_S) == 0
    world.cut()
    world.silent = {"n2"}
    assert world.levelling["n0"].purge(LIFE_S) == 0
    world.silent = set()
    assert world.levelling["n0"].purge(LIFE_S) == 1
    world.compare("n0 n1", "n1 n0")
    assert world.records("n0") == {}
    assert world.levelling["n1"].purge(LIFE_S) == world.levelling["n2"].purge(LIFE_S) == 1
    assert len({tuple(node.catalog.digests().buckets) for node in world.nodes.values()}) == 1


def absence(world: World) -> None:
    """n2 is away for longer than tombstones live, struck meanwhile; one pin was removed, one it stored by itself."""
    world.write("n0", 0)
    world.write("n0", 1)
    world.pass_days(1)
    world.level()
    world.cut("n2")
    world.forgotten = {"n2"}
    world.pass_days(1)
    world.write("n1", 0, removed=True)
    world.write("n2", 2)
    world.pass_days(100)
    assert world.levelling["n0"].purge(LIFE_S) == world.levelling["n1"].purge(LIFE_S) == 1
    world.forgotten = set()
    world.cut()


@pytest.mark.parametrize("first", ["n2 n0", "n0 n2"])
def test_who_was_away_for_longer_brings_nothing_back_and_keeps_what_it_stored(
    world: World, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    absence(world)
    world.restart("n2")
    world.compare(first)
    assert world.live("n0") == {1, 2}
    world.level()
    assert world.live("n0") == world.live("n1") == world.live("n2") == {1, 2}
    (dropped,) = (world.folder / "n2").glob("catalog-dropped-*.jsonl")
    assert [json.loads(line)["cid"] for line in dropped.read_text().splitlines()[1:]] == [str(ROOTS[0])]
    assert str(dropped) in caplog.text
    for each in world.levelling.values():
        each.purge(LIFE_S)
    world.level()
    assert world.live("n0") == world.live("n1") == world.live("n2") == {1, 2}


def test_a_pin_that_was_made_again_meanwhile_stays(world: World) -> None:
    absence(world)
    world.write("n2", 0)
    world.cut()
    world.level()
    assert world.live("n0") == world.live("n1") == world.live("n2") == {0, 1, 2}


def test_two_that_were_away_together_do_not_give_it_back_to_each_other(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    world.write("n0", 0)
    world.pass_days(1)
    world.level()
    world.cut("n2", "n3")
    world.forgotten = {"n2", "n3"}
    world.pass_days(1)
    world.write("n0", 0, removed=True)
    world.pass_days(100)
    world.levelling["n0"].purge(LIFE_S)
    world.levelling["n1"].purge(LIFE_S)
    world.forgotten = set()
    world.compare("n2 n3", "n3 n2")
    world.cut()
    world.compare("n2 n0", "n3 n2", "n2 n3", "n2 n0", "n3 n0")
    world.level()
    assert [world.live(id) for id in world.nodes] == [set()] * 4
    world.close()


def test_a_whole_cluster_that_was_off_for_longer_loses_nothing(world: World) -> None:
    for number in range(3):
        world.write(f"n{number}", number)
    world.write("n1", 1, removed=True)
    world.pass_days(1)
    world.level()
    world.pass_days(1000)
    for id in world.nodes:
        world.restart(id)
    world.levelling["n0"].compare_all()
    assert world.levelling["n0"].purge(LIFE_S) == 1
    world.write("n2", 3)
    world.level()
    assert world.live("n0") == world.live("n1") == world.live("n2") == {0, 2, 3}
    assert not list(world.folder.glob("*/catalog-dropped-*"))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_cluster_whose_clocks_were_all_ahead_for_a_while_loses_no_pin(world: World, restarted: bool) -> None:
    """They compared and let go of tombstones by a time that is still to come; then n0 misses a pin."""
    world.write("n0", 0)
    world.write("n0", 0, removed=True)
    world.pass_days(365)
    world.chat()
    assert [each.purge(LIFE_S) for each in world.levelling.values()] == [1, 1, 1]
    world.pass_days(-364)
    world.level()
    if restarted:
        for id in world.nodes:
            world.restart(id)
    world.cut("n0")
    world.write("n1", 1)
    world.pass_days(0.1)
    world.cut()
    world.compare("n1 n0", "n0 n2")
    world.level()
    assert [world.live(id) for id in world.nodes] == [{1}] * 3
    assert not list(world.folder.glob("*/catalog-dropped-*"))


def test_a_database_that_breaks_while_the_node_runs_is_begun_anew_from_journal_and_members(
    world: World,
) -> None:
    world.write("n0", 0)
    node = world.nodes["n0"]
    broken = sqlite3.DatabaseError("database disk image is malformed")
    broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    class Broken:
        def execute(self, *args: object) -> None:
            raise broken

        close = node.catalog._db.close

    node.catalog._db = cast(Any, Broken())
    assert [pin.cid for pin in node.run(node.catalog.pins)] == [ROOTS[0]]
    assert node.catalog.quarantined is not None
    assert world.levelling["n0"]._soon == {"n1", "n2"}
    world.write("n0", 1)
    assert world.live("n0") == world.live("n1") == {0, 1}


def store(world: World, id: str, quorum: int, pin: Pin | None = None) -> None:
    """The pin of a store at a node, whose blocks are all there."""
    node = world.nodes[id]
    pin = pin or Pin(ROOTS[0], "", 1, None, 1, 1, 1, node.stamp(), id)
    cluster = SimpleNamespace(names=", ".join, is_draining=id in world.draining)
    ingest = SimpleNamespace(keep=lambda: None, quorum=quorum)
    make_pins(cast(Any, SimpleNamespace(pinning=node, cluster=cluster)), cast(Any, ingest), [pin], rights.OF_MEMBER)


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_a_store_that_fails_takes_no_pin_away_that_was_acknowledged_elsewhere(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The same content under the same name: n0 is cut off and has never heard of what the others keep."""
    node = world.nodes["n0"]
    publish = node.publish

    def take_long(records: list[Pin], quorum: int | None = None) -> list[str]:
        holders = publish(records, quorum)
        world.now_ms += 5000
        if when == "meanwhile":
            store(world, "n1", 2)
            world.now_ms += 5000
        return holders

    monkeypatch.setattr(node, "publish", take_long)
    world.cut("n0")
    if when == "before":
        store(world, "n1", 2)
        world.now_ms += 5000
    with pytest.raises(errors.TooFewNodes, match="0 of the 1 other nodes needed"):
        store(world, "n0", 2)
    assert world.records("n0") == {}
    if when == "after":
        store(world, "n1", 2)
    world.cut()
    world.level()
    assert [world.live(id) for id in world.nodes] == [{0}] * 3


def test_who_drains_does_not_count_for_the_quorum_of_a_pin(world: World) -> None:
    world.draining = {"n0"}
    store(world, "n1", 2)
    with pytest.raises(errors.TooFewNodes, match="2 of the 3 other nodes"):
        store(world, "n0", 3)
    store(world, "n0", 2)
    world.cut("n2")
    for id, needed in (("n1", 1), ("n0", 2)):
        with pytest.raises(errors.TooFewNodes, match=f"of the {needed} other nodes needed"):
            store(world, id, 2)


def test_a_store_that_fails_where_some_took_its_pin_names_them_and_leaves_it_there(world: World) -> None:
    world.cut("n2")
    world.write("n2", 0)
    with pytest.raises(errors.TooFewNodes, match=r"1 of the 2 other nodes needed took its pin \(n1: it stays there\)"):
        store(world, "n0", 3)
    assert (world.live("n0"), world.live("n1")) == (set(), {0})
    world.cut()
    world.level()
    assert [world.live(id) for id in world.nodes] == [{0}] * 3
    store(world, "n0", 3)


@pytest.mark.parametrize("late", [False, True])
def test_what_is_stored_after_it_was_removed_by_a_clock_that_is_ahead_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """n1 removed it while n0 was away, and n0 stores it again before the two have compared their catalogs."""
    world.write("n0", 0)
    world.cut("n0")
    world.now_ms += 5000
    world.write("n1", 0, removed=True)
    world.now_ms -= 4000
    world.cut("n0", "n1")
    call, merge, merged = Link.call, world.nodes["n0"].merge, green.Event()

    def call_late(link: Link, *args: Any) -> Any:
        assert not late or link.member.id != "n1" or merged.wait(30)
        return call(link, *args)

    def merge_and_tell(records: list[Pin]) -> list[Pin]:
        changed = merge(records)
        merged.set()
        return changed

    monkeypatch.setattr(Link, "call", call_late)
    monkeypatch.setattr(world.nodes["n0"], "merge", merge_and_tell)
    world.cut()
    if late:
        world.restart_empty("n2")  # it has not heard of it either, and makes the quorum before n1 has answered
    store(world, "n0", 2)
    world.level()
    assert [world.live(id) for id in world.nodes] == [{0}] * 3


def test_a_pin_whose_copies_took_long_is_not_taken_for_one_that_was_removed(world: World) -> None:
    """n1 saw what n0 had after the pin was thought of, and before it was made; then the others were struck there."""
    node = world.nodes["n0"]
    early = Pin(ROOTS[0], "", 1, None, 1, 1, 1, node.stamp(), "n0")
    world.write("n1", 1)
    world.write("n1", 1, removed=True)
    world.now_ms += 300_000
    world.level()
    world.cut("n1")
    store(world, "n0", 2, early)
    world.forgotten = {"n0", "n2"}
    world.pass_days(100)
    assert world.levelling["n1"].purge(LIFE_S) == 1
    world.forgotten = set()
    world.cut()
    world.level()
    assert [world.live(id) for id in world.nodes] == [{0}] * 3


def test_a_removal_holds_here_while_a_member_that_hangs_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("n0", 0)
    hung, holds = green.Event(), green.Event()
    monkeypatch.setattr(Link, "call", lambda *_: hung.wait(30))
    monkeypatch.setattr(world.nodes["n0"], "on_change", lambda _: holds.set())
    group = green.Group("rm")
    removal = group.spawn("rm", lambda: world.write("n0", 0, removed=True))
    assert holds.wait(5.0)
    assert not world.live("n0") and not removal.dead
    group.close()
    hung.set()


def test_who_removes_each_time_what_is_stored_has_his_way_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    merge = world.nodes["n1"].merge

    def remove_first(records: list[Pin]) -> list[Pin]:
        asked.extend(pin.stamp for pin in records)
        merge([pin._replace(removed=True, stamp=pin.stamp + 5, origin="n1") for pin in records])
        return merge(records)

    monkeypatch.setattr(world.nodes["n1"], "merge", remove_first)
    store(world, "n0", 2)
    assert asked == [asked[0] + 6 * number for number in range(ATTEMPTS)]
    assert world.live("n0") == world.live("n2") == {0}


@pytest.mark.parametrize("stamp", [-1, 2**63, "1", 1.5, None])
def test_a_stamp_of_a_tombstone_is_a_number_that_can_be_outranked(stamp: object) -> None:
    with pytest.raises(errors.ProtocolError, match="outranked by"):
        outranked_by(wire.dump_json({"outranked_by": stamp}))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("compare"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("cut"), st.integers(0, 2)),
        st.tuples(st.just("heal")),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 1, 40, 100])),
        st.tuples(st.just("purge"), st.integers(0, 2)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=40)
def test_in_whatever_order_things_happen_all_agree_and_the_latest_wish_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    world = World(tmp_path_factory.mktemp("world"), 3)
    latest: dict[Key, Pin] = {}
    for verb, *args in steps:
        if verb == "write":
            pin = world.write(f"n{args[0]}", args[1], removed=args[2])
            if pin.key not in latest or newer(pin, latest[pin.key]):
                latest[pin.key] = pin
        elif verb == "compare" and args[0] != args[1]:
            if world.side[f"n{args[0]}"] == world.side[f"n{args[1]}"]:
                world.compare(f"n{args[0]} n{args[1]}")
        elif verb == "cut":
            world.cut(f"n{args[0]}")
        elif verb == "heal":
            world.cut()
        elif verb == "wait":
            world.pass_days(args[0])
        elif verb == "purge":
            world.levelling[f"n{args[0]}"].purge(LIFE_S)
    world.cut()
    world.level()
    wanted = {ROOTS.index(pin.cid) for pin in latest.values() if not pin.removed}
    assert [world.live(id) for id in world.nodes] == [wanted] * 3
    world.close()


def test_a_newcomer_does_not_take_back_what_was_removed_while_a_stranger_to_it_was_away(world: World) -> None:
    for first in ("n1 n2", "n2 n1"):
        assert newcomer(world, first) == [set()] * 3


def newcomer(world: World, first: str) -> list[set[int]]:
    """n1 joins while n2 is away, and is the first whom n2 meets when it comes back; what is live everywhere then."""
    for number in range(3):
        world.restart_empty(f"n{number}")
    world.cut("n1")
    world.forgotten = {"n1"}
    world.write("n0", 0)
    world.pass_days(1)
    world.compare("n0 n2", "n2 n0")
    world.cut("n2")
    world.forgotten = {"n2"}
    world.pass_days(1)
    world.compare("n0 n1", "n1 n0")
    world.write("n0", 0, removed=True)
    world.pass_days(100)
    assert [world.levelling[id].purge(LIFE_S) for id in ("n0", "n1")] == [1, 1]
    world.forgotten = set()
    world.cut()
    world.compare(first, "n0 n1", "n2 n0")
    world.level()
    return [world.live(id) for id in world.nodes]


def test_what_came_from_a_node_that_was_never_in_contact_is_not_lost(tmp_path: Path) -> None:
    """n3 was alone when it wrote, before n0 and n2 were equal; n2 has it from there, and n0 never saw it."""
    world = World(tmp_path, 4)
    world.cut("n3")
    world.write("n3", 0)
    world.pass_days(1)
    world.compare("n0 n2", "n2 n0", "n0 n1", "n1 n0")
    world.write("n0", 1)
    world.write("n0", 1, removed=True)
    world.cut("n2", "n3")
    world.forgotten = {"n2", "n3"}
    world.compare("n2 n3", "n3 n2")
    world.pass_days(100)
    assert world.levelling["n0"].purge(LIFE_S) == world.levelling["n1"].purge(LIFE_S) == 1
    world.forgotten = set()
    world.cut()
    world.compare("n2 n0", "n0 n2", "n1 n2", "n2 n1")
    world.level()
    assert [world.live(id) for id in world.nodes] == [{0}] * 4
    world.close()


STRIKES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("compare"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("strike"), st.sets(st.integers(0, 3), min_size=1, max_size=3)),
        st.tuples(st.just("heal")),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 1, 40, 100])),
        st.tuples(st.just("purge")),
        st.tuples(st.just("ahead"), st.sampled_from([1, 100, 400])),
    ),
    max_size=30,
)


@given(STRIKES)
@settings(max_examples=40)
def test_whoever_is_struck_and_comes_back_no_pin_is_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    """What was removed may come back, of those that were struck while others purge; what is wanted stays.

    Clocks go ahead for a while, all of them, with nobody writing; then they are right again.
    """
    world = World(tmp_path_factory.mktemp("world"), 4)
    try:
        wanted = {ROOTS.index(pin.cid) for pin in play(world, steps).values() if not pin.removed}
        world.cut()
        world.level()
        live = [world.live(id) for id in world.nodes]
        assert live == [live[0]] * 4
        assert live[0] >= wanted
    finally:
        world.close()


def play(world: World, steps: list[tuple[Any, ...]]) -> dict[Key, Pin]:
    """What was written last under each key."""
    latest: dict[Key, Pin] = {}
    for verb, *args in steps:
        if verb == "write":
            pin = world.write(f"n{args[0]}", args[1], removed=args[2])
            latest[pin.key] = pin if pin.key not in latest or newer(pin, latest[pin.key]) else latest[pin.key]
        elif verb == "compare" and args[0] != args[1] and world.side[f"n{args[0]}"] == world.side[f"n{args[1]}"]:
            world.compare(f"n{args[0]} n{args[1]}")
        elif verb == "strike":
            world.cut(*(f"n{number}" for number in args[0]))
        elif verb == "heal":
            world.cut()
        elif verb == "wait":
            world.pass_days(args[0])
        elif verb == "purge":
            purge_all(world)
        elif verb == "ahead":
            world.pass_days(args[0])
            purge_all(world)
            world.chat()
            world.pass_days(-args[0])
            world.chat()
    return latest


def purge_all(world: World) -> None:
    """Each half of the network has struck the other one."""
    for id, each in world.levelling.items():
        world.forgotten = {other for other in world.nodes if world.side[other] != world.side[id]}
        each.purge(LIFE_S)
    world.forgotten = set()


def test_digests_say_until_when_tombstones_are_gone() -> None:
    digests = Digests(list(range(256)), 1_800_000_000_000)
    assert parse_digests(format_digests(digests)) == digests
    good = format_digests(digests)
    for bad in (b"", good[:-14], good + b"x", good.replace(b"\n", b"\ng", 1), good + b"\n", good[33:], good + b"0" * 9):
        with pytest.raises(errors.ProtocolError):
            parse_digests(bad)


def test_the_stamp_of_what_is_given_up_is_the_smallest_that_is_later(world: World) -> None:
    absence(world)
    old = world.records("n2")[ROOTS[0], ""]
    world.compare("n2 n0")
    new = world.records("n2")[ROOTS[0], ""]
    assert new.removed
    assert new.stamp == old.stamp + 1
    assert hlc.ms_of(new.stamp) == hlc.ms_of(old.stamp)


def test_who_refuses_a_stamp_from_the_future_does_not_count_for_the_quorum(world: World) -> None:
    world.ahead_days["n0"] = 2
    node = world.nodes["n0"]
    assert node.publish([Pin(ROOTS[0], "", 1, None, 1, 1, 1, node.stamp(), "n0")]) == ["n0"]
    assert world.live("n1") == set()


def test_a_node_whose_stamps_are_far_ahead_of_its_clock_says_so_and_acknowledges_nothing(world: World) -> None:
    world.ahead_days["n0"] = 2
    world.write("n0", 0)
    world.ahead_days["n0"] = 0
    with pytest.raises(errors.Refused, match="future"):
        world.write("n0", 1)
    assert world.live("n0") == {0}


# --- a catalog that is full, and members that send too much ------------------------------------------

def some(count: int, start: int = 0, **fields: Any) -> list[Pin]:
    return [
        Pin(ROOTS[0], f"name-{number}", 1, None, 1, 1, 1, hlc.stamp_of(1_800_000_000_000) + number, "evil")
        ._replace(**fields) for number in range(start, start + count)
    ]


def test_many_records_of_one_wish_are_pushed_in_several_messages(world: World) -> None:
    records = [pin._replace(name=f"{'n' * 1000}-{pin.name}") for pin in some(1000)]
    assert sorted(world.nodes["n0"].publish(records)) == ["n0", "n1", "n2"]
    assert len(world.records("n1")) == 1000


def test_a_full_catalog_refuses_new_pins_and_lets_the_old_ones_go(world: World) -> None:
    one, other = world.nodes["n0"], world.nodes["n1"]
    one.catalog.max_records = 3
    one.merge(some(10))
    assert one.run(one.catalog.counts) == (3, 0)
    for call in (one.check_room, lambda: one.publish(some(1, 50))):
        with pytest.raises(errors.NoSpace, match=r"full with 3 records; see \[storage\] max_pins"):
            call()
    assert "n0" in one.publish(one.over([some(1)[0]._replace(removed=True, origin="n0")]))
    assert one.run(one.catalog.counts) == (2, 1)
    other.check_room()
    assert "n0" not in other.publish(some(1, 60)), "who has no room does not count as a holder"
    one.catalog.max_records = 5
    one.check_room()


def test_a_comparison_with_who_has_too_much_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levelling, "LEFT_OUT_MOST", 100)
    one, evil = world.nodes["n0"], world.nodes["n1"]
    one.catalog.max_records = 10
    evil.merge(some(3000))
    before = Wires.sent
    with pytest.raises(errors.NoSpace, match="full"):
        world.compare("n0 n1")
    assert Wires.sent - before < 1000
    assert one.run(one.catalog.counts) == (10, 0)


def test_a_full_catalog_is_not_level_with_who_has_more_and_neither_is_that_one(world: World) -> None:
    one, other = world.nodes["n0"], world.nodes["n1"]
    other.merge(some(5))
    one.catalog.max_records = 3
    for _ in range(2):
        missed = world.levelling["n0"].compare_all()
        assert missed["n1"] == "the catalog is full with 3 records; see [storage] max_pins on this node"
        assert world.levelling["n1"].compare_all() == {"n0": "its catalog is full; see [storage] max_pins there"}
    assert world.levelling["n0"].levels.direct_ms("n1") == world.levelling["n1"].levels.direct_ms("n0") == 0
    assert one.run(one.catalog.counts) == (3, 0)
    one.catalog.max_records = 5
    assert world.levelling["n1"].compare_all() == {}
    assert world.levelling["n0"].compare_all() == {}
    assert world.records("n0") == world.records("n1")


def test_who_refuses_a_stamp_is_not_level_with_who_has_it_and_neither_is_that_one(world: World) -> None:
    one, other = world.nodes["n0"], world.nodes["n1"]
    ahead = some(1, stamp=hlc.stamp_of(world.now_ms + 2 * DAY_S * 1000))
    other.run(other.catalog.merge, ahead + some(2, 5))
    assert "over a day in the future" in world.levelling["n0"].compare_all()["n1"]
    assert "no stamp so far in the future" in world.levelling["n1"].compare_all()["n0"]
    assert world.levelling["n0"].levels.direct_ms("n1") == world.levelling["n1"].levels.direct_ms("n0") == 0
    assert one.run(one.catalog.counts) == (2, 0), "the others came"
    world.pass_days(2)
    assert world.levelling["n0"].compare_all() == {}


def test_a_live_pin_that_found_no_room_is_not_taken_for_one_that_was_removed(world: World) -> None:
    for id in ("n0", "n2"):
        world.nodes[id].catalog.max_records = 1
        world.nodes[id].merge(some(1, removed=True))
    world.nodes["n1"].merge(some(1, 7))
    world.pass_days(1)
    world.level()
    world.cut("n1")
    world.forgotten = {"n1"}
    world.pass_days(100)
    assert world.levelling["n0"].purge(LIFE_S) == world.levelling["n2"].purge(LIFE_S) == 1
    world.forgotten = set()
    world.cut()
    world.level()
    assert [world.records(id)[ROOTS[0], "name-7"].removed for id in world.nodes] == [False] * 3


def test_full_catalogs_let_go_of_old_tombstones_that_the_others_have_no_room_for(world: World) -> None:
    for number, id in enumerate(world.nodes):
        world.nodes[id].catalog.max_records = 3
        world.nodes[id].merge(some(3, 10 * number, removed=True))
    assert len(world.levelling["n0"].compare_all()) == 2, "a tombstone may stand for blocks that can be restored"
    assert world.levelling["n0"].compare_all(world.now_ms + 1) == {}
    world.pass_days(100)
    world.nodes["n0"].catalog.max_records = 4
    world.nodes["n0"].merge(some(1, 90, removed=True, stamp=hlc.stamp_of(world.now_ms)))
    assert [each.purge(LIFE_S) for each in world.levelling.values()] == [3, 3, 3]
    assert world.levelling["n0"].compare_all() == {}
    assert {*world.records("n0")} == {*world.records("n1")} == {(ROOTS[0], "name-90")}


def test_tombstones_that_one_has_let_go_of_hold_nobody_up(world: World) -> None:
    pin = world.write("n0", 0)
    gone = pin._replace(removed=True, stamp=pin.stamp + 1)
    for node in world.nodes.values():
        node.merge([gone])
    world.level()
    world.pass_days(100)
    assert world.levelling["n1"].purge(LIFE_S) == 1
    for id in ("n0", "n1"):
        assert world.levelling[id].compare_all() == {}
    node = world.nodes["n1"]
    assert node.merge([gone]) == []
    assert node.without_room([gone]) == 0, "if it lets go of them after the caller has read its digests"


def test_a_bucket_without_end_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levelling, "BUCKET_BYTES", 1000)
    world.nodes["n1"].merge(some(3000))
    with pytest.raises(errors.TooBig, match="over 1000 bytes of records in bucket"):
        world.compare("n0 n1")


def test_a_bucket_that_comes_for_ever_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickle(Parts):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                green.sleep(0.1)
                yield b"[]"

    monkeypatch.setattr(levelling, "COMPARE_S", 0.3)
    monkeypatch.setattr(Wires, "stream", lambda *_, body: Trickle([], b""))
    world.nodes["n1"].merge(some(1))
    with green.deadline(30, "the comparison"), pytest.raises(errors.DeadlinePassed, match="levelling bucket"):
        world.compare("n0 n1")


@pytest.mark.parametrize("field", ["size", "blocks"])
def test_a_record_that_nobody_could_read_is_kept_from_all_catalogs(world: World, field: str) -> None:
    with pytest.raises(errors.ProtocolError, match=f"{field} cannot be 9007199254740992"):
        world.nodes["n0"].publish([some(1)[0]._replace(**{field: 2**53})])
    assert world.records("n0") == {}
    world.compare("n0 n1", "n1 n0")


@pytest.mark.parametrize("removed", [False, True])
def test_a_record_of_tomorrow_does_not_stand_above_what_a_user_does_today(world: World, removed: bool) -> None:
    """Within the day that is tolerated; and no node's clock follows so far that another one refuses its stamps."""
    one = world.nodes["n0"]
    ahead = hlc.stamp_of(world.now_ms + hlc.MAX_AHEAD_MS - 1)
    one.merge(some(1, stamp=ahead, removed=removed))
    for peer in world.nodes.values():
        peer.now_ms = lambda: world.now_ms - 30 * 60_000
    one.now_ms = lambda: world.now_ms
    mine = one.over([some(1, stamp=one.stamp(), origin="n0", removed=not removed)[0]])
    assert mine[0].stamp == ahead + 1
    new = some(1, 7, stamp=one.stamp(), origin="n0")
    assert set(one.publish(new)) == set(world.nodes)


def test_garbage_stamps_are_refused_and_move_no_clock(world: World) -> None:
    one = world.nodes["n0"]
    assert one.merge(some(1, stamp=hlc.MAX_STAMP) + some(1, 1, stamp=hlc.stamp_of(world.now_ms) + (1 << 60))) == []
    assert one.merge(some(1, 2, stamp=0)) == some(1, 2, stamp=0)
    assert hlc.ms_of(one.stamp()) - world.now_ms < 1000
