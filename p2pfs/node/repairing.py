"""Fetches what this node should hold and does not: repair, moving in, and the healing of bad copies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from p2pfs import errors, green, metrics
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.multihash import Multihash
from p2pfs.core.pace import Pace
from p2pfs.node.backlog import MOST, Backlog
from p2pfs.node.buffers import BufferPool
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.place import Placer
from p2pfs.store.jobs import Taken

log = logging.getLogger(__name__)

AT_ONCE = 3
"""Blocks fetched at once: enough to keep a network busy, few enough to leave it to users."""
BURST_S = 0.25
IDLE_S = 5.0
HEAL_AT_ONCE = 64
RETRY_S = 2.0
RETRY_MOST_S = 300.0
"""A block that could not be fetched or kept is tried again after RETRY_S, then twice as long each time, up to this."""


class Repair:
    """Works off the backlog at no more than `rate` bytes a second, and a little at once: a burst and AT_ONCE blocks."""

    def __init__(
        self, local: LocalStore, fetcher: Fetcher, placer: Placer, buffers: BufferPool, rate: Callable[[], int],
        wanted: Callable[[Live], int],
    ) -> None:
        """`wanted`: how many copies of a block there should be, with the members there are."""
        self.backlog = Backlog()
        self.fetched_blocks = 0
        self.fetched_bytes = 0
        self._local = local
        self._fetcher = fetcher
        self._placer = placer
        self._buffers = buffers
        self._rate = rate
        self._wanted = wanted
        self._pace = Pace(rate(), int(rate() * BURST_S))
        self._retries: dict[Multihash, tuple[float, float]] = {}
        """Of blocks that could not be fetched: before when there is no use in it, and how long that was."""
        self._work = green.Event()
        self._healing: dict[Multihash, None] = {}
        self.on_unhealed: Callable[[], None] | None = None
        """Called on the hub when a bad copy was not replaced: a comparison has to find it. Must not block."""
        self._group = green.Group("repair")

    def start(self) -> None:
        """Begin."""
        for number in range(AT_ONCE):
            self._group.loop(f"worker-{number}", self._step)

    def stop(self) -> None:
        """End; a block that is being written is waited for."""
        self._group.close()

    def wake(self) -> None:
        """There is something in the backlog."""
        self._work.set()

    def forget_failures(self) -> None:
        """Try everything again now: members came, there is room again, or somebody asks for it."""
        self._retries.clear()

    def heal(self, block: Multihash) -> None:
        """This node's copy was bad and is in quarantine: get a good one, wanted by a pin or not."""
        if len(self._healing) < HEAL_AT_ONCE:
            self._healing[block] = None
            self._work.set()
        else:
            self._leave_to_comparison()

    def _leave_to_comparison(self) -> None:
        if self.on_unhealed is not None:
            self.on_unhealed()

    @property
    def is_idle(self) -> bool:
        """All that can be fetched for now is here."""
        return self.backlog.is_idle and not self._healing

    def _step(self) -> float:
        if self._healing:
            block = next(iter(self._healing))
            del self._healing[block]
            self._heal(block)
            return 0.0
        live = self.backlog.take()
        if live is None:
            self._work.clear()
            self._work.wait(IDLE_S)
            return 0.0
        try:
            self._fetch(live)
        except BaseException:
            self.backlog.set_aside(live, "failed")
            raise
        return 0.0

    def _fetch(self, live: Live) -> None:
        cid = CID(DAG_PB if live.is_branch else RAW, live.block)
        if self._local.have([live.block], renew=True)[0]:
            self.backlog.done(live)
            return
        if time.monotonic() < self._retries.get(live.block, (0.0, 0.0))[0]:
            self.backlog.set_aside(live, "failed")
            return
        try:
            if self._is_displaced(live, cid):
                self.backlog.set_aside(live, "displaced")
                return
            self._rest()
            with self._buffers.buffer() as view:
                length = self._fetcher.from_others(cid, view)
                self._pace.reserve(time.monotonic(), length)
                with view[:length] as data:
                    self._keep(live, cid, data)
        except errors.P2pfsError as error:
            log.info("not repaired yet: %s", error)
            if isinstance(error, errors.Corrupt):  # it came, and was damaged
                self._pace.reserve(time.monotonic(), live.size)
            self.backlog.set_aside(live, "failed")
            self._postpone(live.block)
        else:
            self._retries.pop(live.block, None)

    def _postpone(self, block: Multihash) -> None:
        if len(self._retries) >= MOST:
            self._retries.clear()
        pause_s = min(RETRY_MOST_S, max(RETRY_S, 2 * self._retries.get(block, (0.0, 0.0))[1]))
        self._retries[block] = (time.monotonic() + pause_s, pause_s)

    def _is_displaced(self, live: Live, cid: CID) -> bool:
        """There is no room here, and others hold all copies that there should be: nothing has to be fetched."""
        if self._local.run(self._local.store.free_bytes) >= live.size:
            return False
        (holders,), _ = self._fetcher.holders([cid])
        return len(holders) >= self._wanted(live)

    def _keep(self, live: Live, cid: CID, data: memoryview) -> None:
        """Raises NoSpace when there is no room for it here, nor for enough copies elsewhere."""
        try:
            self._local.put(cid.multihash, data, is_verified=True)
        except errors.NoSpace as refusal:
            if not self._displace(live, cid, data, refusal):
                raise
            self.backlog.set_aside(live, "displaced")
            return
        self.backlog.done(live)
        self._count(len(data))

    def _count(self, length: int) -> None:
        self.fetched_blocks += 1
        self.fetched_bytes += length
        metrics.BLOCKS_REPAIRED.inc()
        metrics.BYTES_REPAIRED.inc(length)

    def _displace(self, live: Live, cid: CID, data: memoryview, refusal: errors.NoSpace) -> bool:
        """No room here: see to it that the next ranks have enough copies. True when they do."""
        wanted = self._wanted(live)
        taken = Taken(cid.multihash, False, None, refusal)
        copies = self._placer.put(cid, data, wanted, 1, lambda *_: None, taken)
        return len(copies.holders) >= wanted

    def _heal(self, block: Multihash) -> None:
        cid = CID(RAW, block)
        try:
            with self._buffers.buffer() as view:
                length = self._fetcher.from_others(cid, view)
                with view[:length] as data:
                    is_new = self._local.put(block, data, is_verified=True) is not None
                if not is_new:  # a reader was faster, or the bad copy could not be moved: its length may be right
                    self._local.run(self._local.store.read, block, view)
            self._count(length)
            log.info("a good copy of %s is here again", cid)
        except errors.P2pfsError as error:
            log.warning("there is no good copy of %s here: %s", cid, error)
            self._leave_to_comparison()

    def _rest(self) -> None:
        """Wait until what came is paid for; what users do goes first. A search that finds nothing costs nothing."""
        self._pace.set_rate(self._rate())
        while (wait_s := self._pace.reserve(time.monotonic(), 0)) > 0:
            green.sleep(wait_s)
