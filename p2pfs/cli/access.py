"""The verb that says who may use the cluster: `grant`."""

from __future__ import annotations

import time

from p2pfs.cli.call import Call, plain

YEAR_S = 365 * 24 * 3600.0


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
