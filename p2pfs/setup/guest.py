"""The connection of a guest: a machine that was invited asks, once, for what makes it a member."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from p2pfs import errors
from p2pfs.config import ROWS, SHARED, kinds
from p2pfs.core import wire
from p2pfs.core.invitation import CLUSTER_DIGITS, Token, format_token, server_name
from p2pfs.net import certificates, tls
from p2pfs.net.certificates import Authority
from p2pfs.net.connection import connect

CONNECT_S = 10.0
GUEST = "guest"
"""Common name of a guest's certificate."""


class Welcome(NamedTuple):
    """What a new node gets."""

    secrets: list[str]
    """The cluster's; the first is the one to use, others are accepted too."""
    seeds: list[str]
    options: dict[str, Any]
    """Those that all nodes of the cluster have alike, by `section.key`, as parsed."""

    def __repr__(self) -> str:
        return f"Welcome(from {self.seeds})"


def ask(token: Token, name: str) -> Welcome:
    """Take the invitation up, as a machine of that name.

    Both ends prove by TLS that they know the token, and what comes is compared with it: another machine that has the
    same token cannot pass its own cluster off as this one. Raises Refused when it is used up, expired or not the
    node's, IdentityRefused, Unreachable, DeadlinePassed.
    """
    authority = certificates.derive_authority(format_token(token), certificates.INVITATION)
    try:
        connection = connect(
            token.address, _context(authority), CONNECT_S, None, name=server_name(authority.id)
        )
    except errors.NotFound:
        raise errors.Refused(
            f"{token.address} does not know this invitation: it has expired by that node's clock, was withdrawn, is "
            "of a secret that was replaced since, or another node made it; p2pfs-cli invite prints another one"
        ) from None
    with contextlib.closing(connection):
        welcome = parse_welcome(connection.request("JOIN", wire.VERSION, name))
    found = [certificates.derive_authority(secret).fingerprint[:CLUSTER_DIGITS] for secret in welcome.secrets]
    if token.cluster not in found:
        raise errors.IdentityRefused(f"{token.address} is of another cluster than the invitation names")
    return welcome


def _context(authority: Authority) -> ssl.SSLContext:
    key = certificates.new_key()
    now = datetime.datetime.now(datetime.UTC)
    certificate = certificates.issue(authority, certificates.load_key(key), GUEST, now)
    with tempfile.TemporaryDirectory(prefix="p2pfs-join-") as folder:  # `ssl` reads files only
        cert_file, key_file = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        cert_file.write_bytes(certificate)
        key_file.write_bytes(key)
        return tls.client_context(authority.pem.decode("ascii"), str(cert_file), str(key_file))


def parse_welcome(body: bytes) -> Welcome:
    """Check the JSON of a JOIN answer. What it calls options that this version does not know is left out.

    Raises ProtocolError.
    """
    answer = wire.parse_json(body, dict)
    secrets, seeds = _texts(answer, "secrets", 8), _texts(answer, "seeds", 16)
    given = answer.get("options")
    if not isinstance(given, dict):
        raise errors.ProtocolError("its answer to JOIN has no options")
    try:
        return Welcome(
            [kinds.SECRET.parse(secret).reveal() for secret in secrets], [kinds.ADDRESS.parse(seed) for seed in seeds],
            {name: ROWS[name].kind.parse(str(given[name])) for name in SHARED if name in given},
        )
    except errors.UsageError as error:
        raise errors.ProtocolError(f"its answer to JOIN cannot be used: {error}") from None


def _texts(answer: dict[str, Any], field: str, most: int) -> list[str]:
    value = answer.get(field)
    if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(one, str) for one in value):
        raise errors.ProtocolError(f"its answer to JOIN has no {field}")
    return value
