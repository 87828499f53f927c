"""Which pins are hurt by the blocks that no member has any more.

To know, all pins have to be walked. That is done beside the audit's passes: repair and figures do not wait for names.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from p2pfs import green
from p2pfs.core.agenda import REST, REST_MOST_S
from p2pfs.core.audit import Live
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import Pin
from p2pfs.node.buffers import BufferPool
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.marking import Marking
from p2pfs.node.pinning import Pinning

MOST = 1000
"""Pins that are named; who lost more looks at one after the other with `explain`."""
PAGE = 1000
IDLE_S = 60.0


class LostPin(NamedTuple):
    """A pin, and what is lost of it."""

    pin: Pin
    blocks: int
    bytes: int


class Losses:
    """The search, in a greenlet of its own; begun anew when other blocks are lost than it was begun for."""

    def __init__(self, local: LocalStore, fetcher: Fetcher, pinning: Pinning, buffers: BufferPool) -> None:
        self._local = local
        self._fetcher = fetcher
        self._pinning = pinning
        self._buffers = buffers
        self._lost: Mapping[Multihash, Live] = {}
        self._sought: Mapping[Multihash, Live] = self._lost
        self._wake = green.Event()
        self._group = green.Group("losses")
        self.pins: list[LostPin] = []
        """As the last search found them, newest first."""

    def start(self) -> None:
        """Begin."""
        self._group.loop("search", self._step)

    def stop(self) -> None:
        """End, in the middle of a search if need be."""
        self._group.close()

    def note(self, lost: Mapping[Multihash, Live]) -> None:
        """These blocks are lost now, and no others."""
        if lost.keys() == self._lost.keys():
            return
        self._lost = lost
        if not lost:
            self._sought, self.pins = lost, []
        self._wake.set()

    @property
    def is_known(self) -> bool:
        """`pins` are those of the blocks that are lost now."""
        return self._sought is self._lost

    def _step(self) -> float:
        if self.is_known:
            self._wake.wait(IDLE_S)
            self._wake.clear()
            return 0.0
        begin, lost = time.monotonic(), self._lost
        with self._buffers.buffer() as view:
            pins = self._search(view, lost)
        if self._lost:  # not all found again meanwhile
            self._sought, self.pins = lost, pins
        return min(REST * (time.monotonic() - begin), REST_MOST_S)

    def _search(self, view: memoryview, lost: Mapping[Multihash, Live]) -> list[LostPin]:
        """The pins that want any of these blocks; `view` is a buffer of 2 MiB to read branches with."""
        found: list[LostPin] = []
        after: Pin | None = None
        catalog = self._pinning.catalog
        while len(found) < MOST and (page := self._pinning.run(catalog.pins, after, PAGE)):
            for pin in page:
                hurt: dict[Multihash, int] = {}

                def add(lives: list[Live], hurt: dict[Multihash, int] = hurt) -> None:
                    hurt.update((live.block, live.size) for live in lives if live.block in lost)

                Marking(self._local, self._fetcher, view, add).mark([pin])
                if hurt:
                    found.append(LostPin(pin, len(hurt), sum(hurt.values())))
            after = page[-1]
        return found[:MOST]
