"""What is due before a store, an import or a restore is acknowledged: the copies of each block, then the pins."""

from __future__ import annotations

from itertools import islice

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.core.pins import Pin
from p2pfs.core.rights import Right
from p2pfs.node.ingest import Ingest
from p2pfs.node.services import Services

AT_ONCE = 1024
"""Blocks that all members are asked about together."""


def secure(services: Services, ingest: Ingest, root: CID) -> int:
    """See to it that every block below a root has as many copies as a store acknowledges; the number of blocks.

    For roots whose blocks were not all stored just now. What has too few copies is copied, all of it is made young and
    part of the ingest. Raises NotFound when a block is on no member that answers; TooFewNodes, NoSpace.
    """
    blocks = 0
    cids = (visit.cid for visit in services.reader.walk(root))
    while batch := list(islice(cids, AT_ONCE)):
        found, _ = services.fetcher.holders(batch, "renew")
        gone = [cid for cid, holders in zip(batch, found, strict=True) if not holders]
        if gone:
            raise errors.NotFound(
                f"{root} is not complete: {len(gone)} blocks or more are missing, the first is {gone[0]}; "
                "what is there is kept, the root is not pinned"
            )
        for cid, holders in zip(batch, found, strict=True):
            # Copies on members that drain do not count, as in a store: they go with them.
            copies = len(holders.intersection(services.cluster.ranks(cid.shard)))
            if copies < ingest.quorum:
                _copy(services, ingest, cid)
            else:
                ingest.found(cid, copies)
        ingest.join()
        blocks += len(batch)
    return blocks


def renew(services: Services, ingest: Ingest) -> None:
    """Before pins are made: if it took long, make all of it young once more, and copy what has lost copies meanwhile.

    Raises TooFewNodes when a block is on no member that answers, or cannot get its copies; NoSpace.
    """
    ingest.renew(lambda cid: _copy(services, ingest, cid))
    ingest.join()


def _copy(services: Services, ingest: Ingest, cid: CID) -> None:
    view = ingest.buffers.take()

    def copy() -> None:
        try:
            length = services.fetcher.block(cid, view)
            with view[:length] as block:
                ingest.copy(cid, block)
        finally:
            ingest.buffers.give(view)

    ingest.spawn(f"copy-{cid}", copy)


def make_pins(services: Services, ingest: Ingest, pins: list[Pin], has: Right) -> None:
    """The catalog records that make all of it visible. Raises TooFewNodes when too few nodes have them durably.

    `has` is what the caller may: who may not remove may not remove copies either, and pins that are there go on to
    want as many.

    Nothing is withdrawn then: a tombstone would remove, too, what others stored before under the same key, and what
    this node may never have heard of.
    """
    pinning = services.pinning
    # Stamped now, however long the copies took: who compared with us since then has not seen these (decision 038).
    lowers = Right.ADMINISTER in has
    pins = pinning.over([pin._replace(stamp=pinning.stamp()) for pin in pins], lowers)
    # From here on somebody may know the pins, whatever fails.
    ingest.keep()
    holders = pinning.publish(pins, ingest.quorum)
    if len(holders) >= ingest.quorum:
        return
    roots = ", ".join(sorted({str(pin.cid) for pin in pins}))
    others = ingest.quorum - (not services.cluster.is_draining)
    where = f" ({services.cluster.names(holders)}: it stays there)" if holders else ""
    raise errors.TooFewNodes(
        f"every block of {roots} is stored, but only {len(holders)} of the {others} other nodes needed took its "
        f"pin{where}; try again, nothing is sent twice"
    )
