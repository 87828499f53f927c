"""What a user calls a thing (REF) to the CID that it means."""

from __future__ import annotations

from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import dag
from p2pfs.core.cid import CID
from p2pfs.core.pins import Pin
from p2pfs.node.fetch import Fetcher
from p2pfs.node.pinning import Pinning


class Found(NamedTuple):
    """A resolved REF."""

    cid: CID
    pin: Pin | None
    """The pin that was named, when the REF names one and goes no deeper."""
    path: tuple[bytes, ...]
    """What was followed inside the root."""


def resolve(ref: str, pinning: Pinning, fetcher: Fetcher) -> Found:
    """The CID behind `CID[/path]`, `ipfs://CID[/path]`, `sha256:HEX`, or `name[/path]` (newest pin of the name).

    Raises NotFound, UsageError, and what reading a directory on the path raises.
    """
    if not ref:
        raise errors.UsageError("an empty REF; give a CID, a pin's name, sha256:HEX or CID/path")
    if ref.startswith("sha256:"):
        return _by_sha256(ref.removeprefix("sha256:").lower(), pinning)
    head, *rest = ref.removeprefix("ipfs://").removeprefix("/ipfs/").split("/")
    try:
        # Before any name: whatever somebody called something, a CID means the bytes that it is the hash of.
        cid = CID.parse(head)
    except errors.BadCid as error:
        named = pinning.run(pinning.catalog.find_name, ref)
        if named:
            return Found(named.cid, named, ())
        cid, rest = _by_name_and_path(ref, pinning, error)
    path = tuple(part.encode("utf-8", "surrogateescape") for part in rest if part)
    return Found(dag.resolve(fetcher.branch, cid, path), None, path)


def _by_name_and_path(ref: str, pinning: Pinning, error: errors.BadCid) -> tuple[CID, list[str]]:
    # Names may hold slashes themselves: the longest name that is pinned wins.
    parts = ref.split("/")
    for count in range(len(parts) - 1, 0, -1):
        pin = pinning.run(pinning.catalog.find_name, "/".join(parts[:count]))
        if pin:
            return pin.cid, parts[count:]
    raise errors.NotFound(f"{ref!r}: no pin has this name, and it is no CID ({error})")


def _by_sha256(digest: str, pinning: Pinning) -> Found:
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise errors.UsageError(f"sha256:{digest[:80]}: 64 hex digits are wanted, as sha256sum prints them")
    pin = pinning.run(pinning.catalog.find_sha256, digest)
    if pin is None:
        raise errors.NotFound(f"no pinned file has the SHA-256 {digest}")
    return Found(pin.cid, pin, ())
