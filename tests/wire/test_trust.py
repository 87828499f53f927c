"""Who was let in once and is not trusted any more: what is being answered is answered, and that was the last."""

from __future__ import annotations

import contextlib
import time
import types
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.core.wire import Line
from p2pfs.net import certificates, tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Session
from tests.sockets import Signal, Task, material, running


def answer(session: Session, line: Line) -> None:
    session.reply(session.party.issuer.encode())


def test_the_issuer_of_a_certificate_is_known_and_its_connections_end_with_the_trust(tmp_path: Path) -> None:
    old, new = (certificates.derive_authority(secret).name for secret in ("old", "new"))
    trusted = {old, new}
    node = material(tmp_path / "node", "new", accepts=("old",))
    arrived, go_on = Signal(), Signal()

    def slow(session: Session, line: Line) -> None:
        arrived.set()
        go_on.wait()
        session.reply(b"to the end")

    def refusal(party: tls.Party) -> str | None:
        return None if party.kind == "local" or party.issuer in trusted else "not any more"

    with running(tmp_path, {"STATUS": answer, "PINS": answer, "STAT": slow}, node=node, refusal=refusal) as started, \
            contextlib.ExitStack() as stack:
        def knock(secret: str) -> Connection:
            files = material(tmp_path / secret, secret, accepts=("new",))
            return connect(started.address, tls.client_context(*files.files), 10.0, None)

        idle, busy, friend = (stack.enter_context(contextlib.closing(it)) for it in map(knock, ("old", "old", "new")))
        local = stack.enter_context(contextlib.closing(started.local()))
        assert idle.request("STATUS") == busy.request("STATUS") == old.encode()
        assert friend.request("STATUS") == new.encode()
        last = Task(busy.request, "STAT", "x")
        arrived.wait()
        trusted.remove(old)
        assert started.server.retire() == 2
        with pytest.raises(errors.Unreachable):
            idle.request("STATUS")
        go_on.set()
        assert last.result() == b"to the end"
        with pytest.raises(errors.Unreachable):
            busy.request("STATUS")
        assert friend.request("STATUS") == new.encode()
        local.request("STATUS")
        # And who was in the middle of his handshake meanwhile.
        late = stack.enter_context(contextlib.closing(knock("old")))
        with pytest.raises(errors.IdentityRefused, match="not any more"):
            late.request("STATUS")


@pytest.mark.parametrize("role", ["", "read"])
def test_a_connection_does_not_outlive_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    short = material(tmp_path / "short", role=role, days=1)
    with running(tmp_path, {"STATUS": answer}) as node, \
            contextlib.closing(connect(node.address, tls.client_context(*short.files), 10.0, None)) as connection:
        assert connection.request("STATUS")
        later = time.time() + 86400 + 1
        monkeypatch.setattr("p2pfs.net.dispatch.time", types.SimpleNamespace(time=lambda: later, sleep=time.sleep))
        with pytest.raises(errors.IdentityRefused, match="certificate has expired since the connection began"):
            connection.request("STATUS")
        with pytest.raises(errors.Unreachable):
            connection.request("STATUS")
