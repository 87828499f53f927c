"""Placement: balance, minimal movement, zones, and values that must never change."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.core.placement import SHARDS, Candidate, Placement


def ids(count: int, seed: int = 0) -> list[str]:
    return [hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:32] for index in range(count)]


def equal(count: int, seed: int = 0) -> list[Candidate]:
    return [Candidate(id, 1.0, "") for id in ids(count, seed)]


def shares(placement: Placement, n: int) -> Counter[str]:
    return Counter(id for shard in range(SHARDS) for id in placement.owners(shard, n))


def worst_error(candidates: list[Candidate], n: int) -> float:
    """How far the unluckiest member is from its weight's share, as a fraction of that share."""
    found = shares(Placement(candidates), n)
    total = sum(candidate.weight for candidate in candidates)
    return max(abs(found[c.id] / (SHARDS * n * c.weight / total) - 1) for c in candidates)


@pytest.mark.parametrize("count", range(3, 21))
def test_share_of_equal_members_is_within_a_tenth(count: int) -> None:
    for seed in range(2):
        assert worst_error(equal(count, seed), 3) < 0.10
        assert worst_error(equal(count, seed), 2) < 0.10


@pytest.mark.parametrize("count", range(3, 11))
def test_share_of_the_first_owner_is_within_a_tenth(count: int) -> None:
    assert worst_error(equal(count), 1) < 0.10


def test_share_of_a_hundred_is_within_a_quarter() -> None:
    assert worst_error(equal(100), 3) < 0.25
    assert worst_error(equal(100), 2) < 0.25


@pytest.mark.parametrize(
    ("weights", "n"), [([1, 2, 4], 1), ([1, 2] * 5, 1), ([1, 2] * 5, 3), ([1, 2] * 10, 3), ([0.5, 3, 7], 1)]
)
def test_share_follows_the_weight(weights: list[float], n: int) -> None:
    candidates = [Candidate(id, weight, "") for id, weight in zip(ids(len(weights)), weights, strict=True)]
    assert worst_error(candidates, n) < 0.10


@pytest.mark.parametrize("zones", [3, 4, 5])
def test_share_in_zones_of_one_size_is_within_a_tenth(zones: int) -> None:
    candidates = [Candidate(id, 1.0, f"z{index % zones}") for index, id in enumerate(ids(zones * 3))]
    assert worst_error(candidates, 3) < 0.10


@pytest.mark.parametrize(
    ("count", "n"), [(3, 1), (3, 2), (3, 3), (4, 2), (7, 1), (7, 3), (10, 1), (10, 2), (20, 2), (20, 3)]
)
def test_a_join_moves_only_what_the_newcomer_takes(count: int, n: int) -> None:
    before, after = Placement(equal(count)), Placement(equal(count + 1))
    newcomer = (set(ids(count + 1)) - set(ids(count))).pop()
    moved = 0
    for shard in range(SHARDS):
        old, new = before.owners(shard, n), after.owners(shard, n)
        gained = set(new) - set(old)
        assert gained <= {newcomer}
        assert [id for id in after.order(shard) if id != newcomer] == list(before.order(shard))
        moved += len(gained)
    ideal = SHARDS * min(n, count + 1) / (count + 1)
    assert abs(moved / ideal - 1) < 0.10


@pytest.mark.parametrize("n", [1, 3])
def test_a_leave_moves_only_what_the_leaver_had(n: int) -> None:
    before, after = Placement(equal(8)), Placement(equal(8)[:-1])
    leaver = ids(8)[-1]
    for shard in range(SHARDS):
        lost = set(before.owners(shard, n)) - set(after.owners(shard, n))
        assert lost == ({leaver} if leaver in before.owners(shard, n) else set())


def test_a_weight_that_grows_takes_and_never_shuffles_others() -> None:
    before = Placement(equal(6))
    grown = ids(6)[0]
    after = Placement([c._replace(weight=2.0) if c.id == grown else c for c in equal(6)])
    for shard in range(SHARDS):
        assert set(after.owners(shard, 2)) - set(before.owners(shard, 2)) <= {grown}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    shard=st.integers(0, SHARDS - 1),
    weights=st.lists(st.floats(0.1, 50), min_size=24, max_size=24),
)
@settings(max_examples=60)
def test_each_zone_once_before_any_zone_twice(sizes: list[int], shard: int, weights: list[float]) -> None:
    zones = [f"zone{zone}" for zone, size in enumerate(sizes) for _ in range(size)]
    candidates = [Candidate(f"m{index}", weights[index], zone) for index, zone in enumerate(zones)]
    zone_of = {candidate.id: candidate.zone for candidate in candidates}
    ranked = [zone_of[id] for id in Placement(candidates).order(shard)]
    start = 0
    left = Counter(zones)
    while start < len(ranked):
        turn = ranked[start : start + len(left)]
        assert set(turn) == set(left)
        left -= Counter(turn)
        start += len(turn)


@given(permutation=st.permutations(range(9)), shard=st.integers(0, SHARDS - 1))
@settings(max_examples=30)
def test_the_order_of_the_candidates_does_not_matter(permutation: list[int], shard: int) -> None:
    candidates = [Candidate(f"m{index}", 1.0 + index % 3, f"z{index % 4}") for index in range(9)]
    permuted = Placement(candidates[index] for index in permutation)
    assert permuted.order(shard) == Placement(candidates).order(shard)


def test_weight_zero_stands_last_and_owns_nothing() -> None:
    placement = Placement([*equal(3), Candidate("idle", 0.0, ""), Candidate("lazy", 0.0, "z")])
    for shard in range(0, SHARDS, 97):
        assert set(placement.order(shard)[3:]) == {"idle", "lazy"}
        assert set(placement.owners(shard, 5)) == set(ids(3))


def test_nobody_and_one() -> None:
    assert Placement([]).owners(0, 3) == ()
    assert Placement(equal(1)).owners(4095, 3) == tuple(ids(1))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Placement([Candidate("a", weight, "")])


def test_two_candidates_with_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="one id"):
        Placement([Candidate("a", 1.0, ""), Candidate("a", 2.0, "")])


def test_golden_orders() -> None:
    """A change here moves every block of every cluster: it needs a new protocol version."""
    letters = [Candidate(id, 1.0, "") for id in "abcde"]
    assert ["".join(order) for order in map(Placement(letters).order, (0, 1, 2, 1000, 4095))] == GOLDEN_PLAIN
    mixed = [Candidate(*row) for row in zip("abcdef", (1, 2, 3, 1, 0, 5), "xxyyz ", strict=True)]
    assert ["".join(order) for order in map(Placement(mixed).order, (0, 1, 2, 1000, 4095))] == GOLDEN_MIXED
    everything = "".join("".join(order) for order in map(Placement(letters).order, range(SHARDS)))
    assert hashlib.sha256(everything.encode()).hexdigest() == GOLDEN_DIGEST


GOLDEN_PLAIN = ["bedac", "aebdc", "baedc", "eacbd", "cebda"]
GOLDEN_MIXED = ["bfdace", "facbde", "bcfade", "fcabde", "fcbdae"]
GOLDEN_DIGEST = "a0cc07ab6458b1c1a4c005d713d6bcfa0bc6e8398974bf0d44ff6bc54608724e"
