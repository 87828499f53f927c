"""A lane has as many connections in use as it is wide just now, and closes what was idle for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from p2pfs import errors, green
from p2pfs.net.connection import Connection
from p2pfs.node import lanes
from p2pfs.node.lanes import IDLE_S, Lane

MOST = 6


class Opened:
    """A connection that only knows whether it is closed."""

    def __init__(self) -> None:
        self.is_broken = self.is_answering = self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def settle() -> None:
    """Let everybody go as far as he can."""
    for _ in range(4):
        green.sleep(0)


class World:
    """A lane whose users stay until they are let go."""

    def __init__(self, group: green.Group) -> None:
        self.width = MOST
        self.opened: list[Opened] = []
        self.lane = Lane(self._open, MOST, lambda: self.width)
        self.inside: list[green.Event] = []
        self._group = group

    def _open(self) -> Connection:
        self.opened.append(Opened())
        return cast(Connection, self.opened[-1])

    def _stay(self, connection: Connection, is_reused: bool) -> None:
        leave = green.Event()
        self.inside.append(leave)
        assert leave.wait(30)
        self.inside.remove(leave)

    def come(self, count: int) -> int:
        """So many more want one; how many are inside now."""
        for _ in range(count):
            self._group.spawn("user", self.lane.use, self._stay, 10.0)
        settle()
        return len(self.inside)

    def leave(self, count: int) -> int:
        """So many go, and those who wait come in; how many are inside now."""
        for leave in self.inside[:count]:
            leave.set()
        settle()
        return len(self.inside)


@pytest.fixture
def world() -> Iterator[World]:
    group = green.Group("test")
    yield World(group)
    group.close()


def test_it_becomes_wider_with_the_next_who_comes(world: World) -> None:
    world.width = 2
    assert world.come(4) == 2
    world.width = 5
    assert world.come(0) == 2
    assert world.come(1) == 5


def test_it_becomes_narrower_though_it_is_never_idle(world: World) -> None:
    assert world.come(3 * MOST) == MOST
    world.width = 2
    assert world.leave(MOST) == 2
    world.width = MOST
    assert world.come(1) == MOST


def test_a_slot_is_never_lost(world: World) -> None:
    for width in (1, 6, 2, 5, 3, 1, 6):
        world.width = width
        assert world.come(2 * MOST) == width
        while world.inside:
            world.leave(MOST)


def test_who_waits_too_long_hears_it(world: World) -> None:
    world.width = 1
    world.come(1)
    with pytest.raises(errors.DeadlinePassed):
        world.lane.use(lambda connection, is_reused: None, 0.001)


def test_what_was_idle_for_long_is_closed_as_others_come_and_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(lanes.time, "monotonic", lambda: now)
    world.come(3)
    world.leave(3)
    now = IDLE_S / 2
    world.lane.use(lambda connection, is_reused: None, 10.0)
    now = IDLE_S
    world.lane.use(lambda connection, is_reused: None, 10.0)
    assert [each.is_closed for each in world.opened].count(True) == 2
