"""Who comes too often, too fast or in too great numbers is turned away, and everybody else is served all the while."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs import errors, metrics
from p2pfs.client import pool as pool_module
from p2pfs.client.deadline import Deadline
from p2pfs.client.pool import Pool
from p2pfs.core import rights
from p2pfs.core.wire import Line
from p2pfs.net import doorman as doorman_module
from p2pfs.net import server as server_module
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.doorman import Doorman, Stranger, host_of
from p2pfs.net.server import Session
from p2pfs.net.tls import Party
from tests.sockets import Material, Running, Task, material, read_all, running

MEMBER = "a" * 32


def status(session: Session, line: Line) -> None:
    session.reply(f"{session.party.kind}".encode())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, {"HELLO": status, "STATUS": status}, max_connections=200) as started:
        yield started


def refused(why: str) -> float:
    return metrics.CONNECTIONS_REFUSED.labels(why)._value.get()


def ask(node: Running, who: Material) -> Connection:
    connection = connect(node.address, tls.client_context(*who.files), 10.0, node.node.id)
    try:
        connection.request("STATUS")
    except BaseException:
        connection.close()
        raise
    return connection


# --- over real sockets -------------------------------------------------------------------------------

def test_silent_strangers_go_when_others_come(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doorman_module, "STRANGERS_PER_HOST", 3)
    before = refused("crowd")
    friend = material(tmp_path / "friend")
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(node.raw()) for _ in range(10)]
        assert [read_all(sock) for sock in silent[:7]] == [b""] * 7  # their 10 s are not over by far
        stack.enter_context(contextlib.closing(ask(node, friend)))
        assert refused("crowd") - before == 8
        assert len(node.server._doorman._strangers) == 2


def test_a_stranger_whose_end_comes_while_tls_takes_its_socket_is_ended() -> None:
    ours, theirs = socket.socketpair()
    stranger = Stranger(ours, "host")

    def prepare(plain: socket.socket) -> socket.socket:
        changed = socket.socket(fileno=plain.detach())  # as ssl does it
        stranger.end()
        return changed

    with theirs, stranger.put_in(prepare):
        theirs.settimeout(10)
        assert theirs.recv(1) == b""


def test_a_flood_of_connections_is_closed_and_friends_that_are_in_are_served(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doorman_module, "HANDSHAKES_AT_ONCE", 5)
    monkeypatch.setattr(doorman_module, "HANDSHAKES_PER_S", 0.0)
    before, handles = refused("rate"), len(os.listdir("/proc/self/fd"))
    with contextlib.closing(ask(node, material(tmp_path / "friend"))) as friend:
        for number in range(200):
            with node.raw() as sock:
                if number >= 4:
                    assert read_all(sock) == b""
        assert friend.request("STATUS") == b"member"
        assert refused("rate") - before == 196
    node.join()
    assert not node.server._doorman._strangers
    assert len(os.listdir("/proc/self/fd")) <= handles


def test_a_bug_at_the_door_costs_one_connection_and_not_all_that_come_after(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(host: str) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(node.server._doorman, "_take_token", fail)
        with node.raw() as sock:
            assert read_all(sock) == b""
    assert "could not be taken in" in caplog.text
    ask(node, material(tmp_path / "friend")).close()


@pytest.mark.parametrize("option", [0, ssl.OP_IGNORE_UNEXPECTED_EOF])
def test_a_client_of_a_crowd_waits_for_its_turn(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: int
) -> None:
    """HANDSHAKES_PER_S is for all that are behind one address: a loop of commands there must not see errors.

    Early versions of Python 3.11 have the option by default, which changes what the end of a connection raises.
    """
    from_dir = tls.client_context_from_dir

    def with_option(folder: str) -> ssl.SSLContext:
        context = from_dir(folder)
        context.options |= option
        return context

    monkeypatch.setattr(tls, "client_context_from_dir", with_option)
    monkeypatch.setattr(doorman_module, "HANDSHAKES_AT_ONCE", 2)
    monkeypatch.setattr(doorman_module, "HANDSHAKES_PER_S", 2.0)  # slower than any machine
    before, client = refused("rate"), material(tmp_path / "client", role="read")
    folder = str(Path(client.key).parent)
    for _ in range(5):
        with contextlib.closing(Pool(node.address, folder)) as pool, pool.connection(Deadline(None)) as one:
            assert one.request("STATUS") == b"client"
    assert refused("rate") > before
    monkeypatch.setattr(doorman_module, "HANDSHAKES_AT_ONCE", 0)
    with contextlib.closing(Pool(node.address, folder)) as pool:
        with pytest.raises(errors.DeadlinePassed), pool.connection(Deadline(0.3)):
            pass
        monkeypatch.setattr(pool_module, "CONNECT_S", 0.3)
        with pytest.raises(errors.Unreachable, match="no node answers"), pool.connection(Deadline(None)):
            pass


def test_one_member_has_so_many_connections_and_another_gets_in(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doorman_module, "CONNECTIONS_PER_MEMBER", 4)
    greedy, friend = material(tmp_path / "greedy"), material(tmp_path / "friend")
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(contextlib.closing(ask(node, greedy))) for _ in range(4)]
        with pytest.raises(errors.Busy, match=f"member {greedy.id} has 4 connections"):
            ask(node, greedy)
        stack.enter_context(contextlib.closing(ask(node, friend)))
        assert all(connection.request("STATUS") == b"member" for connection in kept)
    node.join()
    ask(node, greedy).close()


def test_one_address_has_a_half_at_most(node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node.server._doorman._max_seats = 6
    with contextlib.ExitStack() as stack:
        for number in range(3):
            stack.enter_context(contextlib.closing(ask(node, material(tmp_path / f"m{number}"))))
        with pytest.raises(errors.Busy, match=r"127\.0\.0\.1 has 3 connections"):
            ask(node, material(tmp_path / "one-more"))
        with contextlib.closing(node.local()) as operator:
            assert operator.request("STATUS") == b"local"


def test_a_flood_makes_a_line_of_the_log_now_and_then(
    node: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorman_module, "HANDSHAKES_AT_ONCE", 0)
    for _ in range(50):
        with node.raw() as sock:
            assert read_all(sock) == b""
    assert len([record for record in caplog.records if "connections a second" in record.message]) == 1


def test_messages_of_one_member_wait_and_those_of_others_do_not(
    node: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(server_module.time, "sleep", pauses.append)
    monkeypatch.setattr(doorman_module, "MESSAGES_AT_ONCE", 100_000)
    monkeypatch.setattr(node.server._doorman, "_clock", Clock())  # it stands still: room comes back with time

    def answer(session: Session, line: Line) -> None:
        session.body()
        session.reply(bytes(40_000))

    node.server.handlers.update(PIN=answer, PUTS=answer, PING=answer)
    greedy, friend = material(tmp_path / "greedy"), material(tmp_path / "friend")
    with contextlib.closing(ask(node, greedy)) as one, contextlib.closing(ask(node, friend)) as other:
        for _ in range(5):
            one.request("PUTS", body=bytes(100_000))
        assert not pauses, "blocks are no messages"
        one.request("PIN", body=bytes(60_000))
        one.request("PIN", body=b"")
        expected = (2 * 60_000 + 40_000 / 4 + doorman_module.REQUEST_BYTES - 100_000) / doorman_module.MESSAGES_PER_S
        assert pauses == [pytest.approx(expected, rel=0.1)]
        with contextlib.closing(ask(node, greedy)) as another:
            another.request("PIN", body=b"")
        assert len(pauses) == 2, "on whatever connection"
        other.request("PIN", body=b"")
        one.request("PING", body=b"")
        assert len(pauses) == 2, "nor do others, or its own probes, wait"


def test_a_crowd_at_the_control_socket_is_served_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_module, "CONTROL_SLOTS", 2)
    with running(tmp_path, {"STATUS": status}) as node, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(contextlib.closing(node.local())) for _ in range(6)]
        for connection in crowd[:2]:
            assert connection.request("STATUS") == b"local"
        late = Task(crowd[2].request, "STATUS")
        assert len(node.server._sessions) == 2
        for connection in crowd[:2]:
            connection.close()
        assert late.result() == b"local"


# --- the doorman by itself ---------------------------------------------------------------------------

class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def test_who_waits_may_begin_again(sock: socket.socket) -> None:
    clock = Clock()
    doorman = Doorman(100, clock)
    admitted = [doorman.admit(sock, "10.0.0.1") for _ in range(doorman_module.HANDSHAKES_AT_ONCE + 10)]
    assert admitted.count(None) == 10
    assert doorman.admit(sock, "10.0.0.2") is not None
    clock.now += 1.0
    admitted = [doorman.admit(sock, "10.0.0.1") for _ in range(100)]
    assert 100 - admitted.count(None) == doorman_module.HANDSHAKES_PER_S


def test_strangers_from_everywhere_push_out_the_oldest(sock: socket.socket) -> None:
    doorman = Doorman(100, Clock())
    for number in range(doorman_module.STRANGERS + 50):
        assert doorman.admit(sock, f"10.0.{number // 250}.{number % 250}") is not None
    assert len(doorman._strangers) == doorman_module.STRANGERS
    assert next(iter(doorman._strangers)).host == "10.0.0.50"


def test_what_is_remembered_of_addresses_is_bounded(sock: socket.socket) -> None:
    doorman = Doorman(100, Clock())
    for number in range(3 * doorman_module.HOSTS):
        stranger = doorman.admit(sock, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        assert stranger is not None
        doorman.forget(stranger)
    assert len(doorman._hosts) == doorman_module.HOSTS
    assert not doorman._strangers


def test_seats_are_given_back(sock: socket.socket) -> None:
    doorman = Doorman(2, Clock())
    party = Party(MEMBER, "member", "10.0.0.1:5", rights.OF_MEMBER)
    with doorman.seat(party), pytest.raises(errors.Busy, match=r"10\.0\.0\.1 has 1 "), doorman.seat(party):
        pass
    with pytest.raises(ZeroDivisionError), doorman.seat(party):
        raise ZeroDivisionError
    assert not doorman._seats


def test_a_client_with_a_network_of_its_own_has_no_more_seats_than_one_with_an_address() -> None:
    doorman = Doorman(512, Clock())
    parties = [Party(MEMBER, "client", f"[2001:db8::{number:x}]:5", rights.OF_GUEST) for number in range(40)]
    most = doorman_module.CONNECTIONS_PER_MEMBER
    with contextlib.ExitStack() as stack:
        for party in parties[:most]:
            stack.enter_context(doorman.seat(party))
        with pytest.raises(errors.Busy, match=r"in 2001:db8::/64 has 32 connections"), doorman.seat(parties[most]):
            pass
        for other in (parties[most]._replace(id="b" * 32), parties[0]._replace(address="[2001:db8:0:1::1]:5")):
            stack.enter_context(doorman.seat(other))
    assert not doorman._seats
    assert len({doorman_module.who(party) for party in parties}) == 1, "and no more of the buffers"


@pytest.mark.parametrize(("one", "other", "same"), [
    ("10.0.0.1", "10.0.0.2", False), ("10.0.0.1", "::ffff:10.0.0.1", True),
    ("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ("fe80::1%eth0", "fe80::2%eth0", True), ("strange", "strange", True),
])
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (host_of(one) == host_of(other)) == same
