"""What the handlers of verbs work with: the parts of a node, put together by `node.py`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfs.config import Config
from p2pfs.node.audit import Audit
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.fetch import Fetcher
from p2pfs.node.gossip import Gossip
from p2pfs.node.hello import Caller
from p2pfs.node.identity import Identity
from p2pfs.node.invitations import Invitations
from p2pfs.node.levelling import Levelling
from p2pfs.node.local import LocalStore
from p2pfs.node.pinning import Pinning
from p2pfs.node.place import Placer
from p2pfs.node.reading import Reader
from p2pfs.node.scrub import Scrub
from p2pfs.node.small import SmallReader


@dataclass
class Services:
    """One of each; `config` is replaced on SIGHUP."""

    config: Config
    caller: Caller
    identity: Identity
    started: float
    local: LocalStore
    own_buffers: BufferPool
    """For what this node began itself: stores, gets."""
    serve_buffers: BufferPool
    """For answering members; never held while waiting for a peer."""
    paced_buffers: BufferPool
    """For streams whose pace a client sets."""
    cluster: Cluster
    gossip: Gossip
    pinning: Pinning
    levelling: Levelling
    fetcher: Fetcher
    placer: Placer
    reader: Reader
    small: SmallReader
    audit: Audit
    scrub: Scrub
    invitations: Invitations
