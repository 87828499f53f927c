"""Targets: what a connection carries, line by line, and as a server and a caller see the whole of it."""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import rights, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.rights import Right
from p2pfs.core.wire import Line
from p2pfs.net.connection import Connection
from p2pfs.net.server import Server, Session
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Party

PARTIES = (
    Party("a" * 32, "member", "fuzz", rights.OF_MEMBER),
    Party("b" * 32, "client", "fuzz", rights.ROLES["admin"]),
    Party(None, "local", "fuzz", rights.ROLES["admin"] | Right.LOCAL),
    Party("c" * 32, "guest", "fuzz", rights.OF_GUEST),
    Party("d" * 32, "client", "fuzz", rights.ROLES["read"]),
)
_MOST_SENT, _MOST_LINES = 32 * 1024, 100
"""Fits into a socket's buffer, and so do as many answers: nobody has to read meanwhile."""
_BUFFER_BYTES = 1 << 20
"""A socket waits when a quarter of it is taken, and the shortest answer takes 768 of them."""
_BLOCK = CID(RAW, multihash(SHA2_256, b""))
_LIMITS = Limits()._replace(linger_s=0.0)


def check_line(line: Line) -> None:
    """A line that is written from what was read means the same."""
    table = wire.RECORDS if line.verb.name in wire.RECORDS else wire.VERBS
    try:
        text = wire.format_line(line.verb, *line.args, length=line.length)
    except errors.UsageError:
        return  # percent-encoded anew it is too long
    parse = wire.parse_record if table is wire.RECORDS else wire.parse_request
    assert parse(text) == line
    assert len(text) <= wire.MAX_LINE and text.count(b"\n") == 1


def parse_reply(line: bytes) -> wire.Reply | errors.P2pfsError:
    """A reply, or the error that an ERR line stands for."""
    try:
        return wire.parse_reply(line)
    except errors.P2pfsError as error:
        if isinstance(error, errors.ProtocolError) and not line.startswith(b"ERR "):
            raise
        return error


def check_reply(reply: wire.Reply | errors.P2pfsError) -> None:
    """It can be written and read again; an error's text is cut where a line ends."""
    if isinstance(reply, wire.Reply):
        again = wire.format_ok(reply.length) if reply.is_last else wire.format_part(reply.length)
        assert wire.parse_reply(again) == reply
        return
    line = wire.format_error(reply)
    assert len(line) <= wire.MAX_LINE and line.count(b"\n") == 1
    found = parse_reply(line)
    assert isinstance(found, errors.P2pfsError) and found.token == reply.token
    assert len(line) > wire.MAX_LINE - 8 or str(found) == str(reply)


class Talk(NamedTuple):
    """What was said on one connection."""

    sent: bytes
    heard: bytes


class _NoWait:
    """In the place of a semaphore: one connection is served here, at once."""

    def acquire(self) -> object:
        return True

    def release(self) -> object:
        return None


def _answer(session: Session, line: Line) -> None:
    """Any verb: reads what it is sent, up to the outermost END, and says how much that was."""
    size = len(session.body())
    depth = 1 if line.verb.streams_in else 0
    while depth:
        record = session.next_record()
        depth += {"END": -1, "FILE": 1, "DIR": 1}.get(record.verb.name, 0)
        size += len(session.record_body(record))
    if line.verb.takes_descriptor:
        session.take_descriptor()
    session.reply(b"%d" % size)


def _spawn(name: str, fn: object, *args: object) -> object:
    raise AssertionError("nothing is started to serve one connection")


def serve(data: bytes) -> Talk:
    """A server's words to one of these parties (by the first byte) that sends the rest."""
    party = PARTIES[data[0] % len(PARTIES)] if data else PARTIES[0]
    sent = b"".join(data[1:_MOST_SENT].splitlines(keepends=True)[:_MOST_LINES])
    server = Server(_spawn, lambda count: _NoWait(), _LIMITS)
    server.handlers.update(dict.fromkeys(wire.VERBS, _answer))
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    with ours:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        server._serve(Stream(theirs, "fuzz", _LIMITS, takes_descriptors=party.kind == "local"), party)
        ours.settimeout(10.0)
        heard = b""
        while piece := ours.recv(65536):
            heard += piece
    return Talk(sent, heard)


def check_talk(talk: Talk) -> None:
    """Every answer is of the grammar, none says INTERNAL, and after one that is fatal comes nothing."""
    heard, is_over = talk.heard, False
    while heard:
        assert not is_over
        line, end, heard = heard.partition(b"\n")
        reply = parse_reply(line + end)
        if isinstance(reply, errors.P2pfsError):
            assert reply.token != errors.InternalError.token, reply
            is_over = reply.is_fatal
        else:
            assert len(heard) >= reply.length
            heard = heard[reply.length :]


def ask(data: bytes) -> bytes:
    """What a caller makes of an answer: whole, in a buffer, in parts, or of a refusal (by the first byte)."""
    kind, answer = data[0] % 4 if data else 0, data[1:_MOST_SENT]
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        connection = Connection(Stream(ours, "fuzz", _LIMITS))
        with contextlib.closing(connection):
            try:
                return _ask(connection, kind)
            except errors.P2pfsError as error:
                if error.is_fatal and not connection.is_broken:
                    raise AssertionError("it is out of step, and does not know it") from error
                raise


def _ask(connection: Connection, kind: int) -> bytes:
    if kind == 0:
        return connection.request("STATUS")
    if kind == 1:
        view = memoryview(bytearray(wire.MAX_SMALL))
        return bytes(view[: connection.request_into(view, "GET", _BLOCK)])
    if kind == 2:
        return b"".join(connection.stream("PINS"))
    return repr(connection.stream("STORE", body=b"{}").last_words()).encode()
