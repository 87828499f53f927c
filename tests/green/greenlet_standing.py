"""What a node that gives its shards away has to leave to the others before it goes: leaves, and branches too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs.core.audit import Live
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node.backlog import PARTS, Amount, Backlog, part_of
from p2pfs.node.collecting import Haul
from p2pfs.node.pass_report import Report
from p2pfs.node.standing import Standing
from p2pfs.store.comparing import Comparison
from p2pfs.store.inventory import Inventory
from tests.green.greenlet_node import World

SIZE = 1000


class Site:
    """A node that drains, among four others, and what pins want two copies of."""

    def __init__(self, folder: Path) -> None:
        self.world = World(5)
        self.world.cluster.membership.drain()
        self.world.cluster.changed()
        self.standing = Standing(self.world.local, self.world.cluster, Backlog())
        self.inventory = Inventory(folder, 1 << 20)

    def keep(self, is_branch: bool) -> Multihash:
        """A wanted block that is here."""
        data = random.randbytes(SIZE)
        block = multihash(SHA2_256, data)
        self.world.local.put(block, memoryview(data))
        self.inventory.add([Live(block, 2, SIZE, is_branch)])
        return block

    def give(self, block: Multihash, *ids: str) -> None:
        for id in ids:
            self.world.peers[id].blocks[block] = b""

    def left(self, block: Multihash) -> tuple[int, Report]:
        """Blocks that the others do not hold yet, after a look at the part of this one."""
        report = Report()
        self.standing.compare(self.inventory, [part_of(block)], report, Haul(0), lambda done: None)
        return self.standing.surplus.blocks, report

    def has(self, block: Multihash) -> bool:
        return self.world.local.have([block])[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.inventory.close()
    site.world.close()


def test_a_branch_is_left_until_every_other_has_it_and_stays_then(site: Site) -> None:
    block = site.keep(is_branch=True)
    assert site.left(block)[0] == 1
    site.give(block, "n0", "n1", "n2")
    assert site.left(block)[0] == 1
    site.give(block, "n3")
    left, report = site.left(block)
    assert (left, report.given_up) == (0, Amount())
    assert site.has(block), "it walks roots as long as it is there"


def test_a_branch_of_a_new_pin_that_all_have_is_not_left_for_a_moment(site: Site) -> None:
    block, other = site.keep(is_branch=True), site.keep(is_branch=True)
    site.give(block, "n0", "n1", "n2", "n3")
    site.standing.add({block: Live(block, 2, SIZE, True)})
    assert site.standing.surplus.blocks == 0
    site.standing.add({other: Live(other, 2, SIZE, True)})
    assert site.standing.surplus.blocks == 1


def test_a_leaf_is_left_until_its_owners_have_it_and_goes_then(site: Site) -> None:
    block = site.keep(is_branch=False)
    assert site.left(block)[0] == 1
    for id in site.world.cluster.order(int.from_bytes(block[2:4], "big") >> 4)[:2]:
        site.give(block, id)
    left, report = site.left(block)
    assert (left, report.given_up) == (0, Amount(1, SIZE))
    assert not site.has(block)


def test_while_others_are_to_be_asked_only_what_they_are_asked_about_is_in_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    surplus, kept = site.keep(is_branch=False), random.randbytes(SIZE)
    site.world.local.put(multihash(SHA2_256, kept), memoryview(kept))
    site.inventory.add([
        Live(multihash(SHA2_256, kept), 0, SIZE, False), Live(multihash(SHA2_256, b"missing"), 2, SIZE, True),
    ])
    unwanted = [random.randbytes(SIZE) for _ in range(20)]
    for data in unwanted:
        site.world.local.put(multihash(SHA2_256, data), memoryview(data))
    gathered: list[Comparison] = []

    def look(self: Standing, found: dict[int, Comparison], report: Report) -> None:
        gathered.extend(found.values())
        ask_about(self, found, report)

    ask_about = Standing._ask_about
    monkeypatch.setattr(Standing, "_ask_about", look)
    haul = Haul(1 << 63)
    report = Report()
    site.standing.compare(site.inventory, range(PARTS), report, haul, lambda done: None)
    assert (len(haul.rows), report.waiting.blocks, site.standing.figures.missing_blocks) == (len(unwanted), 1, 1)
    assert [live.block for found in gathered for live, _ in found.surplus] == [surplus]
    assert len(gathered) == PARTS
    assert not any(found.unwanted or found.kept or found.missing for found in gathered)


def test_a_branch_of_a_node_that_stays_is_nobody_elses(site: Site) -> None:
    site.world.cluster.membership.drain(False)
    site.world.cluster.changed()
    assert site.left(site.keep(is_branch=True))[0] == 0
