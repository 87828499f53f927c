"""Handlers of the verbs for users, but for those that bring content (`storing.py`) and that look after the cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from p2pfs import errors, green, metrics
from p2pfs.core import batches, dag, wire
from p2pfs.core.cid import CID
from p2pfs.core.pins import Pin
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node import census
from p2pfs.node.pinning import Pinning
from p2pfs.node.progress import reporting
from p2pfs.node.reading import Transfer
from p2pfs.node.refs import Found, resolve
from p2pfs.node.securing import make_pins, renew, secure
from p2pfs.node.services import Services
from p2pfs.node.storing import new_ingest, running

PART_S = 0.5
"""How often a verb that works for long shows that it does."""
LINES_BYTES = 64 * 1024


def find(services: Services, line: Line) -> Found:
    """The REF that is every such verb's first word."""
    return resolve(line.args[0], services.pinning, services.fetcher)


def send_rows(session: Session, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines, gathered into parts: a part leaves when it is full or half a second old."""
    gathered: list[bytes] = []
    size, last = 0, time.monotonic()
    for row in rows:
        gathered.append(wire.dump_json(row) + b"\n")
        size += len(gathered[-1])
        if size >= LINES_BYTES or time.monotonic() - last >= PART_S:
            session.part(b"".join(gathered))
            gathered, size, last = [], 0, time.monotonic()
            green.sleep(0)
    if gathered:
        session.part(b"".join(gathered))


def read(services: Services, session: Session, line: Line) -> None:
    """READ: a range of a file, block by block."""
    found = find(services, line)
    _, offset, length = line.args
    size = services.reader.file_size(found.cid)
    stop = size if length is None else min(size, offset + length)
    sent = 0
    for piece in services.reader.stream(found.cid, min(offset, size), stop, session.whose):
        for start in range(0, len(piece), wire.MAX_PART):
            session.part(piece[start : start + wire.MAX_PART])
        sent += len(piece)
    session.reply(wire.dump_json({"cid": str(found.cid), "size": size, "sent": sent}))


def reads(services: Services, session: Session, line: Line) -> None:
    """READS: small files of one block each, wherever they are; what `SmallReader.read` leaves out is not among them."""
    cids = batches.unpack_cids(session.body(), batches.MOST)
    # The buffer is scratch for the disk, and counts what waits here for a slow reader.
    with services.paced_buffers.of(session.whose).buffer() as scratch:
        session.reply(batches.pack(services.small.read(cids, scratch)))


def fetch(services: Services, session: Session, line: Line) -> None:
    """FETCH: make the descriptor's file equal to the stored one."""
    fd = session.take_descriptor()
    transfer = Transfer()
    try:
        found = find(services, line)
        with reporting(session, lambda: {"bytes": transfer.bytes, "size": transfer.size}, transfer.fail):
            services.reader.fetch_into(found.cid, fd, transfer)
    finally:
        os.close(fd)
    session.reply(wire.dump_json({"cid": str(found.cid), "size": transfer.size, "kept_bytes": transfer.kept_bytes}))


def list_entries(services: Services, session: Session, line: Line) -> None:
    """LIST: the entries of a directory."""
    send_rows(session, services.reader.entries(find(services, line).cid))
    session.reply()


def pins(services: Services, session: Session, line: Line) -> None:
    """PINS: what is pinned, newest first."""
    def rows() -> Iterable[dict[str, Any]]:
        after = None
        while page := services.pinning.run(services.pinning.catalog.pins, after, 1000):
            for pin in page:
                yield {
                    "cid": str(pin.cid), "name": pin.name, "size": pin.size, "sha256": pin.sha256,
                    "replicas": pin.replicas, "blocks": pin.blocks, "created": pin.created,
                }
            after = page[-1]

    send_rows(session, rows())
    session.reply()


def stat(services: Services, session: Session, line: Line) -> None:
    """STAT: figures of a root or of something inside it."""
    found = find(services, line)
    reader = services.reader
    entry = reader.entry(found.cid)
    blocks, total = reader.figures(found.cid)
    row: dict[str, Any] = {
        "cid": str(found.cid), **entry, "blocks": blocks, "bytes": total, "entries": None, "target": None,
        "sha256": None, "pins": [],
    }
    if entry["type"] == "directory":
        row["entries"] = sum(1 for _ in dag.entries(services.fetcher.branch, found.cid))
    if entry["type"] == "symlink":
        target = dag.symlink_target(found.cid, services.fetcher.branch(found.cid))
        row["target"] = target.decode("utf-8", "surrogateescape")
    for pin in services.pinning.run(services.pinning.catalog.find_cid, found.cid):
        row["pins"].append(pin.name)
        row["sha256"] = row["sha256"] or pin.sha256
    session.reply(wire.dump_json(row))


def unpin(services: Services, session: Session, line: Line) -> None:
    """UNPIN: a tombstone for the pin that a name means, or for every pin of a CID."""
    found = find(services, line)
    if found.path:
        raise errors.UsageError(f"{line.args[0]!r} is inside a root; only a root can be removed")
    if found.pin is not None:
        removed = [found.pin]
    else:
        removed = services.pinning.run(services.pinning.catalog.find_cid, found.cid)
    if not removed:
        raise errors.NotFound(f"{found.cid} is not pinned")
    services.pinning.publish(services.pinning.over(
        pin._replace(removed=True, stamp=services.pinning.stamp(), origin=services.cluster.id) for pin in removed
    ))
    session.reply(wire.dump_json({"removed": [{"cid": str(pin.cid), "name": pin.name} for pin in removed]}))


def restore(services: Services, session: Session, line: Line) -> None:
    """RESTORE: pins again what UNPIN removed last under a name or SHA-256, or every removed pin of a CID."""
    records = _last_known(services, line.args[0])
    ingest = new_ingest(services, {"replicas": max(pin.replicas for pin in records)})
    with running(session, ingest):
        for root in {pin.cid for pin in records}:
            secure(services, ingest, root)
        renew(services, ingest)
        make_pins(services, ingest, [
            pin._replace(removed=False, origin=services.cluster.id) for pin in records
        ], session.party.rights)
    session.reply(wire.dump_json({"restored": [{"cid": str(pin.cid), "name": pin.name} for pin in records]}))


def _last_known(services: Services, ref: str) -> list[Pin]:
    """The pins that UNPIN of the REF removed last; live ones, where they are restored already."""
    pinning, catalog = services.pinning, services.pinning.catalog
    try:
        cid = CID.parse(ref.removeprefix("ipfs://").removeprefix("/ipfs/"))
    except errors.BadCid:
        return [_last_named(pinning, ref)]
    records = pinning.run(catalog.find_removed, cid=cid) or pinning.run(catalog.find_cid, cid)
    if not records:
        raise errors.NotFound(f"{cid} was not pinned, or it is forgotten that it was removed")
    return records


def _last_named(pinning: Pinning, ref: str) -> Pin:
    catalog = pinning.catalog
    if ref.startswith("sha256:"):
        digest = ref.removeprefix("sha256:").lower()
        live, removed = pinning.run(catalog.find_sha256, digest), pinning.run(catalog.find_removed, sha256=digest)
    else:
        live, removed = pinning.run(catalog.find_name, ref), pinning.run(catalog.find_removed, name=ref)
    last = max([*removed[:1], *([live] if live else [])], key=lambda pin: pin.stamp, default=None)
    if last is None:
        raise errors.NotFound(f"{ref!r}: no removed pin is called so; give its name, CID or sha256:HEX")
    return last


def export(services: Services, session: Session, line: Line) -> None:
    """EXPORT: a CAR, in parts."""
    found = find(services, line)
    gathered: list[bytes] = []
    blocks = -1
    for piece in services.reader.export(found.cid, session.whose):
        # A header or a frame's prefix travels with the block that follows it.
        if isinstance(piece, bytes):
            gathered.append(piece)
            blocks += 1
            continue
        for start in range(0, max(1, len(piece)), wire.MAX_PART - 256):
            session.part(b"".join(gathered), piece[start : start + wire.MAX_PART - 256])
            gathered = []
    if gathered:
        session.part(b"".join(gathered))
    session.reply(wire.dump_json({"cid": str(found.cid), "blocks": max(blocks, 0)}))


def explain(services: Services, session: Session, line: Line) -> None:
    """EXPLAIN: each block, where it should be and where it is."""
    found = find(services, line)
    summary = census.Summary(services, found.cid)
    send_rows(session, summary.rows())
    session.reply(wire.dump_json(summary.result()))


def peers(services: Services, session: Session, line: Line) -> None:
    """PEERS: every member."""
    send_rows(session, census.peer_rows(services))
    session.reply()


def status(services: Services, session: Session, line: Line) -> None:
    """STATUS: health of node and cluster."""
    session.reply(wire.dump_json(census.status(services)))


def metrics_text(services: Services, session: Session, line: Line) -> None:
    """METRICS: Prometheus text, gauges brought up to date."""
    census.refresh_gauges(services)
    session.reply(metrics.render())
