"""The search for the pins that lost something: nobody waits for it, and it ends with what is lost in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from p2pfs import green
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.core.pins import Pin
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.node import losses
from p2pfs.node.buffers import BufferPool
from p2pfs.node.local import LocalStore
from p2pfs.node.losses import Losses
from p2pfs.store.memory import MemoryStore

CIDS = [CID(RAW, multihash(SHA2_256, b"%d" % number)) for number in range(4)]


class Catalog:
    """One pin a block. Reading them waits for `gate`."""

    def __init__(self) -> None:
        self.catalog = self
        self.gate = green.Event()
        self.walks = self.ends = 0

    def run(self, job: Callable[..., Any], *args: Any) -> Any:
        return job(*args)

    def pins(self, after: Pin | None, limit: int) -> list[Pin]:
        if after is not None:
            self.ends += 1
            return []
        self.walks += 1
        assert self.gate.wait(30)
        return [Pin(cid, f"pin-{at}", 10 + at, None, 1, 1, 1, 1, "me", False) for at, cid in enumerate(CIDS)]


class Site:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(losses, "REST_MOST_S", 0.01)
        self.catalog = Catalog()
        self.losses = Losses(
            LocalStore(MemoryStore(), 1), cast(Any, None), cast(Any, self.catalog), BufferPool("test", 2 * MAX_BLOCK)
        )
        self.losses.start()

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            green.sleep(0.005)

    def names(self) -> list[str]:
        return [lost.pin.name for lost in self.losses.pins]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(monkeypatch)
    yield site
    site.catalog.gate.set()
    site.losses.stop()


def lost(*numbers: int) -> dict[Multihash, Live]:
    return {CIDS[at].multihash: Live(CIDS[at].multihash, 1, 10 + at, False) for at in numbers}


def test_nobody_waits_for_the_names_and_it_is_said_when_they_are_known(site: Site) -> None:
    assert site.losses.is_known
    begin = time.monotonic()
    site.losses.note(lost(1, 3))
    assert time.monotonic() - begin < 10
    site.wait(lambda: site.catalog.walks == 1)
    assert not site.losses.is_known
    assert site.names() == []
    site.catalog.gate.set()
    site.wait(lambda: site.losses.is_known)
    assert [(found.pin.name, found.blocks, found.bytes) for found in site.losses.pins] == [
        ("pin-1", 1, 11), ("pin-3", 1, 13)
    ]


def test_what_is_lost_meanwhile_is_sought_next(site: Site) -> None:
    site.losses.note(lost(1))
    site.wait(lambda: site.catalog.walks == 1)
    site.losses.note(lost(1, 2))
    site.catalog.gate.set()
    site.wait(lambda: site.losses.is_known)
    assert site.names() == ["pin-1", "pin-2"]
    assert site.catalog.walks == 2
    site.losses.note(lost(2, 1))
    assert site.losses.is_known, "the same ones"


def test_what_is_found_again_hurts_nobody_at_once(site: Site) -> None:
    site.catalog.gate.set()
    site.losses.note(lost(0))
    site.wait(lambda: site.names() == ["pin-0"])
    site.losses.note({})
    assert site.losses.is_known
    assert site.names() == []
    site.catalog.gate.clear()
    site.losses.note(lost(0))
    site.wait(lambda: site.catalog.walks == 2)
    site.losses.note({})
    site.catalog.gate.set()
    site.wait(lambda: site.catalog.ends == 2)
    assert site.losses.is_known
    assert site.names() == [], "the search that was under way says nothing any more"
