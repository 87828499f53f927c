"""TLS contexts and handshakes: version 1.3, both sides authenticated, nothing else.

Certificates and keys come as files, which is what `ssl` reads: `ca.pem`, `cert.pem`, `key.pem` in one folder. The
authority's file may hold several certificates: during a rotation of the secret both are accepted.

Cipher, socket buffers and the size of a send are left at their defaults. Blocks of 1 MiB between two gevent processes
over loopback ran at 1.25 to 1.5 GiB/s (6 GiB/s without TLS); 256 KiB to 4 MiB of socket buffer, sends of 16 KiB,
256 KiB or 1 MiB, and reading past ssl's Python layer stayed within that spread. AES-128 gave a tenth more.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from p2pfs import errors
from p2pfs.core import invitation, rights
from p2pfs.core.rights import Right
from p2pfs.private import require_private

PEM = "-----BEGIN "
"""What a certificate as text begins with, and no path does."""

ALERT_S = 1.0
"""How long a failed handshake is held for the other end to read why."""


class Party(NamedTuple):
    """Who is at the other end."""

    id: str | None
    """The hash of the key in its certificate; of a guest, its invitation; None for a local user."""
    kind: str
    """`member`, `client`, `guest` or `local`."""
    address: str
    rights: Right
    """What it may ask for."""
    issuer: str = ""
    """The name of the authority that vouches for it; of a local user the role that was given him."""
    ends: float = math.inf
    """Until when its certificate is valid: Unix time."""


Refusal = Callable[[Party], "str | None"]
"""Why somebody whose certificate is good is refused all the same; None: it is not."""
ByInvitation = Callable[[str], "GuestContext | None"]
"""The context of the open invitation with that id."""


class GuestContext(ssl.SSLContext):
    """Of an invitation: whom it lets in is a guest, whatever name the certificate gives its issuer.

    OpenSSL takes a name in other letters, or with more spaces, for the same one.
    """

    invitation = ""
    """The id of the invitation."""


C = TypeVar("C", bound=ssl.SSLContext)


def _context(kind: type[C], protocol: int, ca: str, cert: str, key: str) -> C:
    context = kind(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a member is known by its key, not by where it is
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(**({"cadata": ca} if ca.startswith(PEM) else {"cafile": ca}))
        # An empty passphrase: an encrypted key is an error, not a question on the daemon's terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise errors.ConfigError(f"cannot use {ca}, {cert} and {key} for TLS: {error}") from None
    return context


def server_context(ca: str, cert: str, key: str, invited: ByInvitation | None = None) -> ssl.SSLContext:
    """For listening: nobody gets a byte without a certificate that `ca` (a file, or PEM text) vouches for.

    Raises ConfigError. Who names an invitation in its first words (SNI) gets the context of that one instead, which
    trusts its guests and nobody else.
    """
    context = _server_context(ssl.SSLContext, ca, cert, key)
    if invited is not None:
        context.sni_callback = functools.partial(_choose, invited)
    return context


def guest_context(invitation: str, ca: str, cert: str, key: str) -> GuestContext:
    """For the guests of the invitation with that id, whose authority is `ca`. Raises ConfigError."""
    context = _server_context(GuestContext, ca, cert, key)
    context.invitation = invitation
    return context


def _server_context(kind: type[C], ca: str, cert: str, key: str) -> C:
    context = _context(kind, ssl.PROTOCOL_TLS_SERVER, ca, cert, key)
    # Connections are few and long, and a resumed one would not look at the certificate's dates again.
    context.num_tickets = 0
    return context


def _choose(invited: ByInvitation, sock: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
    id = invitation.id_of_server_name(name or "")
    if id is None:
        return None  # members and clients name nobody
    chosen = invited(id)
    if chosen is None:
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    sock.context = chosen
    return None


def client_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """For connecting. Raises ConfigError."""
    return _context(ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT, ca, cert, key)


def client_context_from_dir(folder: str) -> ssl.SSLContext:
    """For a client with a folder of its own (`--tls-dir`). Raises ConfigError, for a key that others can read too."""
    folder = os.path.expanduser(folder)
    require_private(os.path.join(folder, "key.pem"), "a private key")
    return client_context(*(os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem")))


def connect(
    plain: socket.socket, context: ssl.SSLContext, address: str, deadline_s: float, name: str | None = None
) -> ssl.SSLSocket:
    """The client's handshake over a connected socket, which is closed on failure. `name` is what it calls the node.

    Raises IdentityRefused (the other end has no certificate that we accept), NotFound (nor does it know that name),
    TurnedAway, Unreachable, DeadlinePassed. That it does not accept ours shows only when something is read: TLS 1.3
    has no answer to the last message.
    """
    try:
        secure = _wrap(plain, context, server_side=False, name=name)
        _handshake(secure, deadline_s)
        return secure
    except TimeoutError:
        raise errors.DeadlinePassed(
            f"{address} takes connections but did not finish a TLS handshake: overloaded, stopped, or not p2pfs"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise errors.IdentityRefused(
            f"{address} has a certificate that we do not accept ({error.verify_message}); "
            "is it another cluster's secret, or a wrong clock?"
        ) from None
    except OSError as error:
        if getattr(error, "reason", None) == "TLSV1_UNRECOGNIZED_NAME":
            raise errors.NotFound(f"{address} is not known as {name}") from None
        # An end without a word is the one or the other of these, as the version of Python has it.
        is_end = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError)
        kind = errors.TurnedAway if is_end else errors.Unreachable
        raise kind(
            f"no TLS 1.3 with {address}: {_reason(error)}; is it p2pfs, with the same cluster secret?"
        ) from None


def prepare(plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """An accepted socket before its handshake, in the place of the plain one. Waits for nothing.

    Raises OSError, and has closed the socket then.
    """
    return _wrap(plain, context, server_side=True)


def accept(secure: ssl.SSLSocket, address: str, deadline_s: float) -> None:
    """The server's handshake over a prepared socket, which is closed on failure. Raises IdentityRefused."""
    try:
        _handshake(secure, deadline_s)
    except TimeoutError:
        raise errors.IdentityRefused(f"{address} did not finish its TLS handshake in {deadline_s:g} s") from None
    except OSError as error:
        if getattr(error, "reason", None) == "CALLBACK_FAILED":
            raise errors.IdentityRefused(f"{address} named an invitation that is not open here") from None
        raise errors.IdentityRefused(
            f"no TLS handshake with {address}: {_reason(error)}; a stranger, or a node with another cluster secret?"
        ) from None


def _wrap(plain: socket.socket, context: ssl.SSLContext, server_side: bool, name: str | None = None) -> ssl.SSLSocket:
    try:
        plain.setblocking(False)
        return context.wrap_socket(
            plain, server_side=server_side, do_handshake_on_connect=False, server_hostname=name
        )
    except BaseException:
        plain.close()
        raise


def _handshake(secure: ssl.SSLSocket, deadline_s: float) -> None:
    # By hand, because a socket's timeout is one for each wait: a stranger who sends a byte now and then would hold
    # the handshake for as long as it likes.
    end = time.monotonic() + deadline_s
    try:
        while True:
            try:
                return secure.do_handshake()
            except ssl.SSLWantReadError:
                _wait(secure, select.POLLIN, end)
            except ssl.SSLWantWriteError:
                _wait(secure, select.POLLOUT, end)
    except BaseException as error:
        if isinstance(error, ssl.SSLError):
            _let_read(secure)
        secure.close()
        raise


def _let_read(secure: ssl.SSLSocket) -> None:
    """Let the other end read the alert that says why: closing with bytes unread would make the kernel reset at once."""
    end = time.monotonic() + ALERT_S
    with contextlib.suppress(OSError):
        socket.socket.shutdown(secure, socket.SHUT_WR)
        while True:
            _wait(secure, select.POLLIN, end)
            if not socket.socket.recv(secure, 4096):
                return


def _wait(sock: socket.socket, events: int, end: float) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), events)
    left_s = end - time.monotonic()
    if left_s <= 0 or not poll.poll(1000 * left_s):
        raise TimeoutError


def _reason(error: OSError) -> str:
    return (getattr(error, "reason", None) or error.strerror or str(error)).replace("_", " ").lower()


def party_of(secure: ssl.SSLSocket) -> Party:
    """Whom the verified certificate at the other end belongs to. Raises IdentityRefused.

    Its id comes from the key that TLS proved, never from a name; names only take rights away.
    """
    from p2pfs.net import certificates  # here: a client with a certificate does without `cryptography`

    try:
        der = secure.getpeercert(binary_form=True)
        host, port = secure.getpeername()[:2]
        if der is None:
            raise ValueError("none")
        bearer = certificates.read(der)
    except (OSError, ValueError) as error:
        raise errors.IdentityRefused(f"no certificate at the other end that can be read: {error}") from None
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(secure.context, GuestContext):
        return Party(secure.context.invitation, "guest", address, rights.OF_GUEST, bearer.issuer, bearer.ends)
    if bearer.rights is None:
        return Party(bearer.id, "member", address, rights.OF_MEMBER, bearer.issuer, bearer.ends)
    return Party(bearer.id, "client", address, bearer.rights, bearer.issuer, bearer.ends)
