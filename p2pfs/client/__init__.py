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
    Restored,
    Stat,
    Stored,
)
from p2pfs.client.client import Client
from p2pfs.client.reports import Audited, Collected, Drained, Forgotten, LostPin, Scrubbed, Status

__all__ = [
    "Audited", "Client", "Collected", "Drained", "Entry", "Explanation", "Forgotten", "Imported", "LostPin", "Peer",
    "PinRow", "Placement", "Progress", "Removed", "Restored", "Scrubbed", "Stat", "Status", "Stored",
]
