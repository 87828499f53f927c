"""The verbs for looking after a cluster: they run the node's background work now, and tell what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pfs.cli.call import Call, amount, counted, lasted, plain
from p2pfs.cli.output import Step

if TYPE_CHECKING:
    from p2pfs.client.reports import Audited, AuditStep, DrainStep, ScrubStep

HOW_FAR = "p2pfs-cli status shows how far it is"


def audit(call: Call) -> int:
    """Compare and repair now; with --wait 1 when something is missing or unreadable at the end."""
    with call.output.steps(audit_steps()) as progress:
        audited = call.client.audit(wait=call.options["--wait"], progress=progress)
    if not audited.is_done:
        call.output.result(plain(audited), f"the audit has begun; {HOW_FAR}")
        return 0
    call.output.result(plain(audited), _audited(audited))
    for cid in audited.unreadable:
        call.output.finding(f"{cid}: below it a branch cannot be read; p2pfs-cli explain {cid}")
    if audited.missing_blocks:
        call.output.finding(
            f"{amount(audited.missing_blocks, audited.missing_bytes)} that belong here could not be fetched; "
            "p2pfs-cli status says why"
        )
    return 1 if audited.missing_blocks or audited.unreadable else 0


def _audited(audited: Audited) -> str:
    lines = [
        f"compared {counted(audited.pins, 'pin')}, {amount(audited.blocks, audited.bytes)}, "
        f"in {lasted(audited.seconds)}",
        f"fetched {amount(audited.fetched_blocks, audited.fetched_bytes)}, "
        f"gave up {amount(audited.given_up_blocks, audited.given_up_bytes)}, "
        f"collected {amount(audited.collected_blocks, audited.collected_bytes)}; "
        f"{amount(audited.missing_blocks, audited.missing_bytes)} missing",
    ]
    if audited.held_up:
        lines.append(f"collection is held up: {audited.held_up}")
    return "\n".join(lines)


def audit_steps() -> Callable[[AuditStep], Step]:
    """The steps of one audit as bars show them."""
    fetched_before: int | None = None

    def step_of(step: AuditStep) -> Step:
        nonlocal fetched_before
        # The node counts what it fetched since it was started.
        if fetched_before is None:
            fetched_before = step.fetched_bytes
        fetched_bytes = step.fetched_bytes - fetched_before
        if step.phase == "repair":
            return Step(step.phase, fetched_bytes, fetched_bytes + step.left_bytes)
        return Step(step.phase, step.done, step.total, unit="")

    return step_of


def scrub(call: Call) -> int:
    """Verify all blocks now; with --wait 1 when bad ones could not be healed."""
    with call.output.steps(_scrub_step) as progress:
        scrubbed = call.client.scrub(wait=call.options["--wait"], progress=progress)
    if not scrubbed.is_done:
        call.output.result(plain(scrubbed), f"the scrub has begun; {HOW_FAR}")
        return 0
    call.output.result(
        plain(scrubbed),
        f"verified {amount(scrubbed.blocks, scrubbed.bytes)} in {lasted(scrubbed.seconds)}: {scrubbed.bad_blocks} bad, "
        f"{scrubbed.healed_blocks} of them healed",
    )
    unhealed = scrubbed.bad_blocks - scrubbed.healed_blocks
    if unhealed > 0:
        call.output.finding(f"{unhealed} of {scrubbed.bad_blocks} bad not healed; p2pfs-cli status says what is lost")
    return 1 if unhealed > 0 else 0


def _scrub_step(step: ScrubStep) -> Step:
    # How many bytes there are in all nobody counts beforehand; shards are of about the same size.
    return Step("scrub", step.bytes, step.bytes * step.total // step.done if step.done else None)


def gc(call: Call) -> int:
    """Collect now; 1 when something holds it up, unless it was only asked what would be."""
    dry_run = call.options["--dry-run"]
    with call.output.steps(audit_steps()) as progress:
        collected = call.client.gc(dry_run=dry_run, progress=progress)
    call.output.result(
        plain(collected),
        f"{'would collect' if dry_run else 'collected'} "
        f"{amount(collected.collected_blocks, collected.collected_bytes)}; "
        f"{amount(collected.waiting_blocks, collected.waiting_bytes)} unwanted and "
        f"waiting{'' if collected.held_up else ' for the end of their grace'}",
    )
    if collected.held_up:
        call.output.finding(f"collection is held up: {collected.held_up}")
    return 1 if collected.held_up and not dry_run else 0


def drain(call: Call) -> int:
    """Give everything to the others, or take it back; with --wait 0 only when this node can be stopped."""
    most = 0

    def draw(step: DrainStep) -> Step:
        nonlocal most
        most = max(most, step.left_bytes)
        return Step("drain", most - step.left_bytes, most)

    wait = call.options["--wait"]
    with call.output.steps(draw) as progress:
        drained = call.client.drain(wait=wait, cancel=call.options["--cancel"], progress=progress)
    left = amount(drained.left_blocks, drained.left_bytes)
    is_over = drained.is_draining and drained.is_drained
    if is_over:
        text = "drained: the others have all that was here; this node can be stopped"
    elif drained.is_draining:
        text = f"draining: {left} left; p2pfs-cli drain --wait waits, p2pfs-cli drain --cancel takes it back"
    else:
        text = "not draining: this node keeps its shards"
    call.output.result(plain(drained), text)
    return 1 if wait and not is_over else 0
