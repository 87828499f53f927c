"""What this node tells about itself and the cluster: EXPLAIN, PEERS, STATUS, and the gauges of METRICS."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

from p2pfs import metrics
from p2pfs.core.cid import CID
from p2pfs.core.dag import Visit
from p2pfs.node.health import overview
from p2pfs.node.services import Services
from p2pfs.store.catalog import Counts
from p2pfs.units import format_size
from p2pfs.version import VERSION

EXPLAIN_AT_ONCE = 512
CLOCK_WARN_S = 60.0
LOW_SHARE = 0.1
"""A node with less than this part of its room left is nearly full."""


class Summary:
    """EXPLAIN of one root: rows first, then what they add up to."""

    def __init__(self, services: Services, root: CID) -> None:
        self._services = services
        self._root = root
        self._blocks = 0
        self._bytes = 0
        self._fewest: int | None = None
        self._below = 0
        self._lost = 0
        self._silent: set[str] = set()
        cluster = services.cluster
        pins = services.pinning.run(services.pinning.catalog.find_cid, root)
        self._wanted = cluster.limited(max((pin.replicas for pin in pins), default=services.config.cluster.replicas))

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a distinct block, depth first."""
        batch: list[Visit] = []
        for visit in self._services.reader.walk(self._root):
            batch.append(visit)
            if len(batch) == EXPLAIN_AT_ONCE:
                yield from self._batch(batch)
                batch = []
        if batch:
            yield from self._batch(batch)

    def _batch(self, visits: list[Visit]) -> Iterator[dict[str, Any]]:
        cluster = self._services.cluster
        found, silent = self._services.fetcher.holders([visit.cid for visit in visits])
        self._silent.update(silent)
        for visit, holders in zip(visits, found, strict=True):
            owners = cluster.order(visit.cid.shard)[: self._wanted]
            missing = max(0, self._wanted - len(holders))
            self._blocks += 1
            self._bytes += visit.size
            self._fewest = len(holders) if self._fewest is None else min(self._fewest, len(holders))
            self._below += missing > 0
            self._lost += not holders
            yield {
                "cid": str(visit.cid), "kind": "branch" if visit.is_branch else "leaf", "bytes": visit.size,
                "owners": [cluster.name_of(id) for id in owners],
                "holders": sorted(cluster.name_of(id) for id in holders), "missing": missing,
            }

    def result(self) -> dict[str, Any]:
        """What the rows add up to."""
        cluster = self._services.cluster
        away = [member.name for member in cluster.absent()] + [cluster.name_of(id) for id in self._silent]
        return {
            "cid": str(self._root), "blocks": self._blocks, "bytes": self._bytes, "wanted": self._wanted,
            "fewest": self._fewest or 0, "below_wanted": self._below, "lost": self._lost,
            "asked": cluster.size - len(away), "unreachable": sorted(away), "advice": self._advice(away),
        }

    def _advice(self, away: list[str]) -> str:
        if not self._below:
            return f"every block has the {self._wanted} copies wanted"
        who = f"bring back {', '.join(sorted(away))}, or " if away else ""
        if self._lost:
            return f"some blocks are on no member that answered; {who}store the file again"
        return (
            f"some blocks have fewer than the {self._wanted} copies wanted; {who}wait: the audit makes them again "
            "(`p2pfs-cli status` says when)"
        )


def peer_rows(services: Services) -> Iterator[dict[str, Any]]:
    """One row a member, by name."""
    cluster = services.cluster
    since = time.time() - time.monotonic()
    for member, _, seen, rtt_s, _ in sorted(cluster.membership.known(), key=lambda known: known.member.name):
        is_self = member.id == cluster.id
        peer = cluster.peers.known(member.id)
        yield {
            "name": member.name, "id": member.id, "address": ",".join(member.addresses), "state": member.shown_state,
            "self": is_self, "zone": member.zone, "capacity": member.capacity,
            "used": services.local.usage().bytes if is_self else member.used_bytes,
            "incarnation": member.incarnation, "version": member.version,
            "last_seen": round(time.time(), 3) if is_self else None if seen is None else round(since + seen, 3),
            "rtt_ms": None if rtt_s is None else round(1000 * rtt_s, 3),
            "clock_ahead_s": round(peer.clock_ahead_s, 3) if peer else 0.0,
            "error": peer.trouble if peer else "",
        }


def status(services: Services) -> dict[str, Any]:
    """Health of node and cluster as this node sees it; docs/OPERATIONS.md explains each field."""
    cluster, config = services.cluster, services.config
    members = cluster.members()
    usage = services.local.usage()
    free = services.local.run(services.local.store.free_bytes)
    counts = services.pinning.run(services.pinning.catalog.counts)
    found = overview(services)
    return {
        "verdict": found.health.verdict, "reasons": [*found.health.reasons, *_remarks(services, free, counts)],
        "left_bytes": found.health.left_bytes, "time_to_go_s": found.health.time_to_go_s,
        "health": found.figures.to_wire(), "lost_pins": [lost._asdict() for lost in found.lost],
        "node": services.caller.name, "id": cluster.id, "version": VERSION,
        "address": ",".join(cluster.membership.me.addresses),
        "uptime_s": round(time.time() - services.started, 1), "is_draining": cluster.membership.me.drains,
        "members": {state: sum(m.state == state for m in members) for state in sorted({m.state for m in members})},
        "replicas": config.cluster.replicas, "replicas_possible": cluster.limited(config.cluster.replicas),
        "write_quorum": cluster.quorum(config.cluster.write_quorum),
        "pins": counts.live, "tombstones": counts.removed,
        "blocks": usage.blocks, "stored_bytes": usage.bytes, "is_counted": usage.is_exact, "free_bytes": free,
        "quarantined": services.local.run(services.local.store.quarantined),
        "audit": services.audit.state(), "scrub": services.scrub.progress(),
        "buffers_in_use": sum(
            pool.in_use for pool in (services.own_buffers, services.serve_buffers, services.paced_buffers)
        ),
        "memory_bytes": _resident_bytes(),
    }


def _remarks(services: Services, free: int, counts: Counts) -> list[str]:
    """What will become a trouble, and is none for the data yet."""
    remarks = [
        f"the clock of {peer.member.name} is {peer.clock_ahead_s:+.0f} s off ours; set up NTP"
        for peer in services.cluster.live_peers() if abs(peer.clock_ahead_s) > CLOCK_WARN_S
    ]
    for member in services.cluster.members():
        is_self = member.id == services.cluster.id
        left, used = (free, services.local.usage().bytes) if is_self else (member.free_bytes, member.used_bytes)
        if member.is_reachable and (left or used) and left < LOW_SHARE * (left + used):
            remarks.append(
                f"{member.name} is nearly full: {format_size(left)} are left; add a node, remove something, or raise "
                "its limits"
            )
    most = services.config.storage.max_pins
    if sum(counts) > (1 - LOW_SHARE) * most:
        remarks.append(
            f"the catalog is nearly full: {sum(counts)} of {most} records; remove something, or raise [storage] "
            "max_pins"
        )
    held_up = services.audit.report.held_up
    if held_up and services.audit.report.waiting.blocks:
        remarks.append(f"nothing is collected on {services.caller.name}: {held_up}")
    return remarks


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def refresh_gauges(services: Services) -> None:
    """Bring up to date what is not counted as it happens."""
    # Not at the end of a comparison of all: repair goes on after it, and the next one may be an hour away.
    figures = services.audit.figures
    metrics.LEFT_BYTES.set(figures.missing_bytes)
    metrics.BELOW_BLOCKS.set(figures.below_blocks)
    metrics.LOST_BLOCKS.set(figures.lost_blocks)
    usage = services.local.usage()
    metrics.STORED_BYTES.set(usage.bytes)
    metrics.FREE_BYTES.set(services.local.run(services.local.store.free_bytes))
    oldest_s = services.scrub.oldest_s()
    metrics.SCRUB_OLDEST.set(math.inf if oldest_s is None else oldest_s)
    metrics.QUARANTINED.set(services.local.run(services.local.store.quarantined))
