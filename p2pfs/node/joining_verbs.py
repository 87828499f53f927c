"""Handlers of the verbs by which a machine becomes a member: INVITE and JOIN (docs/PROTOCOL.md)."""

from __future__ import annotations

import logging

from p2pfs import errors
from p2pfs.config import ROWS, SHARED, Config
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.invitations import LASTS_S
from p2pfs.node.services import Services

log = logging.getLogger(__name__)

SEEDS = 3
"""Members that a new node is told of, to begin with."""
MAX_NAME = 63


def invite(services: Services, session: Session, line: Line) -> None:
    """INVITE: open an invitation to this node."""
    lasts_s, is_once = _read_options(session.body())
    require_secret(services.config)
    token, kept = services.local.run(
        services.invitations.invite, services.cluster.membership.me.addresses[0], services.identity.clusters[0],
        lasts_s, is_once,
    )
    log.info("invitation %s is open", kept.id, extra={"once": is_once, "lasts_s": lasts_s})
    session.reply(wire.dump_json({
        "token": token, "id": kept.id, "expires": kept.expires, "once": is_once, "cluster": kept.cluster,
        "address": services.cluster.membership.me.addresses[0],
    }))


def _read_options(body: bytes) -> tuple[float, bool]:
    given = wire.parse_json(body, dict)
    if unknown := sorted(set(given) - {"lasts_s", "once"}):
        raise errors.UsageError(f"option {unknown[0][:40]!r}: known are lasts_s and once")
    lasts_s, is_once = given.get("lasts_s", LASTS_S), given.get("once", False)
    if type(lasts_s) not in (int, float) or not isinstance(is_once, bool):
        raise errors.UsageError("lasts_s is a number of seconds, once is true or false")
    return float(lasts_s), is_once


def require_secret(config: Config) -> None:
    """Raise Refused for a node that has no cluster secret to hand out."""
    if config.cluster.tls_ca is not None:
        raise errors.Refused(
            "this cluster has an authority of your own ([cluster] tls_ca), and no secret that could be handed out: "
            "issue a certificate for the new node, and set tls_cert, tls_key, tls_ca and seeds there"
        )
    if not config.secrets:
        raise errors.Refused(
            "this node was started without a secret and is a cluster of one: set [cluster] secret_file and "
            "[node] listen (`p2pfs-node init` does both for a new node), restart it, and invite then"
        )


def join(services: Services, session: Session, line: Line) -> None:
    """JOIN: a guest gets what a new node needs. An invitation for one use is used up, durably, before that."""
    version, name = line.args
    if version != wire.VERSION:
        raise errors.ProtocolError(f"this node speaks {wire.VERSION}, not {version[:40]}")
    if not name.isprintable() or len(name) > MAX_NAME:
        raise errors.UsageError(f"a node's name has at most {MAX_NAME} characters that can be printed")
    id = str(session.party.id)
    who = f"{name} at {session.party.address}"
    services.local.run(services.invitations.claim, id, who)
    log.info("%s joins by the invitation %s", who, id)
    session.reply(wire.dump_json(welcome(services)))


def welcome(services: Services) -> dict[str, object]:
    """What a new node needs: the secret, whom to ask for the others, and what all nodes have alike."""
    config, membership = services.config, services.cluster.membership
    others = [row.addresses[0] for row in services.cluster.members()
              if row.state == "alive" and row.id != membership.me.id and row.addresses]
    return {
        "secrets": [secret.reveal() for secret in config.secrets],
        "seeds": [membership.me.addresses[0], *others][:SEEDS],
        "options": {name: ROWS[name].kind.show(config.value(ROWS[name])) for name in SHARED},
    }
