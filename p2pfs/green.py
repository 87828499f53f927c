"""The gevent seam: the only module of the package that names gevent (tests/test_layers.py).

Everything else is blocking code in synchronous style; `bin/p2pfs-node` patches the standard library before its
first import, except threads: `store/` runs in native threads and needs real locks (docs/decisions/001).

Rules that this module keeps for the others:

- a greenlet has a name, an owner (`Group`) and an end; an exception in one is logged and counted, never swallowed;
- whatever blocks on a disk or a core for long goes to a `NativePool`, in whole blocks (a round trip costs ~26 us);
- every wait takes a deadline.
"""

from __future__ import annotations

import _queue
import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import gevent
import gevent.event
import gevent.hub
import gevent.lock
import gevent.monkey
import gevent.pool
import gevent.queue
import gevent.signal
import gevent.util

from p2pfs import errors, metrics

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Event = gevent.event.Event
Semaphore = gevent.lock.BoundedSemaphore
Greenlet: TypeAlias = "gevent.Greenlet[Any, Any]"
GreenletExit = gevent.GreenletExit
sleep = gevent.sleep
wait = gevent.wait


def check_patched() -> None:
    """Fail at once when the process was not started by `bin/p2pfs-node`: unpatched sockets would block the hub."""
    if not gevent.monkey.is_module_patched("socket"):
        raise errors.InternalError("the standard library is not patched for gevent; start with bin/p2pfs-node")


def deadline(seconds: float, what: str) -> contextlib.AbstractContextManager[None]:
    """A block of code that ends within `seconds`, else DeadlinePassed("what ...").

    Use it around waits only. What was in the middle of a connection when it fires is out of step: the
    connection pools (`node/lanes.py`) discard a connection that any exception passes through.
    """
    return _deadline(seconds, what)


@contextlib.contextmanager
def _deadline(seconds: float, what: str) -> Iterator[None]:
    timeout = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as fired:
        if fired is not timeout:
            raise
        raise errors.DeadlinePassed(f"{what} did not end within {seconds:g} s") from None
    finally:
        timeout.close()


class Group:
    """Greenlets with one owner. `close` ends them all; nothing outlives its group."""

    def __init__(self, name: str, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self.name = name
        self._group = gevent.pool.Group()
        self._on_failure = on_failure

    def spawn(self, name: str, fn: Callable[..., Any], *args: Any) -> Greenlet:
        """Run `fn(*args)` in a greenlet. An exception is logged, counted, and given to the group's `on_failure`."""
        greenlet = gevent.Greenlet(self._run, name, fn, args)
        greenlet.name = f"{self.name}/{name}"
        self._group.start(greenlet)
        return greenlet

    def _run(self, name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return fn(*args)
        except GreenletExit:
            return None
        except BaseException as error:
            metrics.GREENLET_FAILURES.inc()
            log.exception("greenlet %s/%s failed", self.name, name)
            if self._on_failure:
                self._on_failure(name, error)
            return None

    def loop(self, name: str, step: Callable[[], float], first_s: float = 0.0) -> Greenlet:
        """Call `step` for ever; it returns the seconds until its next call.

        A step that raises is logged and counted and the loop goes on after 1 s: a worker is never lost silently.
        """
        return self.spawn(name, self._loop, name, step, first_s)

    def _loop(self, name: str, step: Callable[[], float], pause_s: float) -> None:
        while True:
            sleep(pause_s)
            try:
                pause_s = step()
            except errors.P2pfsError as error:
                metrics.GREENLET_FAILURES.inc()
                log.warning("%s/%s: %s", self.name, name, error)
                pause_s = 1.0
            except Exception:
                metrics.GREENLET_FAILURES.inc()
                log.exception("%s/%s failed, goes on", self.name, name)
                pause_s = 1.0

    def __len__(self) -> int:
        return len(self._group)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until all have ended by themselves; False when some have not within `seconds`."""
        return bool(self._group.join(timeout=seconds))

    def close(self) -> None:
        """End every greenlet of the group and wait until they are gone (a native job of theirs is waited for)."""
        # Those that were spawned just now start first: one that is ended before its first line never runs its
        # `finally`, and would keep for ever what was handed to it, a buffer say.
        sleep(0)
        self._group.kill()


def end_all(greenlets: Iterable[Greenlet]) -> None:
    """End these, and wait until they are gone (a native job of theirs is waited for)."""
    gevent.killall([greenlet for greenlet in greenlets if not greenlet.dead])


class NativePool:
    """Native threads for jobs that block on a disk or a core. One job is one whole block. Raises Busy without threads.

    In place of gevent's own pool, which makes a watcher for each job: that costs 35 us more (docs/PERFORMANCE.md).
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._jobs: _queue.SimpleQueue[_Job | None] = _queue.SimpleQueue()  # as many entries as callers, at most
        self._ended: collections.deque[_Job] = collections.deque()  # likewise
        self._bell = gevent.get_hub().loop.async_()
        self._bell.start(self._tell)
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            raise errors.Busy(f"{error}, and {name} needs {size}; raise the limit of threads or memory (ulimit -u, -v, "
                              "TasksMax)") from None

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a native thread; the calling greenlet waits, the others go on. Raises what `fn` raises.

        When every thread is busy the caller waits for one: that is the back-pressure. A caller that is ended
        meanwhile ends only after the job: a thread cannot be stopped, and it works on the caller's buffer.
        """
        job = _Job(lambda: fn(*args, **kwargs))
        self._jobs.put(job)
        return cast(T, job.result())

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._ended.append(job)
            self._bell.send()
            del job  # what it returned is its caller's, not this idle thread's

    def _tell(self) -> None:
        """On the hub, soon after some jobs have ended."""
        while self._ended:
            self._ended.popleft().tell()

    def close(self) -> None:
        """Let the jobs that were given end, and end the threads. Nothing may be run afterwards."""
        for _ in self._threads:
            self._jobs.put(None)
        while any(thread.is_alive() for thread in self._threads):
            sleep(0.001)
        self._bell.close()


class _Job:
    """One call in a native thread, and the greenlet that waits for it."""

    __slots__ = ("_call", "_error", "_is_over", "_value", "_waiter")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._waiter = gevent.hub.Waiter()  # type: ignore[var-annotated]
        self._is_over = False
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the native thread."""
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001  # raised again by `result`
            self._error = error
        del self._call  # and the caller's buffer with it

    def tell(self) -> None:
        """On the hub, afterwards."""
        self._is_over = True
        self._waiter.switch(None)

    def result(self) -> Any:
        """Wait for the end, also when the greenlet is ended before it; then what the call returned or raised."""
        try:
            self._waiter.get()
        except BaseException:
            while not self._is_over:
                with contextlib.suppress(GreenletExit, gevent.Timeout):
                    self._waiter.get()
            raise
        if (error := self._error) is not None:
            self._error = None
            try:
                raise error
            finally:
                del error  # its traceback would keep this frame, and so itself, until the next garbage collection
        return self._value


def race(
    group: Group, name: str, runners: Iterator[Callable[[], T] | None], hedge_s: Callable[[], float], total_s: float
) -> T:
    """The value of the first of `runners` that returns: the next one starts when one failed or is slow.

    `hedge_s()` is how long to wait before the next one is started beside those that run. A None among the runners
    means that none can start now, but may when one of those that run has ended. Losers are ended.
    Raises the last P2pfsError when all failed, DeadlinePassed after `total_s` seconds.
    """
    results: gevent.queue.Queue[tuple[bool, Any]] = gevent.queue.Queue()  # as many entries as runners, at most
    running: list[Greenlet] = []
    failed: BaseException = errors.NotFound(f"{name}: nobody to ask")
    unfinished = 0
    end = time.monotonic() + total_s

    def start() -> bool:
        nonlocal unfinished
        try:
            runner = next(runners)
        except StopIteration:
            return False
        if runner is None:
            return True
        running.append(group.spawn(name, _attempt, name, runner, results))
        unfinished += 1
        return True

    try:
        more = start()
        while unfinished:
            left_s = end - time.monotonic()
            try:
                done, value = results.get(timeout=max(0.0, min(hedge_s() if more else left_s, left_s)))
            except gevent.queue.Empty:
                if time.monotonic() >= end:
                    raise errors.DeadlinePassed(f"{name} did not end within {total_s:g} s") from None
                more = start()
                continue
            if done:
                return value  # type: ignore[no-any-return]
            unfinished -= 1
            failed = value
            more = start() or more
        raise failed
    finally:
        end_all(running)


def _attempt(name: str, runner: Callable[[], T], results: gevent.queue.Queue[tuple[bool, Any]]) -> None:
    try:
        results.put((True, runner()))
    except errors.P2pfsError as error:
        results.put((False, error))
    except Exception as error:
        log.exception("%s failed", name)
        results.put((False, errors.InternalError(f"{name}: {error!r}")))


def on_signal(number: int, fn: Callable[[], None]) -> None:
    """Call `fn` in a greenlet of its own when the signal arrives."""
    gevent.hub.signal(number, fn)


def dump() -> str:
    """What every greenlet and native thread is doing, for people (SIGUSR1)."""
    return "\n".join(gevent.util.format_run_info())  # type: ignore[func-returns-value, arg-type]  # wrong in the stubs
