"""TLS contexts and handshakes: version 1.3, both sides authenticated, nothing else.

Certificates and keys come as files, which is what `ssl` reads: `ca.pem`, `cert.pem`, `key.pem` in one folder.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import NamedTuple

from p2pfs import errors


class Peer(NamedTuple):
    """Who is at the other end."""

    id: str | None
    """The node id of a member; None for a client or a local user."""
    kind: str
    """`member`, `client` or `local`."""
    address: str


def _context(protocol: int, ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a member is known by its key, not by where it is
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise errors.ConfigError(f"cannot use {ca}, {cert} and {key} for TLS: {error}") from None
    return context


def server_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """For listening: nobody gets a byte without a certificate that `ca` vouches for. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, ca, cert, key)
    context.num_tickets = 0  # connections are few and long
    return context


def client_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """For connecting. Raises ConfigError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, ca, cert, key)


def client_context_from_dir(folder: str) -> ssl.SSLContext:
    """For a client with a folder of its own (`--tls-dir`). Raises ConfigError."""
    folder = os.path.expanduser(folder)
    return client_context(*(os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem")))


def connect(plain: socket.socket, context: ssl.SSLContext, address: str, deadline_s: float) -> ssl.SSLSocket:
    """The client's handshake over a connected socket. Raises Unreachable, DeadlinePassed."""
    try:
        plain.settimeout(deadline_s)
        secure = context.wrap_socket(plain)
    except TimeoutError:
        plain.close()
        raise errors.DeadlinePassed(f"{address} accepts connections but does not speak TLS; is it p2pfs?") from None
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise errors.Unreachable(
            f"{address} has a certificate that is not our cluster's ({error.verify_message}): another cluster's secret?"
        ) from None
    except OSError as error:
        plain.close()
        raise errors.Unreachable(
            f"no TLS 1.3 with {address}: {error.strerror or error}; is it p2pfs, with the same cluster secret?"
        ) from None
    return secure


def peer_of(secure: ssl.SSLSocket) -> Peer:
    """Whom the verified certificate at the other end belongs to."""
    from p2pfs.net import certificates  # here: a client with a certificate does without `cryptography`

    der = secure.getpeercert(binary_form=True)
    if der is None:
        raise errors.IdentityRefused("no certificate at the other end")
    bearer = certificates.read(der)
    host, port, *_ = secure.getpeername()
    address = f"{host}:{port}"
    if bearer.common_name == certificates.CLIENT:
        return Peer(None, "client", address)
    return Peer(bearer.id, "member", address)
