"""Which pins are hurt by the blocks that no member has any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from p2pfs.core.audit import Live
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import Pin
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.marking import Marking
from p2pfs.node.pinning import Pinning

MOST = 1000
"""Pins that are named; who lost more looks at one after the other with `explain`."""
PAGE = 1000


class LostPin(NamedTuple):
    """A pin, and what is lost of it."""

    pin: Pin
    blocks: int
    bytes: int


def find_losses(
    local: LocalStore, fetcher: Fetcher, pinning: Pinning, view: memoryview, lost: Mapping[Multihash, Live]
) -> list[LostPin]:
    """The pins that want any of these blocks, newest first; `view` is a buffer of 2 MiB to read branches with."""
    found: list[LostPin] = []
    after: Pin | None = None
    while len(found) < MOST and (page := pinning.run(pinning.catalog.pins, after, PAGE)):
        for pin in page:
            hurt: dict[Multihash, int] = {}

            def add(lives: list[Live], hurt: dict[Multihash, int] = hurt) -> None:
                hurt.update((live.block, live.size) for live in lives if live.block in lost)

            Marking(local, fetcher, view, add).mark(pin)
            if hurt:
                found.append(LostPin(pin, len(hurt), sum(hurt.values())))
        after = page[-1]
    return found[:MOST]
