"""Connections to a member that end while it lives: after its restart, or when a secret is replaced."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from p2pfs import errors, green
from p2pfs.core.member import Member
from p2pfs.net.connection import Connection
from p2pfs.net.stream import Stream
from p2pfs.node.hello import Caller
from p2pfs.node.lanes import Lane
from p2pfs.node.peer import Peer


class Line:
    """A connection that the other end may have closed."""

    def __init__(self) -> None:
        self.is_broken = self.is_answering = self.is_closed = self.is_gone = False

    def close(self) -> None:
        self.is_closed = True

    def ask(self) -> str:
        if self.is_gone:
            self.is_broken = True
            raise errors.Unreachable("closed instead of answering")
        return "answer"


class Exchange:
    """Opens them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def open(self) -> Connection:
        self.lines.append(Line())
        return cast("Connection", self.lines[-1])


class Users:
    """As many as hold a connection at once, until they are let go."""

    def __init__(self, lane: Lane, count: int) -> None:
        self._leave = green.Event()
        self._group = green.Group("users")
        for _ in range(count):
            self._group.spawn("user", lane.use, lambda connection, is_reused: self._leave.wait(30), 1.0)
        green.sleep(0)  # each of them gets its turn

    def end(self) -> None:
        self._leave.set()
        assert self._group.join(30)


def test_a_retired_connection_is_used_to_the_end_of_its_call_and_not_again() -> None:
    exchange = Exchange()
    lane = Lane(exchange.open, 3)
    Users(lane, 2).end()
    last = Users(lane, 1)
    lane.retire()
    first, second = exchange.lines
    assert {first.is_closed, second.is_closed} == {False, True}  # the one in use goes on
    last.end()
    assert first.is_closed
    assert second.is_closed
    assert [lane.use(lambda connection, is_reused: is_reused, 1.0) for _ in range(2)] == [False, True]


def test_one_that_is_just_being_opened_is_retired_as_well() -> None:
    exchange, may_open = Exchange(), green.Event()

    def open_late() -> Connection:
        assert may_open.wait(30)
        return exchange.open()

    lane = Lane(open_late, 1)
    user = Users(lane, 1)
    lane.retire()
    may_open.set()
    user.end()
    assert [line.is_closed for line in exchange.lines] == [True]


def test_a_call_finds_a_new_connection_however_many_have_ended() -> None:
    exchange = Exchange()
    peer = Peer(Member("n", "n", ("127.0.0.1:1",)), Caller("me", "me", "0"), cast("Any", None), green.Group("x"))
    lane = peer._lanes["bulk"] = Lane(exchange.open, 4)
    Users(lane, 4).end()
    for line in exchange.lines:
        line.is_gone = True
    assert peer.call("bulk", lambda connection: cast("Any", connection).ask()) == "answer"
    assert not peer.is_avoided


def test_a_call_that_waited_for_its_turn_takes_none_that_another_one_put_back() -> None:
    """A member that stops answers what it was asked before, and closes: what is put back just then is dead as well."""
    exchange, width = Exchange(), 2
    peer = Peer(Member("n", "n", ("127.0.0.1:1",)), Caller("me", "me", "0"), cast("Any", None), green.Group("x"))
    lane = peer._lanes["bulk"] = Lane(exchange.open, 2, lambda: width)
    Users(lane, 2).end()
    other = Users(lane, 1)
    for line in exchange.lines:
        line.is_gone = True
    ends = green.Group("ends")

    def find_it_dead(connection: Any) -> Any:
        nonlocal width
        width = 1  # so that the second attempt has to wait for the other one
        ends.spawn("end", other.end)
        return connection.ask()

    assert peer.call("bulk", find_it_dead) == "answer"
    assert ends.join(30)
    assert len(exchange.lines) == 3


def test_a_new_connection_that_ends_at_once_is_the_members_fault() -> None:
    exchange = Exchange()
    peer = Peer(Member("n", "n", ("127.0.0.1:1",)), Caller("me", "me", "0"), cast("Any", None), green.Group("x"))
    peer._lanes["bulk"] = Lane(exchange.open, 4)

    def hang_up(connection: Any) -> Any:
        connection.is_gone = True
        return connection.ask()

    with pytest.raises(errors.Unreachable):
        peer.call("bulk", hang_up)
    assert peer.is_avoided


# --- answers in parts --------------------------------------------------------------------------------

class Answering:
    """A lane whose connections say these bytes, whatever they are asked."""

    def __init__(self, data: bytes) -> None:
        self.sockets: list[socket.socket] = []
        self._far: list[socket.socket] = []
        self.lane = Lane(lambda: self._open(data), 1)

    def _open(self, data: bytes) -> Connection:
        near, far = socket.socketpair()
        far.sendall(data)
        self.sockets.append(near)
        self._far.append(far)
        return Connection(Stream(near, "script"))

    def close(self) -> None:
        self.lane.close()
        for far in self._far:
            far.close()

    def pin(self) -> tuple[bool, bytes]:
        """Over a used connection? And the answer to PIN."""
        return self.lane.use(lambda connection, is_reused: (is_reused, connection.request("PIN", body=b"[]")), 1.0)


def test_one_with_half_an_answer_unread_is_not_used_again() -> None:
    """The next answer would be the rest of that one, and each later one the answer before it."""
    far = Answering(b"PART 2\r\n[]OK 0\r\nOK 2\r\n{}")

    def use(connection: Connection, is_reused: bool) -> None:
        assert next(connection.stream("BUCKET", 1, body=b"")) == b"[]"
        raise errors.TooBig("more than we take")

    for number in range(2):
        with pytest.raises(errors.TooBig):
            far.lane.use(use, 1.0)
        assert [near.fileno() for near in far.sockets] == [-1] * (number + 1)
    far.close()


@pytest.mark.parametrize("answer", [
    b"PART 2\r\n[]OK 0\r\n", b"ERR NOT_FOUND gone\r\n", b"PART 0\r\nERR NOT_FOUND gone\r\n",
])
def test_one_whose_answer_came_to_its_end_is_used_again(answer: bytes) -> None:
    far = Answering(answer + b"OK 2\r\n{}")

    def use(connection: Connection, is_reused: bool) -> None:
        list(connection.stream("BUCKET", 1, body=b""))
        raise errors.NotFound("nothing of use in it")

    with pytest.raises(errors.NotFound):
        far.lane.use(use, 1.0)
    assert far.pin() == (True, b"{}")
    far.close()
