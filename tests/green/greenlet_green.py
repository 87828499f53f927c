"""The gevent seam: names, ends, exceptions, native jobs, races."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from p2pfs import errors, green, metrics


@pytest.fixture
def group() -> Iterator[green.Group]:
    group = green.Group("test")
    yield group
    group.close()
    assert len(group) == 0


@pytest.fixture
def pool() -> Iterator[green.NativePool]:
    pool = green.NativePool("test", 2)
    yield pool
    pool.close()


def test_the_process_is_patched_and_says_so() -> None:
    green.check_patched()


def test_an_exception_in_a_greenlet_is_logged_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    before = metrics.GREENLET_FAILURES._value.get()
    group = green.Group("test", lambda name, error: told.append(f"{name}: {error}"))
    with caplog.at_level(logging.ERROR):
        group.spawn("broken", lambda: 1 // 0)
        assert group.join(30)
    assert "greenlet test/broken failed" in caplog.text
    assert told == ["broken: integer division or modulo by zero"]
    assert metrics.GREENLET_FAILURES._value.get() == before + 1


def test_a_loop_goes_on_after_an_error(group: green.Group) -> None:
    calls = 0
    done = green.Event()

    def step() -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise errors.NotFound("once")
        done.set()
        return 60.0

    group.loop("loop", step)
    assert done.wait(30)


def test_closing_runs_the_finally_of_a_greenlet_that_had_not_begun(group: green.Group) -> None:
    freed: list[int] = []

    def work() -> None:
        try:
            green.sleep(60)
        finally:
            freed.append(1)

    group.spawn("late", work)
    group.close()
    assert freed == [1]


def test_native_jobs_run_beside_greenlets_and_raise_in_the_caller(pool: green.NativePool) -> None:
    assert pool.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(errors.Corrupt, match="bad"):
        pool.run(_raise, errors.Corrupt("bad"))


def test_where_no_thread_can_be_started_the_limit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(errors.Busy, match="can't start new thread, and disk needs 2; raise the limit"):
        green.NativePool("disk", 2)


def test_each_of_many_callers_gets_the_result_of_its_own_job(pool: green.NativePool, group: green.Group) -> None:
    results: dict[int, list[int]] = {}

    def caller(number: int) -> None:
        results[number] = [pool.run(lambda value: value * value, 1000 * number + turn) for turn in range(20)]

    for number in range(50):
        group.spawn("caller", caller, number)
    assert group.join(30)
    assert results == {number: [(1000 * number + turn) ** 2 for turn in range(20)] for number in range(50)}


def test_closing_a_pool_lets_the_jobs_end_that_it_was_given(group: green.Group) -> None:
    pool = green.NativePool("test", 1)
    done: list[int] = []
    for number in range(5):
        group.spawn("caller", pool.run, done.append, number)
    green.sleep(0)
    pool.close()
    assert done == [0, 1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name == "test-0"]


def _raise(error: Exception) -> None:
    raise error


def test_a_caller_that_is_killed_ends_only_after_its_native_job(group: green.Group, pool: green.NativePool) -> None:
    begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def job() -> None:
        begun.set()
        may_end.wait(30)
        order.append("job")

    def caller() -> None:
        try:
            pool.run(job)
        finally:
            order.append("caller")

    group.spawn("caller", caller)
    other = green.NativePool("other", 1)
    assert other.run(begun.wait, 5)
    other.close()
    closer = green.Group("closer")
    closer.spawn("close", group.close)
    assert not closer.join(0.01)
    assert order == []
    may_end.set()
    assert closer.join(30)
    assert order == ["job", "caller"]


def runners(*fns: Callable[[], str]) -> Iterator[Callable[[], str]]:
    return iter(fns)


def slow() -> str:
    green.sleep(60)
    return "slow"


def missing() -> str:
    raise errors.NotFound("not here")


def test_a_race_is_won_by_the_first_who_returns(group: green.Group) -> None:
    assert green.race(group, "r", runners(lambda: "quick"), lambda: 60.0, 5) == "quick"


def test_the_next_one_starts_when_one_fails(group: green.Group) -> None:
    assert green.race(group, "r", runners(missing, missing, lambda: "third"), lambda: 60.0, 5) == "third"


def test_the_next_one_starts_beside_a_slow_one_which_is_ended(group: green.Group) -> None:
    assert green.race(group, "r", runners(slow, lambda: "hedge"), lambda: 0.01, 5) == "hedge"
    assert group.join(30)


def test_a_race_that_all_lose_raises_the_last_error_and_one_without_end_its_deadline(group: green.Group) -> None:
    with pytest.raises(errors.NotFound):
        green.race(group, "r", runners(missing, missing), lambda: 60.0, 5)
    begin = time.monotonic()
    with pytest.raises(errors.DeadlinePassed):
        green.race(group, "r", runners(slow), lambda: 60.0, 0.05)
    assert time.monotonic() - begin < 5


def test_a_deadline_ends_a_wait_and_only_its_own() -> None:
    with pytest.raises(errors.DeadlinePassed, match="the nap"), green.deadline(0.01, "the nap"):
        green.sleep(60)
    with pytest.raises(KeyError), green.deadline(60, "nothing"):
        raise KeyError
