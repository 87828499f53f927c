"""The verbs that show how the cluster is: `peers` and `status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2pfs.cli.call import Call, amount, lasted, plain, size

if TYPE_CHECKING:
    from p2pfs.client.reports import AuditState, ScrubState, Status
    from p2pfs.core.health import Figures

MOST_LOST = 20
"""Lost pins that are shown to people; --json has all."""


def peers(call: Call) -> int:
    """A table of all members; `*` is the node that was asked."""
    titles = ("NAME", "STATE", "ADDRESS", "ZONE", "CAPACITY", "USED", "RTT", "SEEN", "VERSION", "ID")
    now = time.time()
    call.output.table(titles, (
        (plain(row), (
            f"{row.name}{'*' if row.self else ''}", row.state, row.address or "-", row.zone or "-",
            "-" if row.capacity is None else f"{row.capacity:g}", size(row.used),
            "-" if row.rtt_ms is None else f"{row.rtt_ms:.1f} ms",
            "-" if row.last_seen is None else f"{max(0, now - row.last_seen):.0f} s ago", row.version, row.id[:12],
        ))
        for row in call.client.peers()
    ))
    return 0


def status(call: Call) -> int:
    """Health; exit code 0 only when healthy."""
    found = call.client.status()
    call.output.result(plain(found), "\n".join(lines(found, time.time())))
    return 0 if found.verdict == "healthy" else 1


def lines(found: Status, now: float) -> Iterator[str]:
    """A status for people: the verdict, why, then a titled line for each matter that there is something to say of."""
    yield found.verdict
    yield from (f"  {reason}" for reason in found.reasons)
    for title, text in _matters(found, now):
        yield f"{title:<12}{text}"


def _matters(found: Status, now: float) -> Iterator[tuple[str, str]]:
    if found.health is not None:
        yield "blocks", _copies(found.health)
    if found.left_bytes:
        until = "nobody can know how long" if found.time_to_go_s is None else f"{lasted(found.time_to_go_s)} to go"
        yield "left", f"{size(found.left_bytes)} to copy or move, {until}"
    lost = found.lost_pins or []
    for pin in lost[:MOST_LOST]:
        yield "lost", f"{pin.cid}  {pin.name or '(no name)'}: {amount(pin.blocks, pin.bytes)}"
    if len(lost) > MOST_LOST:
        yield "lost", f"and {len(lost) - MOST_LOST} more pins; --json names them"
    yield "copies", (
        f"{found.replicas} wanted, {found.replicas_possible} possible, {found.write_quorum} before a store is done"
    )
    yield "pins", f"{found.pins}, and {found.tombstones} removed"
    if found.audit is not None:
        yield "audit", _audit(found.audit, now)
        if found.audit.held_up:
            yield "gc", f"held up: {found.audit.held_up}"
        for cid in found.audit.unreadable[:MOST_LOST]:
            yield "unreadable", f"{cid}: below it a branch cannot be read; p2pfs-cli explain {cid}"
    if found.scrub is not None:
        yield "scrub", _scrub(found.scrub)
    if found.is_draining:
        yield "drain", "under way; p2pfs-cli drain --wait tells when this node can be stopped"
    yield "space", (
        f"{amount(found.blocks, found.stored_bytes)} here, {size(found.free_bytes)} free"
        + ("" if found.is_counted else "; not all counted yet")
    )
    if found.quarantined:
        yield "quarantine", f"files of bad blocks: {found.quarantined}"
    yield "members", ", ".join(f"{count} {state}" for state, count in found.members.items())
    yield "node", (
        f"{found.node} {found.id[:12]} at {found.address or 'no address'}, version {found.version}, "
        f"up {lasted(found.uptime_s)}, {size(found.memory_bytes)} of memory, {found.buffers_in_use} buffers in use"
    )


def _copies(figures: Figures) -> str:
    kinds = [
        f"{amount(blocks, size_bytes)} {what}"
        for blocks, size_bytes, what in (
            (figures.lost_blocks, figures.lost_bytes, "lost"),
            (figures.silent_blocks, figures.silent_bytes, "out of reach"),
            (figures.single_blocks, figures.single_bytes, "with a single copy"),
            (figures.below_blocks, figures.below_bytes, "below their copies in all"),
            (figures.missing_blocks, figures.missing_bytes, "to be fetched"),
            (figures.displaced_blocks, figures.displaced_bytes, "where there is room instead of where they belong"),
        ) if blocks
    ]
    live = amount(figures.live_blocks, figures.live_bytes)
    return f"{live} live: {', '.join(kinds)}" if kinds else f"{live} live, all with their copies"


def _audit(state: AuditState, now: float) -> str:
    parts = [f"{state.phase}, {state.done} of {state.total}" if state.is_running else "idle"]
    if state.last_end is None:
        parts.append("no pass is through yet")
    else:
        took = "" if state.last_s is None else f" and took {lasted(state.last_s)}"
        parts.append(f"the last pass ended {lasted(now - state.last_end)} ago{took}")
    if not state.is_current:
        parts.append("not through with the last change")
    return "; ".join(parts)


def _scrub(state: ScrubState) -> str:
    oldest = "not every block was verified yet"
    if state.oldest_s is not None:
        oldest = f"every block verified within {lasted(state.oldest_s)}"
    bad = f", {state.bad_blocks} bad" if state.bad_blocks else ""
    return (
        f"{oldest} (wanted: {lasted(state.period_s)}); {'under way' if state.is_running else 'idle'}, "
        f"{amount(state.blocks, state.bytes)} since the start{bad}"
    )
