"""The state of the cluster when not everybody tells: who is silent is named, whatever the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import errors, green
from p2pfs.core.health import Figures
from p2pfs.node import health
from p2pfs.node.health import Checkup, Overview, overview
from tests.green.greenlet_node import World

WELL = Checkup(Figures(live_blocks=1, live_bytes=1), is_current=True, is_done_once=True, oldest_scrub_s=None, lost=[])


class Site:
    """A node to which all is well, and two others with answers to HEALTH."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "ASK_S", 0.1)
        monkeypatch.setattr(health, "checkup", lambda services: WELL)
        self.world = World(3)
        self.monkeypatch = monkeypatch
        for id in self.world.peers:
            self.answer(id, lambda: json.dumps(WELL.to_wire()).encode())

    def answer(self, id: str, how: Callable[[], bytes]) -> None:
        """What a call of this member comes to."""
        self.monkeypatch.setattr(self.world.peers[id], "call", lambda lane, use, wait_s: how())

    def look(self) -> Overview:
        config = SimpleNamespace(cluster=SimpleNamespace(replicas=2), repair=SimpleNamespace(rate=1 << 20))
        caller = SimpleNamespace(name="me")
        return overview(cast(Any, SimpleNamespace(cluster=self.world.cluster, config=config, caller=caller)))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(monkeypatch)
    yield site
    site.world.close()


def hang() -> bytes:
    green.sleep(10.0)
    return b""


def refuse() -> bytes:
    raise errors.Unreachable("gone")


def fail() -> bytes:
    raise ZeroDivisionError


def test_all_that_answer_are_counted(site: Site) -> None:
    found = site.look()
    assert (found.health.verdict, found.health.reasons) == ("healthy", ())
    assert found.figures.live_blocks == 3


@pytest.mark.parametrize("how", [hang, refuse, fail, lambda: b"no json"])
def test_a_member_that_does_not_answer_is_named_and_is_no_health(site: Site, how: Callable[[], bytes]) -> None:
    site.answer("n1", how)
    found = site.look()
    assert found.health.verdict == "degraded"
    assert found.health.reasons[0].startswith("no answer from n1")
    assert found.figures.live_blocks == 2
