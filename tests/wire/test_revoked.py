"""Who is revoked gets nothing from a server, from that moment on, and reads why."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.core.member import Member
from p2pfs.core.wire import Line
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Session
from p2pfs.node.hello import Caller
from p2pfs.node.peers import Peers
from tests.sockets import Material, Running, Signal, Task, material, running


def status(session: Session, line: Line) -> None:
    session.reply(b"fine")


def revoking(revoked: set[str]) -> tls.Refusal:
    return lambda party: f"{party.id} was revoked in this cluster" if party.id in revoked else None


def opened(node: Running, who: Material) -> Connection:
    return connect(node.address, tls.client_context(*who.files), 10.0, node.node.id)


@pytest.mark.parametrize("role", ["", "admin"])
def test_a_new_connection_is_answered_with_why_and_closed(tmp_path: Path, role: str) -> None:
    bad, good = material(tmp_path / "bad", role=role), material(tmp_path / "good", role=role)
    with running(tmp_path, {"STATUS": status}, refusal=revoking({bad.id})) as node:
        with contextlib.closing(opened(node, bad)) as connection:
            with pytest.raises(errors.IdentityRefused, match=f"{bad.id} was revoked in this cluster"):
                connection.request("STATUS")
            with pytest.raises(errors.Unreachable):
                connection.request("STATUS")
        with contextlib.closing(opened(node, good)) as connection:
            assert connection.request("STATUS") == b"fine"


def test_open_connections_are_severed_idle_or_in_the_middle_and_no_others(tmp_path: Path) -> None:
    begun, go_on = Signal(), Signal()

    def slow(session: Session, line: Line) -> None:
        session.part(b"one")
        begun.set()
        go_on.wait()
        session.part(b"two")
        session.reply()

    revoked: set[str] = set()
    bad, good = material(tmp_path / "bad"), material(tmp_path / "good")
    verbs = {"STATUS": status, "PINS": slow}
    with running(tmp_path, verbs, refusal=revoking(revoked)) as node, contextlib.ExitStack() as stack:
        idle, busy, other = (
            stack.enter_context(contextlib.closing(opened(node, who))) for who in (bad, bad, good)
        )
        local = stack.enter_context(contextlib.closing(node.local()))
        for connection in (idle, other, local):
            assert connection.request("STATUS") == b"fine"
        reading = Task(list, busy.stream("PINS"))
        begun.wait()
        revoked.add(bad.id)
        node.server.retire(at_once=True)
        with pytest.raises(errors.Unreachable):
            reading.result()
        with pytest.raises(errors.Unreachable):
            idle.request("STATUS")
        go_on.set()
        for connection in (other, local):
            assert connection.request("STATUS") == b"fine"


def test_a_node_does_not_talk_to_whom_it_refuses(tmp_path: Path) -> None:
    def refusal(party: tls.Party) -> str | None:
        return f"not to the {party.kind} {party.id}"

    with running(tmp_path, {}) as node:
        context = tls.client_context(*material(tmp_path / "m").files)
        with pytest.raises(errors.IdentityRefused, match=f"not to the member {node.node.id}"):
            connect(node.address, context, 10.0, None, refusal=refusal)
        node.join()


def test_a_node_calls_nobody_who_is_revoked(tmp_path: Path) -> None:
    me = material(tmp_path / "me")
    with running(tmp_path, {"STATUS": status}) as node:
        peers = Peers(
            Caller(me.id, "me", "0" * 16), lambda: tls.client_context(*me.files), revoking({node.node.id})
        )
        member = Member(node.node.id, "them", (node.address,))
        with pytest.raises(errors.IdentityRefused, match=f"{member.id} was revoked"):
            peers.dial(node.address)
        with pytest.raises(errors.IdentityRefused, match=f"{member.id} was revoked"):
            peers.get(member).call("bulk", lambda connection: connection.request("STATUS"))
        peers.close()
        node.join()
