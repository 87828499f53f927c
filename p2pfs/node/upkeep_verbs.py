"""Handlers of the verbs for upkeep: HEALTH, AUDIT, SCRUB, GC, DRAIN, FORGET, REVOKE (docs/PROTOCOL.md)."""

from __future__ import annotations

from typing import Any

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.core.member import Member
from p2pfs.core.revocation import ID, MAX_IDS
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.backlog import NOTHING, Amount
from p2pfs.node.health import checkup
from p2pfs.node.pass_report import Request
from p2pfs.node.progress import Work, reporting
from p2pfs.node.services import Services

DRAINING = "draining"
"""Key in the catalog's notes: `yes` while this node gives its shards away, so that a restart goes on with it."""
STEP_S = 0.2
HAND_OVER_S = 2.0
"""Between two questions to all whether they know the pins of a node that is to leave."""
CHECK_S = 1.0


def read_flags(body: bytes, *known: str) -> dict[str, bool]:
    """The JSON body of these verbs: flags, false when absent. Raises UsageError, ProtocolError."""
    given = wire.parse_json(body, dict)
    for key, value in given.items():
        if key not in known or not isinstance(value, bool):
            raise errors.UsageError(f"option {key!r} = {value!r}: known are {', '.join(known)}, true or false")
    return {key: given.get(key, False) for key in known}


def health(services: Services, session: Session, line: Line) -> None:
    """HEALTH: what the audit found here."""
    lacks_records = services.pinning.run(services.pinning.catalog.lacks_records)
    session.reply(wire.dump_json(checkup(services).to_wire() | {"lacks_records": lacks_records}))


class Waiting(Work):
    """Somebody waits for the audit; a client that goes away ends the waiting, not the audit."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._audit = services.audit

    def for_pass(self, request: Request) -> None:
        """Until that pass is over."""
        while not request.done.wait(STEP_S):
            self.check()

    def for_repair(self) -> None:
        """Until all that can be fetched for now is here."""
        while not self._audit.repair.is_idle:
            green.sleep(STEP_S)
            self.check()

    def progress(self) -> dict[str, Any]:
        """What a PART says."""
        audit = self._audit
        return {
            "phase": audit.phase or "repair", "done": audit.done, "total": audit.total,
            "fetched_bytes": audit.repair.fetched_bytes, "left_bytes": audit.figures.missing_bytes,
        }


def audit(services: Services, session: Session, line: Line) -> None:
    """AUDIT: a pass now; with `wait`, until what it found is mended as far as it can be."""
    is_waiting = read_flags(session.body(), "wait")["wait"]
    audit, repair = services.audit, services.audit.repair
    before = Amount(repair.fetched_blocks, repair.fetched_bytes)
    request = audit.run()
    report = audit.report
    if is_waiting:
        waiting = Waiting(services)
        with reporting(session, waiting.progress, waiting.fail):
            waiting.for_pass(request)
            waiting.for_repair()
            # Once more: what was fetched here may be given up elsewhere, and the other way round.
            again = audit.run(is_walk=False)
            waiting.for_pass(again)
            waiting.for_repair()
        report = request.report
        given_up = again.report.given_up
        report.given_up = report.given_up.plus(given_up.blocks, given_up.bytes)
        report.fetched = Amount(repair.fetched_blocks - before.blocks, repair.fetched_bytes - before.bytes)
    figures = audit.figures
    session.reply(wire.dump_json(report.to_wire() | {
        "missing_blocks": figures.missing_blocks, "missing_bytes": figures.missing_bytes, "is_done": is_waiting,
    }))


def scrub(services: Services, session: Session, line: Line) -> None:
    """SCRUB: read and hash every block of this node now; only with `wait` is the answer what came of it.

    A client that goes away does not end it.
    """
    is_waiting = read_flags(session.body(), "wait")["wait"]
    run = services.scrub.run_now()
    if is_waiting:
        client = Work()
        with reporting(session, run.progress, client.fail):
            while not run.over.wait(CHECK_S):
                client.check()
    session.reply(wire.dump_json(run.result()))


def gc(services: Services, session: Session, line: Line) -> None:
    """GC: a pass for the sake of what it collects."""
    is_dry = read_flags(session.body(), "dry_run")["dry_run"]
    waiting = Waiting(services)
    collected = NOTHING
    with reporting(session, waiting.progress, waiting.fail):
        while True:
            request = services.audit.run(is_dry=is_dry)
            waiting.for_pass(request)
            report = request.report
            collected = collected.plus(report.collected.blocks, report.collected.bytes)
            if is_dry or not report.is_cut:
                break
    session.reply(wire.dump_json({
        "collected_blocks": collected.blocks, "collected_bytes": collected.bytes,
        "waiting_blocks": report.waiting.blocks, "waiting_bytes": report.waiting.bytes,
        "held_up": report.held_up, "dry_run": is_dry,
    }))


def drain(services: Services, session: Session, line: Line) -> None:
    """DRAIN: others take over this node's shards; with `wait`, until they hold all that was here."""
    flags = read_flags(session.body(), "wait", "cancel")
    membership, pinning = services.cluster.membership, services.pinning
    is_wanted = not flags["cancel"]
    if is_wanted and not membership.me.drains:
        require_others(services)
    pinning.run(pinning.catalog.remember, DRAINING, "yes" if is_wanted else "no")
    membership.drain(is_wanted)
    services.cluster.changed()
    if is_wanted and flags["wait"]:
        waiting = Waiting(services)
        with reporting(session, lambda: _left(services), waiting.fail):
            while not is_drained(services):
                waiting.check()
                green.sleep(HAND_OVER_S if services.audit.is_drained else STEP_S)
    session.reply(wire.dump_json({
        "is_draining": membership.me.drains, "is_drained": is_drained(services), **_left(services),
    }))


def is_drained(services: Services) -> bool:
    """All that this node holds is elsewhere, too: blocks with their owners, and pins with as many as a store asks for.

    Asks the others, for some seconds at most.
    """
    copies = services.cluster.limited(services.config.cluster.write_quorum)
    return services.audit.is_drained and services.levelling.is_known_elsewhere(copies)


def _left(services: Services) -> dict[str, int]:
    left = services.audit.surplus
    return {"left_blocks": left.blocks, "left_bytes": left.bytes}


def require_others(services: Services) -> None:
    """Raise TooFewNodes when the others could not hold as many copies as there should be."""
    cluster = services.cluster
    others = [
        member.name for member in cluster.members()
        if member.state == "alive" and not member.drains and member.id != cluster.id and member.capacity
    ]
    wanted = cluster.limited(services.config.cluster.replicas)
    if len(others) < wanted:
        raise errors.TooFewNodes(
            f"{wanted} copies are wanted and {len(others)} other members would remain to hold them "
            f"({', '.join(others) or 'none'}); add a node first, or lower [cluster] replicas on every node"
        )


def forget(services: Services, session: Session, line: Line) -> None:
    """FORGET: strike a dead member, on every node."""
    member = find_member(services, line.args[0])
    services.gossip.forget(member.id)
    session.reply(wire.dump_json({"id": member.id, "name": member.name}))


def find_member(services: Services, text: str) -> Member:
    """The member of that id or name. Raises NotFound, UsageError when several have the name."""
    found = _called(services, text)
    if not found:
        names = ", ".join(member.name for member in services.cluster.members())
        raise errors.NotFound(f"no member is called {text[:80]!r}; there are: {names}")
    if len(found) > 1:
        dead = [member for member in found if member.state == "dead"]
        if len(dead) != 1:
            raise _several(text, found)
        found = dead
    return found[0]


def _called(services: Services, text: str) -> list[Member]:
    members = services.cluster.members()
    return [it for it in members if it.id == text] or [it for it in members if it.name == text]


def _several(text: str, found: list[Member]) -> errors.UsageError:
    ids = ", ".join(f"{member.id} ({member.state})" for member in found)
    return errors.UsageError(f"several members are called {text[:80]!r}; name one by its id: {ids}")


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
    found = _called(services, text)
    if len(found) > 1:
        raise _several(text, found)
    if found:
        return found[0].id, found[0].name
    if ID.fullmatch(text):
        return text, ""
    names = ", ".join(member.name for member in services.cluster.members())
    raise errors.NotFound(f"no member is called {text[:80]!r}, and it is no id; members: {names}")
