"""`p2pfs-node init`: the first node of a cluster."""

from __future__ import annotations

from p2pfs.config import is_loopback, new_secret, split_address
from p2pfs.node.invitations import LASTS_S, Invitations
from p2pfs.setup.site import Site


def init(path: str, options: list[str]) -> list[str]:
    """Make secret, identity and configuration of a first node; lines that say what, and what to do next.

    Raises Refused when there is a node already, ConfigError.
    """
    site = Site(path, options)
    with site.held():
        config, identity = site.settle([new_secret()])
        address = config.node.advertise or config.node.listen
        lines = [f"{config.node.name} {identity.id[:12]} is the first node of the cluster {identity.clusters[0][:16]}:"]
        lines += site.summary(config)
        if split_address(address)[1] == 0:
            return lines  # which port that is will be known when it runs: `p2pfs-cli invite`
        token, _ = Invitations(config.node.data_dir).invite(address, identity.clusters[0], LASTS_S, is_once=False)
    lines += ["", "Then, within an hour, on each machine that is to join:", f"  p2pfs-node join {token}"]
    lines += ["p2pfs-cli invite prints another token at any time. Who has one can join: until then it is a secret."]
    if is_loopback(address):
        lines += [f"{address} can be reached from this machine only; for others, begin with --listen=HOST:PORT."]
    return lines
