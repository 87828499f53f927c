"""A stolen machine: revoked while it runs and while others store, it gets nothing from anybody who knows of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client, errors
from p2pfs.core import wire
from p2pfs.core.cid import CID
from p2pfs.core.member import Member, news_to_wire
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect

BLOCK = CID.parse("bafkreiepinbumzepnoln7co5vea4kf3lcctnqolb3u6bvsellgznymt2uq")


def as_node(thief: Node, target: Node) -> Connection:
    """What the thief of that node's disk can do."""
    files = (str(thief.data_dir / name) for name in ("tls/ca.pem", "tls/cert.pem", "identity.pem"))
    return connect(target.address, tls.client_context(*files), 10.0, None)


def is_refused(thief: Node, target: Node) -> bool:
    with contextlib.closing(as_node(thief, target)) as connection:
        try:
            connection.request("DIGESTS")
        except errors.IdentityRefused as error:
            return "was revoked" in str(error)
    return False


class Load:
    """Stores one small file after the other through a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.stored = 0
        self.failures: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Client(str(self._node.control), timeout_s=60) as client:
            while not self._is_over.is_set():
                try:
                    client.store(_Bytes(os.urandom(300_000)), name=f"load {self.stored}")
                    self.stored += 1
                except errors.P2pfsError as error:
                    self.failures.append(str(error))

    def more(self, count: int) -> None:
        """Wait until so many more are stored."""
        wanted = self.stored + count
        wait_until(lambda: self.stored >= wanted or self.failures, 60, f"{count} more stores")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


class _Bytes:
    """A file object without a descriptor."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        data, self._data = self._data, b""
        return data


def test_a_revoked_node_gets_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3, cluster__replicas="2", cluster__write_quorum="2", repair__audit_interval="2s") as cluster:
        a, b, c = cluster
        row = next(peer for peer in a.json("peers") if peer["name"] == "node-c")
        with Load(a) as load, contextlib.closing(as_node(c, a)) as old:
            load.more(5)
            old.request("DIGESTS")
            done = a.cli("forget", "--revoke", "node-c")
            assert row["id"] in done.stdout
            assert "replace the secret now" in done.stdout
            assert "not told yet" not in done.stdout
            # At once, and on every node: what was open is closed, what is new is refused, whatever is asked.
            with pytest.raises(errors.Unreachable):
                old.request("DIGESTS")
            mine = Member(row["id"], "node-c", (c.address,), incarnation=int(time.time() * 1000) + 10**6)
            asked: list[tuple[str, tuple[object, ...], bytes | None]] = [
                ("HELLO", (wire.VERSION, row["id"], "0" * 16, 0), None),
                ("PING", (), wire.dump_json(news_to_wire(mine, []))),
                ("MEMBERS", (), wire.dump_json(news_to_wire(mine, []))),
                ("GET", (BLOCK,), None), ("PUT", (BLOCK,), b"hi"), ("STATUS", (), None),
            ]
            for node in (a, b):
                assert is_refused(c, node)
                for verb, args, body in asked:
                    with contextlib.closing(as_node(c, node)) as connection, \
                            pytest.raises(errors.IdentityRefused, match="was revoked"):
                        connection.request(verb, *args, body=body)
            load.more(5)
            # It runs and gossips on: nobody takes it back, and it sees for itself that nobody talks to it.
            wait_until(lambda: set(c.states().values()) == {"alive", "dead"}, 60, "node-c is alone")
            load.more(5)
        assert load.failures == []
        for node in (a, b):
            wait_until(lambda node=node: node.states() == {"node-a": "alive", "node-b": "alive"}, 60, "the two others")
            wait_until(lambda node=node: node.cli("status", check=False).returncode == 0, 120, f"{node.name} healthy")
        assert a.cli("get", "load 0", "-o", str(tmp_path / "back")).returncode == 0
        # Durable: nobody who starts again lets it in, nor does it get in by starting again.
        for node in (a, c):
            node.kill()
            node.start()
        assert is_refused(c, a)
        assert is_refused(c, b)
        wait_until(lambda: a.states() == {"node-a": "alive", "node-b": "alive"}, 60, "node-a and node-b")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3, cluster__replicas="1", cluster__write_quorum="1") as cluster:
        yield cluster


def test_who_was_away_learns_of_it_when_it_is_back(pair: Cluster) -> None:
    a, b, c = pair
    b.kill()
    wait_until(lambda: a.states().get("node-b") == "dead", 60, "node-b is dead")
    done = a.json("forget", "--revoke", "node-c")[0]
    assert done["untold"] == ["node-b"]
    assert is_refused(c, a)
    b.start()
    wait_until(lambda: is_refused(c, b), 60, "node-b knows")
    wait_until(lambda: b.states() == {"node-a": "alive", "node-b": "alive"}, 60, "node-b has struck it")
    assert (b.data_dir / "revoked").read_text() == done["id"] + "\n"


def test_a_clients_certificate_is_revoked_by_its_id(pair: Cluster, tmp_path: Path) -> None:
    a, b, _ = pair
    granted = a.json("grant", "--role=admin", f"--output={tmp_path / 'eve'}", "eve")[0]
    with Client(b.address, tls_dir=tmp_path / "eve") as eve:
        assert len(eve.peers()) == 3
        done = a.cli("forget", "--revoke", granted["id"])
        assert granted["id"] in done.stdout
        # Its open connection is closed, and a new one refused, on the other nodes, too.
        with pytest.raises(errors.P2pfsError):
            eve.peers()
        with pytest.raises(errors.IdentityRefused, match="was revoked") as refused:
            eve.peers()
        assert refused.value.exit_code == 9
    assert len(a.states()) == 3


def test_what_cannot_be_revoked_is_said(pair: Cluster) -> None:
    a = pair[0]
    assert a.cli("forget", "--revoke", "node-x", check=False).returncode == 3
    done = a.cli("forget", "--revoke", "node-a", check=False)
    assert (done.returncode, "this node itself" in done.stderr) == (9, True)


def test_a_revoked_seed_is_not_talked_to_and_does_not_start_where_it_knows(pair: Cluster) -> None:
    a, b, c = pair
    c.kill()
    id = b.json("forget", "--revoke", "node-a")[0]["id"]
    # With nobody left to talk to it looks for its seed.
    wait_until(lambda: f"seed {a.address}: {a.address}: {id} was revoked" in b.log(), 60, "node-b refuses its seed")
    a.kill()
    (a.data_dir / "revoked").write_text(f"{id}\n")
    with pytest.raises(RuntimeError, match="did not become ready"):
        a.start()
    assert a.stop() == errors.Refused.exit_code
    assert f"the identity of this node, {id}, was revoked" in a.log()
