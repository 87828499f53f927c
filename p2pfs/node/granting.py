"""GRANT: a certificate for a client, signed with the cluster's authority. The client's key never comes here."""

from __future__ import annotations

import datetime
import logging
import re

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.rights import ROLES
from p2pfs.core.wire import Line
from p2pfs.net import certificates
from p2pfs.net.server import Session
from p2pfs.node.services import Services

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
MOST_S = certificates.DAYS * 24 * 3600


def grant(services: Services, session: Session, line: Line) -> None:
    """GRANT: sign a client's request; the answer is what it needs beside its key."""
    name, role, seconds, request = _wishes(session.body())
    try:
        key = certificates.requested_key(request)
    except ValueError as error:
        raise errors.UsageError(f"that is no request for a certificate: {error}") from None
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(seconds=seconds)
    certificate, ca = services.identity.issue_client(key, name, role, now, end)
    id = certificates.read_pem(certificate).id
    until = end.isoformat("T", "seconds")
    log.info("granted a certificate", extra={"client": name, "role": role, "id": id, "until": until})
    session.reply(wire.dump_json({
        "id": id, "name": name, "role": role, "expires": int(end.timestamp()),
        "certificate": certificate.decode("ascii"), "ca": ca.decode("ascii"),
    }))


def _wishes(body: bytes) -> tuple[str, str, int, bytes]:
    """Name, role, seconds and request of a body. Raises ProtocolError, UsageError."""
    wishes = wire.parse_json(body, dict)
    name, role, seconds, request = (wishes.get(field) for field in ("name", "role", "seconds", "request"))
    if not (isinstance(name, str) and isinstance(role, str) and isinstance(request, str) and type(seconds) is int):
        raise errors.ProtocolError("GRANT takes the texts name, role and request, and seconds, a whole number")
    if not NAME.fullmatch(name):
        raise errors.UsageError(f"{name[:80]!r} cannot be a client's name: up to 63 letters, digits and . _ @ -")
    if role not in ROLES:
        raise errors.UsageError(f"{role[:40]!r} is no role; there are: {', '.join(ROLES)}")
    if not 60 <= seconds <= MOST_S:
        raise errors.UsageError(f"a certificate is valid for a minute to {certificates.DAYS} days")
    return name, role, seconds, request.encode("ascii", "replace")
