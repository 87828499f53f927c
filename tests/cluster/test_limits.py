"""What is over a limit of docs/LIMITS.md is refused by a real node with its token, and others are served."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.attacks import Target
from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client, errors
from p2pfs.core import batches, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.member import MAX_NEWS, MAX_ROWS, Member, news_to_wire
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import MAX_NAME_BYTES
from p2pfs.net import tls
from p2pfs.net.stream import Limits
from p2pfs.node.member_verbs import HAVE_MOST
from p2pfs.node.storing import MAX_DEPTH, MAX_REPLICAS

CIDS = [CID(RAW, multihash(SHA2_256, b"%d" % number)) for number in range(HAVE_MOST + 1)]
ME = Member("", "evil", ("127.0.0.1:9",), incarnation=1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Cluster(tmp_path_factory.mktemp("limits"), 1) as cluster:
        yield cluster[0]


@pytest.fixture(scope="module")
def target(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(node.address, node.options["cluster.secret"], tmp_path_factory.mktemp("member"))


def message(verb: str, body: bytes) -> bytes:
    return b"%s %d\r\n%s" % (verb.encode(), len(body), body)


def news(target: Target, rows: int) -> bytes:
    others = [ME._replace(id=f"other-{number}") for number in range(rows)]
    # Who has left is nobody's owner: the other tests have a cluster of one.
    return wire.dump_json(news_to_wire(target.member._replace(state="left"), others))


def blocks(count: int) -> bytes:
    return batches.pack((cid, b"x") for cid in CIDS[:count])


MEMBER: dict[str, tuple[bytes, type[errors.P2pfsError]]] = {
    "a line": (b"GET " + b"x" * wire.MAX_LINE + b"\r\n", errors.TooLong),
    "digits of a length": (b"PUTS " + b"0" * (wire.MAX_LENGTH_DIGITS + 1) + b"\r\n", errors.ProtocolError),
    "a block": (b"PUT %s %d\r\n" % (str(CIDS[0]).encode(), wire.MAX_BLOCK + 1), errors.TooBig),
    "a message": (b"PIN %d\r\n" % (wire.MAX_MESSAGE + 1), errors.TooBig),
    "CIDs of HAVE": (message("HAVE check", batches.pack_cids(CIDS)), errors.TooBig),
    "lines of DISCARD": (message("DISCARD", b"\n".join(b"%s 1" % str(cid).encode() for cid in CIDS)), errors.TooBig),
    "blocks of PUTS": (message("PUTS", blocks(batches.MOST + 1)), errors.TooBig),
    "a block of PUTS": (message("PUTS", batches.pack([(CIDS[0], bytes(wire.MAX_SMALL + 1))])), errors.TooBig),
    "CIDs of GETS": (message("GETS", batches.pack_cids(CIDS[: batches.MOST + 1])), errors.TooBig),
    "a bucket": (message("BUCKET 256", b""), errors.ProtocolError),
    "digests of a bucket": (b"BUCKET 0 %d\r\n" % (wire.MAX_BLOCK + 1), errors.TooBig),
    "half a digest": (message("BUCKET 0", b"x" * 17), errors.ProtocolError),
    "brackets in brackets": (message("PIN", b"[" * 500_000), errors.ProtocolError),
    "a version": (b"HELLO p2pfs/2 client 0123456789abcdef 0\r\n", errors.ProtocolError),
    "another's id": (b"HELLO p2pfs/1 %s 0123456789abcdef 0\r\n" % (b"a" * 52), errors.IdentityRefused),
    "digits of a time": (b"HELLO p2pfs/1 x 0 %s\r\n" % (b"9" * 21), errors.ProtocolError),
}
LOCAL: dict[str, tuple[bytes, type[errors.P2pfsError]]] = {
    "folders in folders": (message("STORE", b"{}") + b"DIR d\r\n" * (MAX_DEPTH + 1), errors.Refused),
    "copies": (message("STORE", b'{"replicas": %d}' % (MAX_REPLICAS + 1)) + b"FILE -\r\nEND\r\n", errors.UsageError),
    "a pin's name": (message("STORE", b'{"name": "%s"}' % (b"n" * (MAX_NAME_BYTES + 1))), errors.UsageError),
    "control characters in a name": (message("STORE", rb'{"name": "a\u001b[2Jb"}'), errors.UsageError),
    "an entry's name": (message("STORE", b"{}") + b"DIR -\r\nSMALL %s 1\r\nxEND\r\n" % (b"n" * 256), errors.UsageError),
    "a name upwards": (message("STORE", b"{}") + b"DIR -\r\nSMALL .. 1\r\nxEND\r\n", errors.UsageError),
    "a link's target": (message("STORE", b"{}") + b"LINK - 4097\r\n", errors.TooBig),
    "a small file": (message("STORE", b"{}") + b"SMALL - %d\r\n" % (wire.MAX_SMALL + 1), errors.TooBig),
    "a part": (message("STORE", b"{}") + b"FILE -\r\nPART %d\r\n" % (wire.MAX_PART + 1), errors.TooBig),
    "a frame of a CAR": (message("IMPORT", b"{}") + b"PART 4\r\n\xff\xff\xff\x7fEND\r\n", errors.Malformed),
    "CIDs of READS": (message("READS", batches.pack_cids(CIDS[: batches.MOST + 1])), errors.TooBig),
    "a REF": (b"STAT %s\r\n" % (b"x" * wire.MAX_LINE), errors.TooLong),
}


def heard(sock: socket.socket, sent: bytes) -> bytes:
    """The last line of the answer, which is all of it but for progress."""
    answer = b""
    with contextlib.suppress(OSError):
        sock.sendall(sent)
    sock.settimeout(Limits().control_answer_s)
    with contextlib.suppress(OSError):
        while b"ERR " not in answer or not answer.endswith(b"\n"):
            piece = sock.recv(65536)
            if not piece:
                break
            answer += piece
    return answer[answer.find(b"ERR ") :]


def check_served(node: Node) -> None:
    with Client(str(node.control)) as client:
        # The buffer is given back after the answer, which may be here before.
        wait_until(lambda: client.status().buffers_in_use == 0, 60, "no buffer is in use")
        assert [peer.name for peer in client.peers() if peer.self] == [node.name]


@pytest.mark.parametrize("case", MEMBER)
def test_a_member_hears_what_is_too_much(node: Node, target: Target, case: str) -> None:
    sent, error = MEMBER[case]
    with tls.connect(target.plain(), target.context, target.address, 10.0) as sock:
        assert heard(sock, sent).startswith(b"ERR %s " % error.token.encode())
    check_served(node)


@pytest.mark.parametrize(("verb", "most"), [("PING", MAX_NEWS), ("MEMBERS", MAX_ROWS)])
def test_news_have_so_many_rows(node: Node, target: Target, verb: str, most: int) -> None:
    with contextlib.closing(target.connect()) as connection:
        connection.request(verb, body=news(target, most))
        with pytest.raises(errors.ProtocolError, match=f"at most {most} rows"):
            connection.request(verb, body=news(target, most + 1))
    check_served(node)


def test_who_speaks_for_another_member_is_refused(node: Node, target: Target) -> None:
    body = wire.dump_json(news_to_wire(ME._replace(id="a" * 52), []))
    with contextlib.closing(target.connect()) as connection, pytest.raises(errors.IdentityRefused, match="speaks as"):
        connection.request("MEMBERS", body=body)
    assert not any(row["id"] == "a" * 52 for row in node.json("peers"))


@pytest.mark.parametrize("case", LOCAL)
def test_a_user_hears_what_is_too_much(node: Node, case: str) -> None:
    sent, error = LOCAL[case]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(node.control))
        assert heard(sock, sent).startswith(b"ERR %s " % error.token.encode())
    check_served(node)


def test_nothing_of_it_was_kept(node: Node, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a file")
    node.cli("store", str(tmp_path / "f"))
    assert [row["name"] for row in node.json("ls")] == ["f"]
    assert node.metric("p2pfs_greenlet_failures_total") == 0
    assert "Traceback" not in node.log()
