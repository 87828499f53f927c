"""The health of the whole cluster: every member is asked for what its audit found, and that is added up."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.core.cid import CID
from p2pfs.core.health import Away, Figures, Health, judge, total
from p2pfs.node.peer import Peer
from p2pfs.node.services import Services

ASK_S = 2.0
LOST_MOST = 100
"""Lost pins that one member tells of."""


class Lost(NamedTuple):
    """A pin below which blocks are lost."""

    cid: str
    name: str
    blocks: int
    bytes: int


class Checkup(NamedTuple):
    """What this node knows of its own state and tells the others."""

    figures: Figures
    is_current: bool
    is_done_once: bool
    """It was through once since its start."""
    oldest_scrub_s: float | None
    lost: list[Lost]

    def to_wire(self) -> dict[str, Any]:
        """The answer to HEALTH."""
        return self.figures.to_wire() | {
            "is_current": self.is_current, "is_done_once": self.is_done_once, "oldest_scrub_s": self.oldest_scrub_s,
            "lost": [lost._asdict() for lost in self.lost],
        }

    @classmethod
    def from_wire(cls, body: bytes) -> Checkup:
        """Check an answer to HEALTH. Raises ProtocolError."""
        value = wire.parse_json(body, dict)
        oldest, lost = value.get("oldest_scrub_s"), value.get("lost")
        is_current, is_done_once = value.get("is_current"), value.get("is_done_once")
        if not isinstance(is_current, bool) or not isinstance(is_done_once, bool):
            raise errors.ProtocolError("an answer to HEALTH does not say how current it is")
        if not isinstance(oldest, int | float | None):
            raise errors.ProtocolError("an answer to HEALTH has no oldest_scrub_s")
        if not isinstance(lost, list) or len(lost) > LOST_MOST:
            raise errors.ProtocolError(f"an answer to HEALTH lists at most {LOST_MOST} lost pins")
        return cls(Figures.from_wire(value), is_current, is_done_once, oldest, [_lost(row) for row in lost])


def _lost(row: object) -> Lost:
    if not isinstance(row, dict) or {type(row.get(key)) for key in ("cid", "name")} != {str} \
            or {type(row.get(key)) for key in ("blocks", "bytes")} != {int}:
        raise errors.ProtocolError("a lost pin in an answer to HEALTH has cid, name, blocks and bytes")
    try:
        return Lost(str(CID.parse(row["cid"])), row["name"], row["blocks"], row["bytes"])
    except errors.BadCid as error:
        raise errors.ProtocolError(f"a lost pin in an answer to HEALTH: {error}") from None


def checkup(services: Services) -> Checkup:
    """This node's own."""
    audit = services.audit
    lost = [Lost(str(it.pin.cid), it.pin.name, it.blocks, it.bytes) for it in audit.lost_pins[:LOST_MOST]]
    return Checkup(
        audit.figures, audit.is_current, audit.is_done_once, services.scrub.progress()["oldest_s"], lost
    )


class Overview(NamedTuple):
    """The cluster, as far as it answers."""

    health: Health
    figures: Figures
    lost: list[Lost]


def overview(services: Services) -> Overview:
    """Ask everybody who lives; takes ASK_S at most."""
    cluster, config = services.cluster, services.config
    checkups = {services.caller.name: checkup(services)}
    unmet = ["any seed"] if cluster.knows_nobody else []
    peers = cluster.live_peers()
    # Until it has answered: one that hangs is ended in the middle, and says nothing any more.
    silent = {peer.member.id: peer.member.name for peer in peers}

    def ask(peer: Peer) -> None:
        with contextlib.suppress(errors.P2pfsError):
            body = peer.call("probe", lambda it: it.request("HEALTH", first_byte_s=ASK_S), ASK_S)
            checkups[_free_name(checkups, peer.member.name)] = Checkup.from_wire(body)
            del silent[peer.member.id]

    group = green.Group("overview")
    try:
        for peer in peers:
            group.spawn(f"health-{peer.member.name}", ask, peer)
        group.join(ASK_S)
    finally:
        group.close()
    health = judge(
        figures={name: found.figures for name, found in checkups.items()}, away=_away(services),
        silent=sorted([*silent.values(), *unmet]), wanted=cluster.limited(config.cluster.replicas),
        replicas=config.cluster.replicas, rate=config.repair.rate,
        is_current=all(found.is_current for found in checkups.values()),
        unaudited=sorted(name for name, found in checkups.items() if not found.is_done_once),
    )
    figures = total([found.figures for found in checkups.values()])
    return Overview(health, figures, _merged([lost for found in checkups.values() for lost in found.lost]))


def _free_name(taken: dict[str, Checkup], name: str) -> str:
    """Two members may have one name: both count."""
    while name in taken:
        name += "'"
    return name


def _away(services: Services) -> list[Away]:
    now, out_after_s = time.monotonic(), services.cluster.out_after_s
    return [
        Away(known.member.name, out_after_s - (now - known.state_since))
        for known in services.cluster.membership.known() if known.member.state == "dead"
    ]


def _merged(losses: list[Lost]) -> list[Lost]:
    """Each member is in charge of some of a pin's blocks."""
    sums: dict[tuple[str, str], Lost] = {}
    for lost in losses:
        before = sums.get((lost.cid, lost.name))
        sums[lost.cid, lost.name] = lost if before is None else lost._replace(
            blocks=before.blocks + lost.blocks, bytes=before.bytes + lost.bytes
        )
    return list(sums.values())
