"""REVOKE: a member or a client gets nothing any more, from any node that knows of it."""

from __future__ import annotations

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.revocation import ID, MAX_IDS
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.services import Services


def revoke(services: Services, session: Session, line: Line) -> None:
    """REVOKE: in force here before the answer, and on each member that is not named in it."""
    cluster = services.cluster
    id, name = _who(services, line.args[0])
    if id == cluster.id:
        raise errors.Refused(f"{name} is this node itself; ask another node of the cluster to revoke it")
    revoked = cluster.membership.revoked
    if id not in revoked and len(revoked) >= MAX_IDS:
        raise errors.Refused(f"{MAX_IDS} ids are revoked already; replace the cluster's secret (docs/OPERATIONS.md)")
    untold = services.gossip.revoke(id)
    session.reply(wire.dump_json({"id": id, "name": name, "untold": sorted(member.name for member in untold)}))


def _who(services: Services, text: str) -> tuple[str, str]:
    """Id and name of a member, or the id of anybody. Raises NotFound, UsageError when several have the name."""
    members = services.cluster.members()
    found = [it for it in members if it.id == text] or [it for it in members if it.name == text]
    if len(found) > 1:
        ids = ", ".join(f"{member.id} ({member.state})" for member in found)
        raise errors.UsageError(f"several members are called {text[:80]!r}; name one by its id: {ids}")
    if found:
        return found[0].id, found[0].name
    if ID.fullmatch(text):
        return text, ""
    raise errors.NotFound(
        f"no member is called {text[:80]!r}, and it is no id; members: {', '.join(member.name for member in members)}"
    )
