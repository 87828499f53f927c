"""Handlers of the verbs between members (docs/PROTOCOL.md section 4)."""

from __future__ import annotations

import time

from p2pfs import errors, green
from p2pfs.core import batches, wire
from p2pfs.core.pins import BUCKETS, split_digests
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.levelling import format_digests
from p2pfs.node.pinning import BATCH
from p2pfs.node.services import Services

HAVE_MOST = 4096
"""CIDs of one HAVE."""
BUFFER_WAIT_S = 10.0
"""How long a PUT or GET waits for a buffer: longer than a full queue of disk jobs, shorter than its caller."""


def member_id(session: Session) -> str:
    """Who calls, as TLS proved it: these verbs are for members."""
    assert session.party.id is not None, "the door is checked before"
    return session.party.id


def hello(services: Services, session: Session, line: Line) -> None:
    """HELLO: check that the caller speaks our version and is who its certificate says."""
    version, id, _, _ = line.args
    if version != wire.VERSION:
        raise errors.ProtocolError(f"this node speaks {wire.VERSION}, not {version[:40]}")
    if session.party.kind == "member" and id != session.party.id:
        raise errors.IdentityRefused(f"HELLO says {id[:64]}, the certificate says {session.party.id}")
    caller = services.caller
    session.reply(wire.dump_json({
        "version": wire.VERSION, "id": caller.id, "instance": caller.instance,
        "time_ms": int(time.time() * 1000), "name": caller.name,
    }))


def ping(services: Services, session: Session, line: Line) -> None:
    """PING: take the caller's news, give ours."""
    caller = services.gossip.hear(session.body(), member_id(session))
    session.reply(services.gossip.say_news(caller))


def pingreq(services: Services, session: Session, line: Line) -> None:
    """PINGREQ: probe that member for the caller."""
    peer = services.cluster.peer(line.args[0])
    try:
        services.gossip.ping(peer, services.cluster.membership.probe_timeout_s)
    except errors.P2pfsError as error:
        # Whatever is wrong with that member: passed on as it is, it would be taken for a fault of this node.
        raise errors.NotFound(f"no answer: {error}") from None
    session.reply()


def members(services: Services, session: Session, line: Line) -> None:
    """MEMBERS: merge the caller's table, give ours."""
    services.gossip.hear_all(session.body(), member_id(session))
    session.reply(services.gossip.say_all())


def have(services: Services, session: Session, line: Line) -> None:
    """HAVE: one character a block."""
    cids = batches.unpack_cids(session.body(), HAVE_MOST)
    found = services.local.have([cid.multihash for cid in cids], renew=line.args[0] == "renew")
    session.reply(bytes(b"01"[flag] for flag in found))


def put(services: Services, session: Session, line: Line) -> None:
    """PUT: a block from the socket into a buffer, from the buffer durably to the disk."""
    services.local.await_count(BUFFER_WAIT_S)
    with services.serve_buffers.of(session.whose).buffer(BUFFER_WAIT_S) as view, view[: line.length] as data:
        session.body_into(data)
        token = services.local.put(line.args[0].multihash, data)
    session.reply(batches.format_outcome(token))


def get(services: Services, session: Session, line: Line) -> None:
    """GET: a verified block."""
    with services.serve_buffers.of(session.whose).buffer(BUFFER_WAIT_S) as view:
        length = services.local.read(line.args[0].multihash, view)
        with view[:length] as data:
            session.reply(data)


def puts(services: Services, session: Session, line: Line) -> None:
    """PUTS: as PUT for several small blocks, which wait for the disk together."""
    services.local.await_count(BUFFER_WAIT_S)
    with services.serve_buffers.of(session.whose).buffer(BUFFER_WAIT_S) as view, view[: line.length] as data:
        session.body_into(data)
        blocks = [(cid.multihash, block) for cid, block in batches.unpack(data)]
        outcomes = services.local.put_many(blocks)
    session.reply(batches.format_outcomes(outcomes))


def gets(services: Services, session: Session, line: Line) -> None:
    """GETS: the verified small blocks that are here; those that are not, or do not fit any more, are left out."""
    cids = batches.unpack_cids(session.body(), batches.MOST)
    with services.serve_buffers.of(session.whose).buffer(BUFFER_WAIT_S) as view:
        found = services.local.read_small([cid.multihash for cid in cids], view)
    session.reply(batches.pack((cid, data) for cid, data in zip(cids, found, strict=True) if isinstance(data, bytes)))


def discard(services: Services, session: Session, line: Line) -> None:
    """DISCARD: a store that failed takes back what it wrote here."""
    blocks = batches.unpack_tokens(session.body())
    session.reply(b"%d" % services.local.discard([(cid.multihash, token) for cid, token in blocks]))


def pin(services: Services, session: Session, line: Line) -> None:
    """PIN: merge catalog records, durably. Who sends none asks what this node has seen of the others' catalogs."""
    pinning = services.pinning
    records = pinning.read(session.body())
    refused = sum(map(pinning.is_refused, records))
    changed = pinning.take_in(records, member_id(session))
    full = pinning.without_room(records)
    answer = {"changed": changed, "refused": refused, "full": full}
    if changed < len(records) and (tombstone := pinning.outranked(records)):
        answer["outranked_by"] = tombstone
    seen = {} if records else {"seen": services.levelling.levels.seen()}
    session.reply(wire.dump_json(answer | seen))


def digests(services: Services, session: Session, line: Line) -> None:
    """DIGESTS: one line a bucket."""
    session.reply(format_digests(services.pinning.run(services.pinning.catalog.digests)))


def bucket(services: Services, session: Session, line: Line) -> None:
    """BUCKET: the records that the caller lacks, in parts; then which of its own are not here."""
    number = line.args[0]
    if number >= BUCKETS:
        raise errors.ProtocolError(f"there is no bucket {number}")
    theirs = split_digests(session.body())
    records, alone = services.pinning.run(services.pinning.catalog.differences, number, theirs)
    for start in range(0, len(records), BATCH):
        session.part(wire.dump_json([record.to_wire() for record in records[start : start + BATCH]]))
        green.sleep(0)
    session.reply(b"".join(alone))
