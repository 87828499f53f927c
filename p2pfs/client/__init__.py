"""The blocking client for Python programs and the command line. Imports no gevent, patches nothing."""

from p2pfs.client.answers import (
    Entry,
    Explanation,
    Imported,
    Peer,
    PinRow,
    Placement,
    Progress,
    Removed,
    Stat,
    Stored,
)
from p2pfs.client.client import Client

__all__ = [
    "Client", "Entry", "Explanation", "Imported", "Peer", "PinRow", "Placement", "Progress", "Removed", "Stat",
    "Stored",
]
