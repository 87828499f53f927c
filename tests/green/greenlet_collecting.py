"""What may be collected by age, and that no step of a clock makes a block old."""

from __future__ import annotations

import time

import pytest

from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import collecting
from p2pfs.node.backlog import NOTHING, Amount
from p2pfs.node.collecting import AgeClock, Haul
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


@pytest.mark.parametrize("step_s", [-90_000.0, 0.0, 90_000.0])
def test_a_step_of_the_clock_makes_no_block_older(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    clock = AgeClock()
    before_s = clock.now()
    real = time.time
    monkeypatch.setattr(collecting.time, "time", lambda: real() + step_s)
    # Of a block that was written before the step, and of one that is written after it.
    assert clock.now() - before_s < 60
    assert clock.now() - collecting.time.time() < 60
