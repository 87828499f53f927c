"""What may be collected by age (`tests/unit/test_ages.py`: no step of a clock makes a block old)."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs.core.membership import Member, Membership, Timing
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import collecting
from p2pfs.node.backlog import NOTHING, Amount
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Collection, Haul
from p2pfs.node.hello import Caller
from p2pfs.node.peers import Peers
from p2pfs.store.base import Seen


def block(number: int) -> Multihash:
    return multihash(SHA2_256, b"%d" % number)


def test_what_is_younger_than_the_grace_waits() -> None:
    haul = Haul(oldest_ns=1000)
    haul.add([(block(1), Seen(10, 1000)), (block(2), Seen(20, 1001)), (block(3), Seen(30, 5))])
    assert [row[0] for row in haul.rows] == [block(1), block(3)]
    assert haul.young == Amount(1, 20)
    assert haul.left == NOTHING


def test_more_than_one_pass_collects_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MOST", 3)
    haul = Haul(oldest_ns=1000)
    for number in range(5):
        haul.add([(block(number), Seen(10, number))])
    assert len(haul.rows) == 3
    assert haul.left == Amount(2, 20)


def member(id: str, state: str = "alive") -> Member:
    return Member(id, f"node-{id}", ("127.0.0.1:9",), state, 1)


def test_nothing_is_collected_as_long_as_somebody_may_exist_who_was_not_met() -> None:
    timing = Timing(max_members=3)
    membership = Membership(member("me"), timing, random.Random(1))
    cluster = Cluster(membership, Peers(Caller("me", "me", "0" * 16), cast(Any, None)), 600.0)
    pinning = SimpleNamespace(run=lambda *_: False, catalog=SimpleNamespace(lacks_records=None))
    collection = Collection(cast(Any, None), cluster, cast(Any, SimpleNamespace(pinning=pinning)))
    membership.merge(0.0, [member("a")], "a")
    assert collection.obstacle() == ""
    membership.merge(0.0, [member("b")], "a")
    assert "node-b at 127.0.0.1:9: node-a says that it is a member" in collection.obstacle()
    membership.merge(0.0, [member("b")], "b")
    assert collection.obstacle() == ""
    membership.merge(0.0, [member("c")], "c")
    assert "more members than the list has room for" in collection.obstacle()
