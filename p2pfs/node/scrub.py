"""Scrub: every block of this disk is read and hashed again within `scrub_period`, and all at once when SCRUB asks.

One worker does both: it verifies the shard that `core.scrubbing` names when it is due, block by block, one native job
each, and breaks off when a run of all shards is wanted. `store.read` moves a bad copy to quarantine, and
`LocalStore.on_corrupt` has it fetched again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2pfs import errors, green, metrics
from p2pfs.config import Config
from p2pfs.core import scrubbing, wire
from p2pfs.core.multihash import Multihash
from p2pfs.core.pace import Pace
from p2pfs.core.placement import SHARDS
from p2pfs.node.buffers import BufferPool
from p2pfs.node.local import LocalStore
from p2pfs.store import verified
from p2pfs.store.layout import SHARD_FOLDERS

log = logging.getLogger(__name__)

SAVE_S = 30.0
NAP_S = 60.0
"""The longest sleep: a reloaded configuration takes effect after it."""
HEAL_S = 30.0
HEAL_STEP_S = 0.5
MAX_REMEMBERED = 65536
"""Bad blocks of a run that are looked for at its end; of a disk with more, `healed_blocks` tells too few."""


class Run:
    """One pass over all shards, as SCRUB asks for it."""

    def __init__(self) -> None:
        self.over = green.Event()
        self.done = 0
        self.blocks = 0
        self.bytes = 0
        self.bad_blocks = 0
        self.healed_blocks = 0
        """Bad ones that are here again."""
        self.bad: list[Multihash] = []
        self.failed_shards = 0
        self.error: errors.P2pfsError | None = None
        self._started = time.monotonic()
        self._seconds: float | None = None

    def progress(self) -> dict[str, Any]:
        """How far it is: shards done and in all, and what was found."""
        return {
            "done": self.done, "total": SHARDS, "blocks": self.blocks, "bytes": self.bytes,
            "bad_blocks": self.bad_blocks,
        }

    def result(self) -> dict[str, Any]:
        """What was found so far; `is_done` when that is all. Raises what kept it from reading everything."""
        if self.error is not None and self.over.is_set():
            raise self.error
        seconds = time.monotonic() - self._started if self._seconds is None else self._seconds
        return {
            "blocks": self.blocks, "bytes": self.bytes, "bad_blocks": self.bad_blocks,
            "healed_blocks": self.healed_blocks, "seconds": round(seconds, 3), "is_done": self.over.is_set(),
        }

    def note_failure(self, error: errors.P2pfsError) -> None:
        """A shard could not be verified."""
        self.failed_shards += 1
        self.error = type(error)(f"{self.failed_shards} of {SHARDS} shards could not be verified; the last: {error}")

    def end(self, error: errors.P2pfsError | None = None) -> None:
        """Let those who wait go on."""
        self.error = error or self.error
        self._seconds = time.monotonic() - self._started
        self.over.set()


class Scrub:
    """The worker, what it has proven, and the run that is wanted now, if any."""

    def __init__(self, local: LocalStore, data_dir: Path, config: Callable[[], Config]) -> None:
        """Reads the file of `store.verified`. `config()` is the configuration as it is now."""
        self._local = local
        self._data_dir = data_dir
        self._config = config
        found = verified.load(data_dir)
        if found.problem:
            log.warning("%s; blocks count as not verified since the data directory was made", found.problem)
        begun = scrubbing.from_unix(found.begun, found.saved_at, time.time(), _now())
        self._schedule = scrubbing.Schedule(begun, config().storage.scrub_period)
        self._group = green.Group("scrub")
        self._buffers = BufferPool("scrub", wire.MAX_BLOCK)
        self._wake = green.Event()
        self._pace = Pace(scrubbing.MIN_RATE, wire.MAX_BLOCK)
        self._run: Run | None = None
        self._saved_at = _now()
        self._is_unsaved = False
        self._save_failed = False
        self._blocks = self._bytes = self._bad_blocks = 0

    def start(self) -> None:
        """Begin to work in the background."""
        self._group.loop("worker", self._step)

    def stop(self) -> None:
        """End it, a run too, and keep what was proven. Raises nothing when the disk is full."""
        self._group.close()
        if self._run is not None:
            self._run.end(errors.Interrupted("the node stops; what was verified is kept"))
        self._save()

    def run_now(self) -> Run:
        """Verify all shards from now on; a run that goes on already is joined."""
        if self._run is None:
            self._run = Run()
            self._wake.set()
        return self._run

    def progress(self) -> dict[str, Any]:
        """For STATUS: how old the oldest verification is, and what was found since the node began."""
        oldest_s = self.oldest_s()
        return {
            "oldest_s": None if oldest_s is None else round(oldest_s, 1),
            "period_s": self._config().storage.scrub_period,
            "blocks": self._blocks, "bytes": self._bytes, "bad_blocks": self._bad_blocks,
            "is_running": self._run is not None,
        }

    def oldest_s(self) -> float | None:
        """No block was verified longer ago than this; None when that is unknown."""
        return self._schedule.oldest_s(_now())

    # --- the worker ----------------------------------------------------------------------------------

    def _step(self) -> float:
        config = self._config()
        self._schedule.period_s = config.storage.scrub_period
        if self._run is not None:
            self._do(self._run)
            return 0.0
        now = _now()
        shard, at = self._schedule.next(now)
        if at > now:
            self._wake.wait(min(at - now, NAP_S))
            return 0.0
        usage = self._local.usage()
        rate = self._schedule.rate(scrubbing.cost(usage.blocks, usage.bytes), now - at, config.repair.rate)
        self._verify(shard, rate, None)
        self._save_at_times()
        return 0.0

    def _do(self, run: Run) -> None:
        self._wake.clear()
        try:
            for shard in range(SHARDS):
                self._verify(shard, self._config().repair.rate, run)
                run.done += 1
                self._save_at_times()
            self._save()
            run.healed_blocks = self._await_healing(run.bad)
            run.end()
        except Exception as error:
            run.end(errors.InternalError(f"the scrub failed: {error!r}; see the node's log"))
            raise
        finally:
            if run.over.is_set():
                self._run = None

    def _verify(self, shard: int, rate: int, run: Run | None) -> None:
        """Read every block of a shard. It counts as verified when nothing came between but bad copies that went."""
        began = _now()
        self._schedule.begin(shard, began)
        self._pace.set_rate(rate)
        failure: errors.P2pfsError | None = None
        try:
            blocks = self._local.run(lambda: list(self._local.store.iterate(shard)))
        except errors.P2pfsError as error:
            blocks, failure = [], error
        with self._buffers.buffer() as view:
            for block in blocks:
                try:
                    length = self._read(block, view, run)
                except errors.P2pfsError as error:
                    length, failure = 0, error
                self._wake.wait(self._pace.reserve(_now(), scrubbing.cost(1, length)))
                if self._run is not run:
                    return
        if failure is None:
            self._schedule.verified(shard, began)
            self._is_unsaved = True
            return
        metrics.GREENLET_FAILURES.inc()
        log.warning("scrub: shard %s could not be verified: %s", SHARD_FOLDERS[shard], failure)
        if run is not None:
            run.note_failure(failure)

    def _read(self, block: Multihash, view: memoryview, run: Run | None) -> int:
        """Verify a block; its length, 0 when it is bad or gone.

        Raises what says nothing about the block, and Corrupt when the bad copy could not be moved out of its place:
        there it still counts as a copy, and no good one can be written.
        """
        try:
            length = self._local.read(block, view)
        except errors.NotFound:  # removed meanwhile
            return 0
        except errors.Corrupt as error:
            log.warning("scrub: %s", error)
            self._bad_blocks += 1
            if run is not None:
                run.bad_blocks += 1
                if len(run.bad) < MAX_REMEMBERED and not error.is_in_place:
                    run.bad.append(block)
            if error.is_in_place:
                raise
            return 0
        metrics.BLOCKS_SCRUBBED.inc()
        metrics.BYTES_SCRUBBED.inc(length)
        self._blocks += 1
        self._bytes += length
        if run is not None:
            run.blocks += 1
            run.bytes += length
        return length

    def _await_healing(self, bad: list[Multihash]) -> int:
        """How many of these are here again; the others get some time for it."""
        missing = bad
        end = time.monotonic() + HEAL_S
        while missing:
            found = self._local.have(missing)
            missing = [block for block, is_here in zip(missing, found, strict=True) if not is_here]
            if self._local.on_corrupt is None or time.monotonic() >= end:
                break
            green.sleep(HEAL_STEP_S)
        return len(bad) - len(missing)

    # --- what was proven -----------------------------------------------------------------------------

    def _save_at_times(self) -> None:
        if _now() - self._saved_at >= SAVE_S:
            self._save()

    def _save(self) -> None:
        if not self._is_unsaved:
            return
        wall, now = time.time(), _now()
        begun = scrubbing.to_unix(self._schedule.begun, wall, now)
        self._saved_at, self._is_unsaved = now, False
        try:
            self._local.run(verified.save, self._data_dir, begun, int(wall))
            self._save_failed = False
        except errors.P2pfsError as error:
            # Losing it costs repeated work only, so a full disk does not stop the worker.
            self._is_unsaved = True
            if not self._save_failed:
                log.warning("what was scrubbed is not remembered on disk for now: %s", error)
            self._save_failed = True


def _now() -> float:
    # Nobody sets this clock, and it counts while the machine sleeps.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
