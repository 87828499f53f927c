"""Which shard is verified next, and when: on a virtual clock, with restarts and a wall clock that jumps."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core import scrubbing
from p2pfs.core.scrubbing import CLOCK_ERROR_S, SPREAD, UNKNOWN, Schedule

SHARDS = 32
PERIOD_S = 100_000.0
BORN = 1_700_000_000.0
DAY_S = 86_400.0


class World:
    """A disk of a few shards, a node that is up or down, and a wall clock; `now` is the true time."""

    def __init__(self, seed: int, shard_cost: int, ceiling: int) -> None:
        self.random = random.Random(seed)
        self.shard_cost = shard_cost
        self.ceiling = ceiling
        self.now = BORN
        self.wall_error_s = 0.0
        self.verified = [BORN] * SHARDS  # the truth
        self.saved = ((int(BORN),) * SHARDS, int(BORN))
        self.read_bytes = 0
        self.worst_s = 0.0
        self.schedule = Schedule(self.verified, PERIOD_S)

    @property
    def wall(self) -> float:
        return self.now + self.wall_error_s

    def save(self) -> None:
        self.saved = scrubbing.to_unix(self.schedule.begun, self.wall, self.now), int(self.wall)

    def start(self) -> None:
        self.schedule = Schedule(scrubbing.from_unix(*self.saved, self.wall, self.now), PERIOD_S)

    def look(self) -> None:
        """Remember how old the oldest is; what the schedule says of it is no less than the truth."""
        truth = self.now - min(self.verified)
        self.worst_s = max(self.worst_s, truth)
        said = self.schedule.oldest_s(self.now)
        assert said is None or said >= truth - CLOCK_ERROR_S

    def run(self, seconds: float) -> None:
        """Scrub for a while, then stop in the middle of whatever is going on."""
        end = self.now + seconds
        while self.now < end:
            shard, at = self.schedule.next(self.now)
            if at >= end:
                break
            late_s = max(0.0, self.now - at)
            self.now = max(self.now, at)
            began = self.now
            self.schedule.begin(shard, began)
            rate = self.schedule.rate(SHARDS * self.shard_cost, late_s, self.ceiling)
            assert rate <= self.ceiling
            self.now += self.shard_cost / rate
            self.look()
            if self.now <= end:
                self.schedule.verified(shard, began)
                self.verified[shard] = began
                self.read_bytes += self.shard_cost
                self.save()
        self.now = end
        self.look()

    def sleep(self, seconds: float) -> None:
        """The node is down."""
        self.now += seconds
        self.look()


def at_rate(share: float) -> tuple[int, int]:
    """(cost of a shard, ceiling) so that reading all takes that part of the period at the highest rate."""
    ceiling = 8 * scrubbing.MIN_RATE
    return int(share * PERIOD_S * ceiling / SHARDS), ceiling


@given(st.integers(0, 2**32), st.floats(0.0001, 0.04))
def test_each_shard_is_verified_within_the_period_for_any_restarts_and_clock_steps(seed: int, share: float) -> None:
    world = World(seed, *at_rate(share))
    chance = world.random
    for _ in range(60):
        # Down for less than a tenth of any period; a life is long enough for at least one shard.
        world.run(chance.uniform(0.05, 0.3) * PERIOD_S)
        if chance.random() < 0.5:  # a step while it runs: seen, since its own clock does not
            world.wall_error_s += chance.choice([-1, 1]) * chance.choice([0.5, 3600, 5 * DAY_S, 400 * DAY_S])
            world.run(chance.uniform(0.05, 0.3) * PERIOD_S)
        is_killed = chance.random() < 0.5
        if not is_killed:
            world.save()
        world.sleep(chance.uniform(0, 0.005) * PERIOD_S)
        if chance.random() < 0.2:  # the wall clock is put right, or worse, while it is down
            world.wall_error_s = max(world.wall_error_s, chance.choice([0.0, DAY_S]))
        world.start()
    assert world.worst_s <= PERIOD_S


@given(st.integers(0, 2**32), st.floats(0.05, 0.08))
def test_after_downtime_it_catches_up_and_never_reads_faster_than_it_may(seed: int, downtime: float) -> None:
    world = World(seed, *at_rate(0.02))
    world.run(2 * PERIOD_S)
    before, began = world.read_bytes, world.now
    world.sleep(downtime * PERIOD_S)
    world.start()
    world.run(PERIOD_S)
    assert world.worst_s <= PERIOD_S
    assert world.read_bytes - before <= world.ceiling * (world.now - began)


def test_a_new_disk_is_gone_through_evenly_and_no_faster_than_needed() -> None:
    schedule = Schedule([BORN] * SHARDS, PERIOD_S)
    begun = []
    now = BORN
    for _ in range(3 * SHARDS):
        shard, now = schedule.next(now)
        begun.append((shard, now))
        schedule.begin(shard, now)
        schedule.verified(shard, now)
    gap_s = SPREAD * PERIOD_S / SHARDS
    for number, (shard, at) in enumerate(begun):
        assert shard == number % SHARDS
        assert at == pytest.approx(BORN + (number + 1) * gap_s, abs=1)


def test_what_was_verified_in_a_burst_is_spread_again() -> None:
    schedule = Schedule([BORN + shard for shard in range(SHARDS)], PERIOD_S)
    now, gaps = BORN + SHARDS, []
    for _ in range(2 * SHARDS):
        shard, at = schedule.next(now)
        gaps.append(at - now)
        now = at
        schedule.begin(shard, now)
        schedule.verified(shard, now)
    assert max(gaps) < 1.05 * SPREAD * PERIOD_S / SHARDS
    assert min(gaps) > 0.9 * SPREAD * PERIOD_S / SHARDS


def test_a_shard_that_fails_lets_the_others_go_on_and_is_tried_again() -> None:
    schedule = Schedule([BORN] * SHARDS, PERIOD_S)
    now, tried = BORN, 0
    while now < BORN + PERIOD_S:
        shard, at = schedule.next(now)
        now = max(now, at)
        schedule.begin(shard, now)
        if shard == 0:
            tried += 1
        else:
            schedule.verified(shard, now)
    assert schedule.begun[0] == BORN
    assert min(schedule.begun[1:]) > BORN
    assert 10 < tried < 100
    assert schedule.oldest_s(now) == now - BORN


def test_when_all_fail_it_waits_between_attempts() -> None:
    schedule = Schedule([UNKNOWN] * SHARDS, PERIOD_S)
    for shard in range(SHARDS):
        assert schedule.next(BORN + shard).at == UNKNOWN
        schedule.begin(schedule.next(BORN + shard).shard, BORN + shard)
    assert schedule.next(BORN + SHARDS) == (0, BORN + scrubbing.RETRY * PERIOD_S)


def test_what_is_unknown_is_verified_at_once_and_says_so() -> None:
    schedule = Schedule([BORN] * 5 + [UNKNOWN] + [BORN] * 5, PERIOD_S)
    assert schedule.next(BORN) == (5, UNKNOWN)
    assert schedule.oldest_s(BORN) is None
    assert schedule.rate(10**9, math.inf, 12345) == 12345


def test_another_period_holds_at_once() -> None:
    schedule = Schedule([BORN] * SHARDS, PERIOD_S)
    schedule.period_s = PERIOD_S / 10
    assert schedule.next(BORN).at == pytest.approx(BORN + SPREAD * PERIOD_S / 10 / SHARDS)


@given(st.lists(st.floats(0, 10**9) | st.none(), min_size=1), st.floats(10**9, 2 * 10**9), st.floats(0, 10**7))
def test_times_survive_a_restart_whatever_the_clocks_count_from(
    ages: list[float | None], wall: float, down_s: float
) -> None:
    saved = scrubbing.to_unix([UNKNOWN if age is None else -age for age in ages], wall, 0.0)
    again = scrubbing.from_unix(saved, int(wall), wall + down_s, 77.0)
    for age, after in zip(ages, again, strict=True):
        if age is None:
            assert after == UNKNOWN
        elif wall - age >= 1:
            assert age + down_s - 0.001 <= 77.0 - after <= age + down_s + 1.001


def test_a_wall_clock_that_went_back_proves_nothing() -> None:
    saved = (1_700_000_000,) * SHARDS
    assert scrubbing.from_unix(saved, 1_700_000_500, 1_700_000_499.0, 5.0)[0] > UNKNOWN
    assert set(scrubbing.from_unix(saved, 1_700_000_500, 1_700_000_400.0, 5.0)) == {UNKNOWN}
    assert scrubbing.from_unix([1_700_000_900], 1_700_000_000, 1_700_000_100.0, 5.0) == (UNKNOWN,)
