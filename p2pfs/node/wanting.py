"""What the pins want, as an inventory of blocks: walked as a whole, and kept up to date as pins come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from p2pfs.core.audit import Live
from p2pfs.core.hlc import ms_of
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import Pin
from p2pfs.node.buffers import BufferPool
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.marking import Marking
from p2pfs.node.pass_report import Report
from p2pfs.node.pinning import Pinning
from p2pfs.store.inventory import Inventory

INVENTORY_BYTES = 8 * 1024 * 1024
"""Of memory, about 200,000 blocks; more go to files in `temp`."""
RECENT_MOST = 10_000
"""Pins that are looked at one by one when they arrive; if there are more at once, all are walked."""
SLICE = 1024
"""Blocks of them that are entered together, some KiB each while they are."""
PAGE = 250
"""Pins that are walked together, and between two reports of progress."""


class News(NamedTuple):
    """What pins want that came since the last walk, or a slice of it, as far as it was not wanted before.

    What was wanted before is counted already.
    """

    new: dict[Multihash, Live]
    """Blocks that no pin wanted so far."""
    is_raised: bool
    """Of others more copies are wanted than before: they have to be compared anew."""


class Wanting:
    """The inventory of the last walk, and the pins that came since."""

    def __init__(
        self, local: LocalStore, fetcher: Fetcher, pinning: Pinning, buffers: BufferPool, folder: Path
    ) -> None:
        """`folder`: where an inventory may put files that are of use to this process only."""
        self._local = local
        self._fetcher = fetcher
        self._pinning = pinning
        self._buffers = buffers
        self._folder = folder
        self._number = 0
        self._since_ms = 0
        """What was removed before is not kept any more."""
        self._recent: list[Pin] = []
        self._is_overrun = False
        """Some pins that came were too many to be noted: only a walk finds what they want."""
        self.inventory: Inventory | None = None

    def note(self, pins: list[Pin]) -> bool:
        """These pins came, for `enter_recent`. False when they are too many: walk then.

        Of removed ones, too, what they wanted is entered, as kept: they may never have been known here as live.
        """
        pins = [pin for pin in pins if not pin.removed or ms_of(pin.stamp) >= self._since_ms]
        if len(self._recent) + len(pins) > RECENT_MOST:
            self._is_overrun = True
            return False
        self._recent += pins
        return True

    def walk(self, since_ms: int, report: Report, progress: Callable[[int], None]) -> None:
        """A new inventory, of all pins and of those that were removed at `since_ms` or later.

        `progress` gets the number of pins that were walked.
        """
        self._since_ms, self._recent, self._is_overrun = since_ms, [], False
        number = 1 - self._number  # not that of the inventory which is in use until this one is complete
        inventory = self._local.run(Inventory, self._folder / f"inventory-{number}", INVENTORY_BYTES)
        with self._buffers.buffer() as view:
            marking = Marking(self._local, self._fetcher, view, inventory.add)
            self._mark_all(marking, since_ms, report, progress)
        report.unreadable = marking.unreadable
        self.close()
        self.inventory, self._number = inventory, number

    def _mark_all(self, marking: Marking, since_ms: int, report: Report, progress: Callable[[int], None]) -> None:
        catalog = self._pinning.catalog
        after = None
        while page := self._pinning.run(catalog.pins, after, PAGE):
            marking.mark(page)
            report.pins += len(page)
            progress(report.pins)
            after = page[-1]
        after = None
        while page := self._pinning.run(catalog.removed_since, since_ms, after, PAGE):
            marking.mark(page)
            after = page[-1]

    def enter_recent(self, tell: Callable[[News], None]) -> bool:
        """Enter the pins that came, and `tell` what they want anew, a slice at a time: one pin may want millions.

        False: it takes a walk, since one of them cannot be read, or they were too many.
        """
        pins, self._recent = self._recent, []
        if self._is_overrun:
            return False
        if not pins or self.inventory is None:
            return True
        fresh = self._local.run(Inventory, self._folder / "inventory-recent", INVENTORY_BYTES)
        try:
            with self._buffers.buffer() as view:
                marking = Marking(self._local, self._fetcher, view, fresh.add)
                marking.mark(pins)
            for buckets in fresh.slices(SLICE):
                tell(self._local.run(_enter, self.inventory, fresh, buckets))
        finally:
            self._local.run(fresh.close)
        return not (marking.unreadable or self._is_overrun)  # more may have come meanwhile

    def close(self) -> None:
        """Let go of the inventory."""
        if self.inventory is not None:
            self._local.run(self.inventory.close)
            self.inventory = None


def _enter(inventory: Inventory, fresh: Inventory, buckets: Iterable[int]) -> News:
    """Enter what is in these buckets of `fresh`. Runs in a native thread."""
    new: dict[Multihash, Live] = {}
    raised: list[Live] = []
    for bucket in buckets:
        lives = fresh.bucket(bucket)
        known = inventory.find(bucket, lives)
        for live in lives.values():
            before = known.get(live.block)
            if before is None or not before.copies:
                new[live.block] = live
            elif live.copies > before.copies or live.is_branch > before.is_branch:
                raised.append(live)
    inventory.add([*new.values(), *raised])
    return News(new, bool(raised))
