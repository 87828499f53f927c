"""What may be collected by age (`tests/unit/test_ages.py`: no step of a clock makes a block old)."""

from __future__ import annotations

import pytest

from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import collecting
from p2pfs.node.backlog import NOTHING, Amount
from p2pfs.node.collecting import Haul
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
