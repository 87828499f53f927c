"""Whatever somebody sends, a server answers in the grammar, in order, and stays in step or hangs up."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import rights, wire
from p2pfs.core.rights import Right
from p2pfs.core.wire import Line
from p2pfs.net.server import Server, Session
from p2pfs.net.stream import Limits, Stream
from p2pfs.net.tls import Party
from tests.sockets import read_all, semaphore, spawn

PEERS = {
    "member": Party("a" * 32, "member", "a test", rights.OF_MEMBER),
    "local": Party(None, "local", "a test", rights.ROLES["admin"] | Right.LOCAL),
    "guest": Party(None, "guest", "a test", rights.OF_GUEST),
    **{role: Party(None, "client", "a test", found) for role, found in rights.ROLES.items()},
}


REFUSED = {"UNPIN": "NOT_FOUND", "IMPORT": "NOT_FOUND", "HAVE": "NO_SPACE"}


def answer(session: Session, line: Line) -> None:
    """Any verb: what it was sent, as the answer; records up to the outermost END. Three have refusals of their own."""
    if line.verb.name == "HAVE":
        raise errors.NoSpace("before its body was read")
    seen = [line.verb.name.encode(), session.body()]
    if line.verb.name == "IMPORT":
        raise errors.NotFound("before its records were read")
    depth = 1 if line.verb.streams_in else 0
    while depth:
        record = session.next_record()
        depth += {"END": -1, "FILE": 1, "DIR": 1}.get(record.verb.name, 0)
        if record.verb.takes_descriptor:
            session.take_descriptor()
        seen.append(session.record_body(record))
        session.part(b"%d" % depth)
    if line.verb.name == "UNPIN":
        raise errors.NotFound("no such pin")
    session.reply(b"".join(seen)[:1000])


LIMITS = Limits(linger_s=0.2)


def serve(party: Party, sent: bytes) -> bytes:
    """All that a server says to these bytes and a closed end."""
    server = Server(spawn, semaphore, LIMITS)
    server.handlers.update(dict.fromkeys(wire.VERBS, answer))
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10.0)
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        server._serve(Stream(theirs, "a test", LIMITS, takes_descriptors=party.kind == "local"), party)
        return read_all(ours)


def replies(heard: bytes) -> list[str]:
    """The kinds of the replies, in order. Raises ProtocolError when something is none."""
    kinds = []
    while heard:
        line, end, heard = heard.partition(b"\r\n")
        assert end, line
        try:
            reply = wire.parse_reply(line)
        except errors.P2pfsError as error:
            assert line.startswith(b"ERR "), line
            kinds.append(error.token)
            continue
        assert len(heard) >= reply.length
        heard = heard[reply.length :]
        kinds.append("OK" if reply.is_last else "PART")
    return kinds


def request(name: str, *words: str, body: bytes = b"") -> bytes:
    verb = wire.VERBS.get(name) or wire.RECORDS[name]
    length = [str(len(body))] if verb.max_body is not None else []
    return " ".join([name, *words, *length]).encode() + b"\r\n" + body


WORDS = st.sampled_from(["a", "-", "0", "7", "%", "%20", "check", "renew", "p2pfs/1", "b", "1" * 20])
REQUESTS = st.builds(
    lambda verb, words, body: request(verb.name, *words[: len(verb.args)], body=body),
    st.sampled_from([*wire.VERBS.values(), *wire.RECORDS.values()]), st.lists(WORDS, min_size=4, max_size=4),
    st.binary(max_size=20),
)
STORES = st.just(
    request("STORE", body=b"{}") + request("PART") + request("PART", body=b"x") + request("END")
)
GARBAGE = st.binary(max_size=40) | st.binary(max_size=20).map(lambda raw: raw + b"\r\n")


@pytest.mark.parametrize("kind", PEERS)
@given(pieces=st.lists(REQUESTS | STORES | GARBAGE, max_size=6))
def test_any_bytes_are_answered_in_the_grammar(kind: str, pieces: list[bytes]) -> None:
    kinds = replies(serve(PEERS[kind], b"".join(pieces)))
    assert "INTERNAL" not in kinds
    tokens = [errors.BY_TOKEN.get(token) for token in kinds]
    assert not any(cls is not None and cls.is_fatal for cls in tokens[:-1])


@given(st.lists(st.sampled_from(["STATUS", "PINS", "UNPIN", "STAT", "STORE"]), max_size=8))
def test_every_request_has_its_answer_in_order(names: list[str]) -> None:
    whole: dict[str, bytes] = {
        "STATUS": request("STATUS"), "PINS": request("PINS"), "UNPIN": request("UNPIN", "x"),
        "STAT": request("STAT", "x"), "STORE": request("STORE", body=b"{}") + request("END"),
    }
    kinds = replies(serve(PEERS["local"], b"".join(whole[name] for name in names)))
    assert [kind for kind in kinds if kind != "PART"] == ["NOT_FOUND" if name == "UNPIN" else "OK" for name in names]


def test_a_body_that_nobody_read_does_not_put_the_next_request_out_of_step() -> None:
    sent = request("HAVE", "check", body=b"STATUS\r\n") + request("STATUS")
    assert replies(serve(PEERS["member"], sent)) == ["NO_SPACE", "OK"]


def test_records_that_nobody_read_are_no_requests() -> None:
    sent = request("IMPORT", body=b"{}") + request("PART", body=b"STATUS\r\n") + request("END") + request("STATUS")
    assert replies(serve(PEERS["local"], sent)) == ["NOT_FOUND"]


READING = "HELLO READ READS LIST PINS STAT EXPLAIN EXPORT PEERS STATUS METRICS"
STORING = f"{READING} STORE IMPORT RESTORE"
ALL = f"{STORING} UNPIN AUDIT SCRUB GC DRAIN FORGET REVOKE GRANT INVITE"
BETWEEN_MEMBERS = "PING PINGREQ MEMBERS HAVE PUT GET PUTS GETS DISCARD PIN DIGESTS BUCKET HEALTH"


@pytest.mark.parametrize(("kind", "allowed"), [
    ("guest", "JOIN"), ("read", READING), ("store", STORING), ("admin", ALL), ("local", f"{ALL} FETCH"),
    ("member", f"{ALL} {BETWEEN_MEMBERS}"),
])
def test_every_verb_for_everybody(kind: str, allowed: str) -> None:
    words = {"mode": "check", "cid": "bafkreiepinbumzepnoln7co5vea4kf3lcctnqolb3u6bvsellgznymt2uq"}
    for verb in wire.VERBS.values():
        sent = request(verb.name, *(words.get(name, "1") for name, _ in verb.args))
        kinds = replies(serve(PEERS[kind], sent + (request("END") if verb.streams_in else b"")))
        expected = REFUSED.get(verb.name, "OK") if verb.name in allowed.split() else "FORBIDDEN"
        assert kinds[-1] == expected, verb.name
