"""p2pfs: a content-addressed file store on the machines that you already have.

    from p2pfs import Client, CID, errors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pfs.client import Client
    from p2pfs.core.cid import CID

__all__ = ["CID", "Client", "errors"]


def __getattr__(name: str) -> Any:
    """Load on demand: a daemon needs no client, and whoever asks for a CID no sockets."""
    import importlib

    homes = {"Client": "p2pfs.client", "CID": "p2pfs.core.cid"}
    if name == "errors":
        return importlib.import_module("p2pfs.errors")
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
