"""The verbs that say who belongs to the cluster, and who may use it: `forget`, `grant`, `invite`."""

from __future__ import annotations

import time

from p2pfs.cli.call import Call, plain

YEAR_S = 365 * 24 * 3600.0
ROTATE = (
    "It knows the cluster's secret and can come back with another identity: replace the secret now "
    "(docs/OPERATIONS.md, A stolen machine)."
)


def forget(call: Call) -> int:
    """Who was struck, or is refused from now on and by whom not yet."""
    if not call.options["--revoke"]:
        forgotten = call.client.forget(call.options["NODE"])
        call.output.result(plain(forgotten), f"{forgotten.name} {forgotten.id[:12]} is forgotten")
        return 0
    revoked = call.client.revoke(call.options["NODE"])
    lines = [f"{revoked.name or 'whoever it is'} {revoked.id} is revoked: no node serves it any more"]
    if revoked.untold:
        lines.append(f"not told yet, and told when they meet one that knows: {', '.join(revoked.untold)}")
    # Of one that is no member any more nobody can say that it was none.
    lines.append(ROTATE if revoked.name else f"If it was a member: {ROTATE[0].lower()}{ROTATE[1:]}")
    call.output.result(plain(revoked), "\n".join(lines))
    return 0


def grant(call: Call) -> int:
    """A folder with a client's key and certificate; who it is, and until when."""
    seconds = call.duration("--expires")
    granted = call.client.grant(
        call.options["NAME"], call.options["--output"], role=call.options["--role"],
        expires_s=YEAR_S if seconds is None else seconds,
    )
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(granted.expires))
    call.output.result(
        plain(granted),
        f"{granted.path}: {granted.name} may {granted.role} until {until}; id {granted.id}",
    )
    call.output.remark(
        f"use it with --node=HOST:PORT --tls-dir={granted.path}; p2pfs-cli forget --revoke {granted.id} takes it back"
    )
    return 0


def invite(call: Call) -> int:
    """The token alone on standard output; what it is good for beside it."""
    from p2pfs import units
    from p2pfs.config import is_loopback

    lasts_s = call.duration("--expires")
    once = call.options["--once"]
    invited = call.client.invite(**({} if lasts_s is None else {"lasts_s": lasts_s}), once=once)
    call.output.result(plain(invited), invited.token)
    left = units.format_duration(max(0.0, invited.expires - time.time()))
    whom = "one machine" if invited.once else "any machine that has it"
    call.output.remark(f"lets {whom} join for {left}; type there: p2pfs-node join TOKEN --listen=HOST:PORT")
    if is_loopback(invited.address):
        call.output.remark(f"only on this machine: the node is at {invited.address} ([node] listen, advertise)")
    return 0
