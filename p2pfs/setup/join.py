"""`p2pfs-node join`: from the token of an invitation to a node of the cluster, ready to start."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from p2pfs import errors, units
from p2pfs.config import ROWS, split_address
from p2pfs.core.invitation import Token, parse_token
from p2pfs.setup.guest import ask
from p2pfs.setup.site import LISTEN, Site, is_there


def join(text: str, path: str, options: list[str], now: Callable[[], float] = time.time) -> list[str]:
    """Get what a member needs from the node that invited, and write it; lines that say what, and what to do next.

    Everything here is looked at before the token is used. Raises Refused for one that is no token or has expired, or
    when there is a node already, and what `ask` raises.
    """
    token = parse_token(text)
    late_s = now() - token.expires
    if late_s >= 0:
        raise errors.Refused(
            f"the invitation has expired, {units.format_duration(late_s)} ago by this machine's clock; "
            "p2pfs-cli invite prints another one"
        )
    site = Site(path, [f"{LISTEN}={_listen(token)}", *options])
    if is_there(site.secret_file):
        raise errors.Refused(
            f"{site.secret_file} is there already: is this machine a member? Move it away, or name a file in another "
            "folder with -c"
        )
    with site.held():
        welcome = ask(token, site.draft().node.name)
        seeds = f"cluster.seeds={','.join(welcome.seeds)}"
        shared = [f"{name}={ROWS[name].kind.show(value)}" for name, value in welcome.options.items()]
        config, identity = site.settle(welcome.secrets, [seeds, *shared])
    lines = [f"{config.node.name} {identity.id[:12]} is a node of the cluster {identity.clusters[0][:16]}:"]
    return [*lines, *site.summary(config)]


def _listen(token: Token) -> str:
    """The usual port, on the address that this machine has on the way to the node that invited."""
    if variable := os.environ.get(ROWS[LISTEN].variable):
        return variable
    host, port = split_address(token.address)
    default = split_address(ROWS[LISTEN].default_text(os.environ))[1]
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of datagrams: nothing is sent
            ours = probe.getsockname()[0]
    except OSError as error:
        raise errors.Unreachable(f"{token.address} cannot be reached: {error.strerror or error}") from None
    return f"[{ours}]:{default}" if ":" in ours else f"{ours}:{default}"
