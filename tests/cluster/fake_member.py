"""A member of a real cluster inside the test: it has the secret, speaks TLS and the protocol, and does as told."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from kit.cluster import Cluster, wait_until
from p2pfs.core import batches, wire
from p2pfs.core.cid import CID
from p2pfs.core.health import Figures
from p2pfs.core.member import Member, news_from_wire, news_to_wire
from p2pfs.core.multihash import Multihash
from p2pfs.core.pins import BUCKETS
from p2pfs.core.wire import Line
from p2pfs.net import tls
from p2pfs.net.connection import connect
from p2pfs.net.server import Session
from p2pfs.net.stream import Stream
from tests import sockets

Behaviour = Callable[["FakeMember", Session, Line], None]


class FakeMember:
    """An honest member, as long as `does` does not say otherwise for a verb. Its blocks are in memory."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._cluster = cluster
        self._secret = cluster[0].options["cluster.secret"]
        self._folder = folder / "fake"
        self._stack = contextlib.ExitStack()
        self.does: dict[str, Behaviour] = {}
        self.asked: collections.Counter[str] = collections.Counter()
        """Requests so far, by verb."""
        self.blocks: dict[Multihash, bytes] = {}
        self.over = threading.Event()
        """Whoever stalls waits for this."""

    def __enter__(self) -> FakeMember:
        material = sockets.material(self._folder, self._secret)
        handlers = {name: self._handler(name) for name in _HONEST}
        server = self._stack.enter_context(sockets.running(self._folder, handlers, node=material))
        self._stack.callback(self.over.set)
        self.member = Member(
            id=material.id, name="fake", addresses=(server.address,), incarnation=int(time.time() * 1000)
        )
        address = self._cluster[0].address
        connection = connect(address, tls.client_context(*material.files), 10.0, None)
        with contextlib.closing(connection):
            connection.request("HELLO", wire.VERSION, self.member.id, "0" * 16, int(time.time() * 1000))
            connection.request("MEMBERS", body=self.news())
        for node in self._cluster:
            wait_until(lambda node=node: node.states().get("fake") == "alive", 60, f"{node.name} takes it for alive")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._stack.close()

    def _handler(self, verb: str) -> Callable[[Session, Line], None]:
        def handle(session: Session, line: Line) -> None:
            self.asked[verb] += 1
            self.does.get(verb, _HONEST[verb])(self, session, line)

        return handle

    def hear(self, body: bytes) -> None:
        """Object when others hold it for suspect or dead: on a busy machine it is late at times."""
        for row in news_from_wire(wire.parse_json(body, dict))[1]:
            if row.id == self.member.id and row.state != "alive" and row.incarnation >= self.member.incarnation:
                self.member = self.member._replace(incarnation=row.incarnation + 1)

    def news(self) -> bytes:
        """What it says about the cluster: that it lives."""
        return wire.dump_json(news_to_wire(self.member, []))


def stream_of(session: Session) -> Stream:
    """The connection below, to do what no handler may."""
    return session._stream


# --- an honest member ----------------------------------------------------------------------------------

def _hello(fake: FakeMember, session: Session, line: Line) -> None:
    session.reply(wire.dump_json({
        "version": wire.VERSION, "id": fake.member.id, "instance": "0" * 16, "time_ms": int(time.time() * 1000),
        "name": "fake",
    }))


def _news(fake: FakeMember, session: Session, line: Line) -> None:
    fake.hear(session.body())
    session.reply(fake.news())


def _have(fake: FakeMember, session: Session, line: Line) -> None:
    cids = [CID.parse(word) for word in session.body().decode().split("\n")]
    session.reply(b"".join(b"1" if cid.multihash in fake.blocks else b"0" for cid in cids))


def _put(fake: FakeMember, session: Session, line: Line) -> None:
    data = bytearray(line.length)
    session.body_into(memoryview(data))
    is_new = line.args[0].multihash not in fake.blocks
    fake.blocks[line.args[0].multihash] = bytes(data)
    session.reply(b"new 1" if is_new else b"old")


def _get(fake: FakeMember, session: Session, line: Line) -> None:
    data = fake.blocks.get(line.args[0].multihash)
    if data is None:
        refuse(fake, session, line)
    else:
        session.reply(data)


def _puts(fake: FakeMember, session: Session, line: Line) -> None:
    lines = []
    for cid, data in batches.unpack(memoryview(session.body())):
        lines.append(b"old" if cid.multihash in fake.blocks else b"new 1")
        fake.blocks[cid.multihash] = bytes(data)
    session.reply(b"\n".join(lines))


def _gets(fake: FakeMember, session: Session, line: Line) -> None:
    cids = batches.unpack_cids(session.body(), batches.MOST)
    session.reply(batches.pack((cid, fake.blocks[cid.multihash]) for cid in cids if cid.multihash in fake.blocks))


def _json(value: Any) -> Behaviour:
    def answer(fake: FakeMember, session: Session, line: Line) -> None:
        session.body()
        session.reply(wire.dump_json(value))

    return answer


def _text(data: bytes) -> Behaviour:
    def answer(fake: FakeMember, session: Session, line: Line) -> None:
        session.body()
        session.reply(data)

    return answer


def _bucket(fake: FakeMember, session: Session, line: Line) -> None:
    """It has none of those records, and no other ones."""
    session.reply(session.body())


_HONEST: dict[str, Behaviour] = {
    "HELLO": _hello, "PING": _news, "MEMBERS": _news, "PINGREQ": _text(b""), "HAVE": _have, "PUT": _put, "GET": _get,
    "PUTS": _puts, "GETS": _gets,
    "DISCARD": _text(b"0"), "PIN": _json({"changed": 0}), "DIGESTS": _text(b"\n".join([b"0" * 32] * BUCKETS)),
    "BUCKET": _bucket, "HEALTH": _json({**Figures().to_wire(), "is_current": True, "is_running": False,
                                          "oldest_scrub_s": None}),
}


# --- what else it may do -------------------------------------------------------------------------------

def refuse(fake: FakeMember, session: Session, line: Line) -> None:
    """That block is not here."""
    session.has_replied = True
    stream_of(session).send(b"ERR NOT_FOUND it is not here\r\n")


def stall(fake: FakeMember, session: Session, line: Line) -> None:
    """Take the request, and never answer."""
    session.body()
    fake.over.wait()


def stall_in_body(fake: FakeMember, session: Session, line: Line) -> None:
    """Begin to answer GET, and stop in the middle."""
    _begin(fake, session, line)
    fake.over.wait()


def close_in_body(fake: FakeMember, session: Session, line: Line) -> None:
    """Begin to answer GET, and hang up."""
    _begin(fake, session, line)
    stream_of(session).close()


def _begin(fake: FakeMember, session: Session, line: Line) -> None:
    data = fake.blocks[line.args[0].multihash]
    session.has_replied = True
    stream_of(session).send(wire.format_ok(len(data)), data[: len(data) // 2])


def wrong_bytes(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer GET with a block of the right length, and one bit of it flipped."""
    data = bytearray(fake.blocks[line.args[0].multihash])
    data[len(data) // 2] ^= 1
    session.reply(bytes(data))


def wrong_small_bytes(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer GETS with blocks of the right length and with other bytes."""
    cids = [cid for cid in batches.unpack_cids(session.body(), batches.MOST) if cid.multihash in fake.blocks]
    session.reply(batches.pack((cid, bytes(len(fake.blocks[cid.multihash]))) for cid in cids))


def garbage(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer with lines of no protocol."""
    session.body()
    session.has_replied = True
    stream_of(session).send(b"\xff\x00 HTTP/1.1 418 teapot\r\n" * 40)


def claim(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer HAVE: everything is here."""
    session.reply(b"1" * len(session.body().split(b"\n")))


def pretend_small(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer PUTS: all were here already; and keep none."""
    session.reply(b"\n".join(b"old" for _ in batches.unpack(memoryview(session.body()))))


def pretend(fake: FakeMember, session: Session, line: Line) -> None:
    """Answer PUT: it was here already; and keep nothing."""
    data = bytearray(line.length)
    session.body_into(memoryview(data))
    session.reply(b"old")
