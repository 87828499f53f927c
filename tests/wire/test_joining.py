"""Guests over real sockets and TLS: what an invitation opens, and what it does not."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from p2pfs import config, errors
from p2pfs.core import wire
from p2pfs.core.invitation import Token, format_token, parse_token, server_name
from p2pfs.core.rights import Right
from p2pfs.core.wire import Line
from p2pfs.net import certificates, tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Session
from p2pfs.node import joining_verbs
from p2pfs.node.invitations import Invitations
from p2pfs.setup import guest
from p2pfs.setup.guest import ask
from tests.sockets import Material, Running, material, running

SECRET = "a" * 64
CLUSTER = certificates.derive_authority(SECRET).fingerprint


class Clock:
    """The wall clock of a node."""

    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self) -> float:
        return self.time


class Host(NamedTuple):
    """A node that serves the verbs of joining, and nothing else that matters here."""

    running: Running
    invitations: Invitations
    clock: Clock
    services: Any

    def invite(self, *, is_once: bool = False, cluster: str = CLUSTER) -> str:
        return self.invitations.invite(self.running.address, cluster, 3600.0, is_once)[0]


def services_of(invitations: Invitations, name: str, secret: str = SECRET) -> Any:
    """As much of a node as JOIN asks for."""
    me = types.SimpleNamespace(id=name, addresses=("10.0.0.1:4801",))
    cluster = types.SimpleNamespace(membership=types.SimpleNamespace(me=me), members=list)
    return types.SimpleNamespace(
        invitations=invitations, cluster=cluster, config=config.load(None, [f"cluster.secret={secret}"], {}),
        local=types.SimpleNamespace(run=lambda job, *args: job(*args)),
    )


@contextlib.contextmanager
def hosting(folder: Path, secret: str = SECRET) -> Iterator[Host]:
    node = material(folder / "node", secret)
    (folder / "identity.pem").write_bytes(Path(node.key).read_bytes())
    clock = Clock()
    invitations = Invitations(folder, clock)
    services = services_of(invitations, node.id, secret)
    handlers: dict[str, Callable[[Session, Line], None]] = {
        **dict.fromkeys(wire.VERBS, reached), "JOIN": partial(joining_verbs.join, services),
    }
    with running(folder, handlers, node=node, invited=invitations.context) as started:
        yield Host(started, invitations, clock, services)


def reached(session: Session, line: Line) -> None:
    session.reply(b"reached")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosting(tmp_path) as found:
        yield found


def guest_of(text: str, *, name: str | None = None, files: Material | None = None) -> Connection:
    """The connection of somebody who has a token, or claims to."""
    authority = certificates.derive_authority(text, certificates.INVITATION)
    context = guest._context(authority) if files is None else tls.client_context(*files.files)
    return connect(parse_token(text).address, context, 10.0, None, name=name or server_name(authority.id))


def altered(text: str, **fields: Any) -> str:
    """Another token, with a right checksum."""
    return format_token(parse_token(text)._replace(**fields))


# --- what a guest gets -----------------------------------------------------------------------------------

def test_a_guest_gets_what_makes_a_member(host: Host) -> None:
    welcome = ask(parse_token(host.invite()), "b")
    assert welcome.secrets == [SECRET]
    assert welcome.seeds == ["10.0.0.1:4801"]
    assert welcome.options["cluster.replicas"] == 3
    assert set(welcome.options) == set(config.SHARED)


def test_what_the_guest_gets_is_neither_shown_nor_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    text = host.invite()
    assert SECRET not in repr(ask(parse_token(text), "b"))
    assert SECRET not in caplog.text
    assert text not in caplog.text


@pytest.mark.parametrize("name", sorted(set(wire.VERBS) - {"JOIN"}))
def test_a_guest_may_join_and_nothing_else(host: Host, name: str) -> None:
    verb = wire.VERBS[name]
    words = {"number": "0", "number or -": "-", "CID": "bafkreiepinbumzepnoln7co5vea4kf3lcctnqolb3u6bvsellgznymt2uq",
             "check|renew": "check"}
    length = [] if verb.max_body is None else ["0"]
    line = " ".join([name, *(words.get(kind.name, "x") for _, kind in verb.args), *length])
    with contextlib.closing(guest_of(host.invite())) as connection:
        connection._stream.send(line.encode() + b"\r\n")
        with pytest.raises(errors.Forbidden):
            wire.parse_reply(connection._stream.read_line(10.0))


def test_members_clients_and_local_users_have_no_use_for_join(host: Host, tmp_path: Path) -> None:
    with contextlib.closing(connect(
        host.running.address, tls.client_context(*material(tmp_path / "m", SECRET).files), 10.0, None
    )) as member, contextlib.closing(host.running.local()) as local:
        for connection in (member, local):
            with pytest.raises(errors.Forbidden, match="for machines that were invited"):
                connection.request("JOIN", wire.VERSION, "x")


def test_the_certificate_of_a_guest_gives_no_right_but_one_whatever_it_says(host: Host, tmp_path: Path) -> None:
    # Who has the token has the authority's key, and can write any name into a certificate.
    text = host.invite()
    for role in ("", "admin"):
        files = material(tmp_path / f"guest{role}", text, role=role, purpose=certificates.INVITATION)
        with contextlib.closing(guest_of(text, files=files)) as connection:
            with pytest.raises(errors.Forbidden):
                connection.request("PINS")
            assert b"secrets" in connection.request("JOIN", wire.VERSION, "x")


def test_nor_does_one_that_names_its_issuer_in_other_letters(host: Host, tmp_path: Path) -> None:
    # OpenSSL takes both names for the same one.
    text = host.invite()
    authority = certificates.derive_authority(text, certificates.INVITATION)
    files = material(tmp_path / "guest", text, purpose=certificates.INVITATION)
    key = certificates.load_key(Path(files.key).read_bytes())
    issuer = x509.Name([
        x509.NameAttribute(name.oid, str(name.value).upper()) for name in authority.certificate.subject
    ])
    now = datetime.datetime.now(datetime.UTC)
    Path(files.cert).write_bytes((
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(authority.key, None)
    ).public_bytes(Encoding.PEM))
    with contextlib.closing(guest_of(text, files=files)) as connection:
        for name in ("PINS", "DIGESTS", "STATUS"):
            with pytest.raises(errors.Forbidden):
                connection.request(name)
        assert b"secrets" in connection.request("JOIN", wire.VERSION, "x")


# --- what is refused -------------------------------------------------------------------------------------

def test_a_token_for_one_use_is_refused_the_second_time(host: Host) -> None:
    token = parse_token(host.invite(is_once=True))
    ask(token, "b")
    with pytest.raises(errors.Refused, match="was for one use, and was used: by b at 127"):
        ask(token, "c")


def test_it_is_used_up_before_the_secret_is_sent(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    text = host.invite(is_once=True)
    kept: list[bool] = []

    def look(services: Any) -> dict[str, object]:
        fresh = Invitations(host.invitations._folder.parent, host.clock)
        fresh.load([CLUSTER])
        try:
            fresh.claim(certificates.derive_authority(text, certificates.INVITATION).id, "somebody after a crash")
        except errors.Refused:
            kept.append(True)
        raise errors.NoSpace("and here it dies")

    monkeypatch.setattr(joining_verbs, "welcome", look)
    with pytest.raises(errors.NoSpace):
        ask(parse_token(text), "b")
    assert kept == [True]


def test_a_token_for_any_number_is_taken_until_it_expires_by_the_nodes_clock(host: Host) -> None:
    token = parse_token(host.invite())
    ask(token, "b")
    ask(token, "c")
    host.clock.time += 3600
    with pytest.raises(errors.Refused, match="does not know this invitation: it has expired"):
        ask(token, "d")


def test_a_connection_that_was_open_before_gets_nothing_after_the_end(host: Host) -> None:
    with contextlib.closing(guest_of(host.invite())) as connection:
        host.clock.time += 3600
        with pytest.raises(errors.Refused, match="has expired"):
            connection.request("JOIN", wire.VERSION, "b")


def test_a_longer_time_in_the_token_does_not_make_it_last_longer(host: Host) -> None:
    text = host.invite()
    later = parse_token(text).expires + 1
    for changed in (altered(text, expires=later), altered(text, secret=bytes(16)), altered(text, cluster="0" * 32)):
        with pytest.raises(errors.Refused, match="does not know this invitation"):
            ask(parse_token(changed), "b")
    ask(parse_token(text), "b")


def test_who_knows_the_invitations_name_only_is_refused(host: Host) -> None:
    text = host.invite()
    id = certificates.derive_authority(text, certificates.INVITATION).id
    other = altered(text, secret=bytes(16))
    with pytest.raises(errors.IdentityRefused, match="certificate that we do not accept"):
        guest_of(other, name=server_name(id))


def test_and_so_is_one_who_does_not_look_at_the_nodes_certificate(host: Host, tmp_path: Path) -> None:
    text = host.invite()
    authority = certificates.derive_authority(text, certificates.INVITATION)
    strangers = [
        material(tmp_path / "member", SECRET),  # of this cluster even
        material(tmp_path / "client", SECRET, role="admin"),
        material(tmp_path / "other", altered(text, secret=bytes(16)), purpose=certificates.INVITATION),
        material(tmp_path / "cluster", text),  # the same text as another kind of secret
    ]
    for files in strangers:
        context = tls.client_context(*files.files)
        context.load_verify_locations(cadata=authority.pem.decode())
        with contextlib.closing(connect(
            host.running.address, context, 10.0, None, name=server_name(authority.id)
        )) as connection, pytest.raises((errors.IdentityRefused, errors.Unreachable)):
            connection.request("JOIN", wire.VERSION, "x")


def test_without_the_name_a_guests_certificate_is_a_strangers(host: Host) -> None:
    text = host.invite()
    authority = certificates.derive_authority(text, certificates.INVITATION)
    context = guest._context(authority)
    context.load_verify_locations(cadata=certificates.derive_authority(SECRET).pem.decode())
    for name in (None, "example.com", authority.id, server_name("a" * 31)):
        with contextlib.closing(connect(host.running.address, context, 10.0, None, name=name)) as connection, \
                pytest.raises((errors.IdentityRefused, errors.Unreachable)):
            connection.request("JOIN", wire.VERSION, "x")


def test_a_guest_of_one_invitation_is_none_of_another(host: Host, tmp_path: Path) -> None:
    one, other = host.invite(), host.invite()
    files = material(tmp_path / "guest", one, purpose=certificates.INVITATION)
    context = tls.client_context(*files.files)
    authority = certificates.derive_authority(other, certificates.INVITATION)
    context.load_verify_locations(cadata=authority.pem.decode())
    with contextlib.closing(connect(
        host.running.address, context, 10.0, None, name=server_name(authority.id)
    )) as connection, pytest.raises((errors.IdentityRefused, errors.Unreachable)):
        connection.request("JOIN", wire.VERSION, "x")


def test_members_come_in_as_ever(host: Host, tmp_path: Path) -> None:
    host.invite()
    context = tls.client_context(*material(tmp_path / "m", SECRET).files)
    with contextlib.closing(connect(host.running.address, context, 10.0, host.running.node.id)) as connection:
        assert connection.request("DIGESTS") == b"reached"


# --- who poses as the node -------------------------------------------------------------------------------

def test_another_node_at_that_address_is_not_told_anything(host: Host, tmp_path: Path) -> None:
    text = host.invite()
    with hosting(tmp_path / "impostor", "b" * 64) as impostor:
        with pytest.raises(errors.Refused, match="does not know this invitation"):
            ask(parse_token(text)._replace(address=impostor.running.address), "b")
        with running(tmp_path / "plain", {}) as plain, pytest.raises(errors.IdentityRefused):
            ask(parse_token(text)._replace(address=plain.address), "b")


def test_who_has_the_token_too_cannot_pass_another_cluster_off_as_this_one(tmp_path: Path) -> None:
    with hosting(tmp_path, "b" * 64) as impostor:
        text = impostor.invite(cluster=CLUSTER)
        with pytest.raises(errors.IdentityRefused, match="of another cluster than the invitation names"):
            ask(parse_token(text), "b")


def test_during_a_rotation_either_secret_is_the_clusters(host: Host) -> None:
    token = parse_token(host.invite())
    both = (config.Secret("c" * 64), config.Secret(SECRET))
    host.services.config = types.SimpleNamespace(
        secrets=both, value=config.load(None, [], {}).value,
    )
    assert ask(token, "b").secrets == ["c" * 64, SECRET]


# --- requests that make no sense -------------------------------------------------------------------------

@pytest.mark.parametrize(("words", "error"), [
    (("p2pfs/2", "b"), errors.ProtocolError), ((wire.VERSION, "b\nc"), errors.UsageError),
    ((wire.VERSION, "b" * 64), errors.UsageError), ((wire.VERSION, "\udcff"), errors.UsageError),
])
def test_what_makes_no_sense_uses_nothing_up(host: Host, words: tuple[str, str], error: type[Exception]) -> None:
    text = host.invite(is_once=True)
    with contextlib.closing(guest_of(text)) as connection, pytest.raises(error):
        connection.request("JOIN", *words)
    ask(parse_token(text), "b")


def test_the_right_to_join_is_for_guests_alone() -> None:
    assert [verb.name for verb in wire.VERBS.values() if Right.JOIN in verb.needs] == ["JOIN"]


def test_a_token_of_a_node_that_is_gone_is_unreachable() -> None:
    with pytest.raises(errors.Unreachable):
        ask(Token("127.0.0.1:1", "0" * 32, 2_000_000_000, bytes(16)), "b")


def test_the_answer_is_json_with_these_fields(host: Host) -> None:
    with contextlib.closing(guest_of(host.invite())) as connection:
        assert sorted(json.loads(connection.request("JOIN", wire.VERSION, "b"))) == ["options", "secrets", "seeds"]
