"""Lifeguard's two dampers."""

from __future__ import annotations

import pytest

from p2pfs.core.suspicion import MAX_LOCAL_HEALTH, LocalHealth, Suspicion, suspicion_timeout_s


def test_the_timeout_falls_from_max_to_min_with_the_logarithm() -> None:
    times = [suspicion_timeout_s(count, 3, 2.0, 10.0) for count in range(6)]
    assert times == pytest.approx([10.0, 6.0, 3.6601, 2.0, 2.0, 2.0], abs=1e-3)


def test_without_possible_confirmations_it_is_min() -> None:
    assert suspicion_timeout_s(0, 0, 2.0, 10.0) == 2.0


def test_each_accuser_counts_once_and_only_the_first_ones() -> None:
    suspicion = Suspicion(100.0, "a", 2, 2.0, 6.0)
    assert suspicion.deadline == 106.0
    assert [suspicion.confirm(accuser) for accuser in "abbcd"] == [False, True, False, True, False]
    assert suspicion.deadline == 102.0
    suspicion.delay(5.0)
    assert suspicion.deadline == 107.0


def test_local_health_is_bounded() -> None:
    health = LocalHealth()
    health.better()
    assert health.multiplier == 1
    for _ in range(20):
        health.worse()
    assert health.multiplier == MAX_LOCAL_HEALTH + 1
    for _ in range(20):
        health.better()
    assert health.multiplier == 1
