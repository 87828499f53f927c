"""Before a pin is made: blocks that were there already get their copies, and what a pin may want is not taken back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import errors
from p2pfs.core import rights
from p2pfs.core.cid import CID, RAW
from p2pfs.core.layout import BalancedLayout, Link
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Pin
from p2pfs.core.profile import Profile
from p2pfs.node.reading import Reader
from p2pfs.node.securing import make_pins, renew, secure
from p2pfs.node.storing import new_ingest, running
from tests.green.greenlet_node import World


class Catalog:
    """Pins of this node; `takers` nodes take them, this one among them. Without `room` none can be written."""

    def __init__(self, room: bool) -> None:
        self.catalog = self
        self.room = room
        self.takers = 1
        self.pins: dict[Any, Pin] = {}

    def run(self, job: Any, *args: Any) -> Any:
        return job(*args)

    def stamp(self) -> int:
        return max((pin.stamp for pin in self.pins.values()), default=0) + 1

    def over(self, records: Iterable[Pin], lowers: bool = True) -> list[Pin]:
        return list(records)

    def find_cid(self, cid: CID) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.cid == cid and not pin.removed]

    def publish(self, pins: list[Pin], quorum: int | None = None) -> list[str]:
        if not self.room:
            raise errors.NoSpace("the catalog cannot be written")
        others = [f"n{number}" for number in range(1, self.takers)]
        if len(others) < (quorum or 1) - 1:
            return others
        self.pins.update({pin.key: pin for pin in pins})
        return ["me", *others]


class Site:
    """A node among five, replicas and write_quorum 2, with a file of some leaves that a test spreads as it likes."""

    def __init__(self, room: bool = True) -> None:
        self.world = World(5)
        self.pinning = Catalog(room)
        reader = Reader(self.world.local, self.world.fetcher, self.world.buffers, self.world.paced)
        storage = SimpleNamespace(chunker="fixed-1MiB", hash="sha2-256", gc_grace=3600.0)
        config = SimpleNamespace(storage=storage, cluster=SimpleNamespace(replicas=2, write_quorum=2))
        self.services = cast(Any, SimpleNamespace(
            config=config, cluster=self.world.cluster, local=self.world.local, placer=self.world.placer,
            own_buffers=self.world.buffers, fetcher=self.world.fetcher, reader=reader, pinning=self.pinning,
        ))
        layout = BalancedLayout(Profile())
        self.blocks: dict[CID, bytes] = {}
        for _ in range(6):
            data = random.randbytes(1000)
            cid = CID(RAW, multihash(SHA2_256, data))
            self.blocks[cid] = data
            self.blocks.update(layout.add(Link(cid, 1000, 1000)))
        link, rest = layout.finish()
        self.blocks.update({block.cid: block.data for block in rest})
        self.root = link.cid
        self.leaves = [cid for cid in self.blocks if cid.codec == RAW]

    def spread(self, cid: CID, copies: int) -> None:
        """The block is on the first of its ranks."""
        for id in self.world.owners(cid, copies):
            if id == "me":
                self.world.local.put(cid.multihash, memoryview(self.blocks[cid]))
            else:
                self.world.peers[id].blocks[cid.multihash] = self.blocks[cid]

    def holders(self, cid: CID) -> set[str]:
        found = {id for id, peer in self.world.peers.items() if cid.multihash in peer.blocks}
        return found | ({"me"} if self.world.local.have([cid.multihash])[0] else set())

    def pin(self) -> Pin:
        return Pin(self.root, "", 6000, None, 2, 7, 1, self.pinning.stamp(), "me", False)

    @contextlib.contextmanager
    def ingest(self, **options: Any) -> Iterator[Any]:
        ingest = new_ingest(self.services, options)
        with running(cast(Any, SimpleNamespace(part=lambda *_: None)), ingest):
            yield ingest


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.world.close()


def test_what_has_one_copy_gets_the_others_before_it_is_acknowledged(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 1 if cid in site.leaves[:3] else 2)
    with site.ingest() as ingest:
        assert secure(site.services, ingest, site.root) == 7
        assert all(len(site.holders(cid)) >= 2 for cid in site.blocks)
        assert ingest.fewest_copies == 2
        assert ingest.new_blocks == 3, "the others were left alone"


def test_what_may_have_one_copy_is_left_with_it(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 1)
    with site.ingest(replicas=1) as ingest:
        secure(site.services, ingest, site.root)
        assert (ingest.fewest_copies, ingest.new_blocks) == (1, 0)


def test_a_copy_on_a_member_that_drains_does_not_count(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 2)
    cid = site.leaves[0]
    gone = next(id for id in site.world.owners(cid) if id != "me")
    members = site.world.cluster.membership
    row = members.get(gone)
    assert row is not None
    members.merge(0.0, [row._replace(drains=True, incarnation=row.incarnation + 1)], "")
    site.world.cluster.changed()
    with site.ingest() as ingest:
        secure(site.services, ingest, site.root)
        assert len(site.holders(cid) - {gone}) >= 2


def test_without_enough_nodes_that_take_a_copy_it_is_refused(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 2)
    lonely = site.leaves[0]
    for peer in site.world.peers.values():
        peer.blocks.pop(lonely.multihash, None)
    site.world.local.put(lonely.multihash, memoryview(site.blocks[lonely]))
    for peer in site.world.peers.values():
        peer.put_block = refuse  # type: ignore[method-assign]
    with pytest.raises(errors.TooFewNodes, match=f"1 of the 2 nodes needed took {lonely}"), site.ingest() as ingest:
        secure(site.services, ingest, site.root)
    assert not site.pinning.pins


def refuse(*args: object) -> str:
    raise errors.Unreachable("it takes nothing")


def test_what_is_nowhere_is_named(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 0 if cid == site.leaves[2] else 2)
    with pytest.raises(errors.NotFound, match=f"not complete.*{site.leaves[2]}"), site.ingest() as ingest:
        secure(site.services, ingest, site.root)


def test_all_of_it_is_renewed_once_more_when_it_takes_long(site: Site) -> None:
    for cid in site.blocks:
        site.spread(cid, 2)
    with site.ingest() as ingest:
        secure(site.services, ingest, site.root)
        for peer in site.world.peers.values():
            peer.blocks.pop(site.leaves[0].multihash, None)
        site.world.local.store.delete(site.leaves[0].multihash)
        ingest._renewal._begun -= 3600
        with pytest.raises(errors.TooFewNodes, match=f"the first is {site.leaves[0]}"):
            renew(site.services, ingest)


def test_what_lost_copies_during_a_long_store_gets_them_again(site: Site) -> None:
    with site.ingest() as ingest:
        for cid, data in site.blocks.items():
            ingest.place(cid, memoryview(data))
        poor = site.leaves[0]
        for id in [id for id in site.holders(poor) if id != "me"][: len(site.holders(poor)) - 1]:
            del site.world.peers[id].blocks[poor.multihash]
        assert len(site.holders(poor)) == 1
        renew(site.services, ingest)
        assert len(site.holders(poor)) == 1, "it did not take long: nobody looks"
        ingest._renewal._begun -= 3600
        renew(site.services, ingest)
        assert len(site.holders(poor)) == 2
        assert (ingest.fewest_copies, ingest.blocks) == (2, 7)


def set_others(site: Site, state: str, incarnation: int) -> None:
    """All other members say so of themselves."""
    members = site.world.cluster.membership
    for id in site.world.peers:
        row = members.get(id)
        assert row is not None
        members.merge(0.0, [row._replace(state=state, incarnation=incarnation)], id)
    site.world.cluster.changed()


def test_what_begins_on_a_node_alone_is_acknowledged_by_the_quorum_of_those_that_came_meanwhile(site: Site) -> None:
    set_others(site, "left", 1)
    with site.ingest() as ingest:
        for cid, data in site.blocks.items():
            ingest.place(cid, memoryview(data))
        assert (ingest.quorum, ingest.fewest_copies) == (1, 1)
        set_others(site, "alive", 2)
        renew(site.services, ingest)
        assert all(len(site.holders(cid)) >= 2 for cid in site.blocks)
        assert (ingest.quorum, ingest.fewest_copies, ingest.blocks) == (2, 2, 7)
        with pytest.raises(errors.TooFewNodes, match="0 of the 1 other nodes needed took its pin"):
            make_pins(site.services, ingest, [site.pin()], rights.OF_MEMBER)


def test_who_asks_for_one_copy_gets_one_whoever_comes(site: Site) -> None:
    set_others(site, "left", 1)
    with site.ingest(replicas=1) as ingest:
        for cid, data in site.blocks.items():
            ingest.place(cid, memoryview(data))
        set_others(site, "alive", 2)
        renew(site.services, ingest)
        assert (ingest.quorum, ingest.fewest_copies) == (1, 1)


def store(site: Site, fail: bool = False) -> None:
    """As STORE does it: all blocks, then the pin."""
    with site.ingest() as ingest:
        for cid, data in site.blocks.items():
            ingest.place(cid, memoryview(data))
        if fail:
            raise errors.NoSpace("no room for a block")
        make_pins(site.services, ingest, [site.pin()], rights.OF_MEMBER)


def test_no_room_for_the_pin_takes_no_block_back(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(room=False)
    taken_back: list[object] = []
    monkeypatch.setattr(site.world.placer, "take_back", taken_back.append)
    with pytest.raises(errors.NoSpace, match="catalog"):
        store(site)
    assert not taken_back, "others may have the pin"
    assert all(len(site.holders(cid)) >= 2 for cid in site.blocks)
    site.world.close()


def test_no_room_for_a_block_still_takes_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_back: list[object] = []
    monkeypatch.setattr(site.world.placer, "take_back", taken_back.append)
    with pytest.raises(errors.NoSpace):
        store(site, fail=True)
    assert taken_back


def test_a_pin_that_too_few_take_is_not_made_and_one_from_before_stays(site: Site) -> None:
    with pytest.raises(errors.TooFewNodes, match="0 of the 1 other nodes needed took its pin; try again"):
        store(site)
    assert site.pinning.find_cid(site.root) == []
    site.pinning.takers = 2
    store(site)
    site.pinning.takers = 1
    with pytest.raises(errors.TooFewNodes):
        store(site)
    assert len(site.pinning.find_cid(site.root)) == 1


