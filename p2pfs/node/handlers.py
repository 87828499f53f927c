"""One handler a verb. What rights a verb needs is in its row of `core.wire.VERBS`; the server checks them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node import granting, joining_verbs, member_verbs, storing, upkeep_verbs, user_verbs
from p2pfs.node.services import Services

Handler = Callable[[Services, Session, Line], None]

HANDLERS: dict[str, Handler] = {
    "HELLO": member_verbs.hello,
    "PING": member_verbs.ping,
    "PINGREQ": member_verbs.pingreq,
    "MEMBERS": member_verbs.members,
    "HAVE": member_verbs.have,
    "PUT": member_verbs.put,
    "GET": member_verbs.get,
    "PUTS": member_verbs.puts,
    "GETS": member_verbs.gets,
    "DISCARD": member_verbs.discard,
    "PIN": member_verbs.pin,
    "DIGESTS": member_verbs.digests,
    "BUCKET": member_verbs.bucket,
    "HEALTH": upkeep_verbs.health,
    "STORE": storing.store,
    "READ": user_verbs.read,
    "READS": user_verbs.reads,
    "FETCH": user_verbs.fetch,
    "LIST": user_verbs.list_entries,
    "PINS": user_verbs.pins,
    "STAT": user_verbs.stat,
    "EXPLAIN": user_verbs.explain,
    "UNPIN": user_verbs.unpin,
    "RESTORE": user_verbs.restore,
    "IMPORT": storing.import_car,
    "EXPORT": user_verbs.export,
    "SCRUB": upkeep_verbs.scrub,
    "PEERS": user_verbs.peers,
    "STATUS": user_verbs.status,
    "METRICS": user_verbs.metrics_text,
    "AUDIT": upkeep_verbs.audit,
    "GC": upkeep_verbs.gc,
    "DRAIN": upkeep_verbs.drain,
    "FORGET": upkeep_verbs.forget,
    "REVOKE": upkeep_verbs.revoke,
    "GRANT": granting.grant,
    "INVITE": joining_verbs.invite,
    "JOIN": joining_verbs.join,
}


def bind(services: Services) -> dict[str, Callable[[Session, Line], None]]:
    """The handlers for a server, with a node's parts filled in."""
    return {name: functools.partial(handler, services) for name, handler in HANDLERS.items()}
