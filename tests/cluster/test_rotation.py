"""The cluster's secret is replaced as docs/OPERATIONS.md says, while everybody goes on storing and getting."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client, errors
from p2pfs.client import pool
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect
from tests.sockets import material

OLD, NEW = "1" * 64, "2" * 64
ROUNDS = 4
"""That each worker makes with each state of the secrets."""
WAIT_S = 60.0


class Worker:
    """Somebody who does the same thing over and over; `failures` is what went wrong."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.begun = self.done = 0
        self.failures: list[str] = []
        self._step = step
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            self.begun += 1
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # all of them are to be told
                self.failures.append(repr(error))
            self.done += 1

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


class Load:
    """Three nodes, each with a user who stores there and gets at the next one; and two users from afar."""

    def __init__(self, nodes: Cluster, folder: Path) -> None:
        self._nodes = nodes
        self.certificates = folder / "client"
        self._folders = 0
        self.copy_client()
        self.remote = Client(nodes[1].address, tls_dir=self.certificates)
        self.workers = [Worker(self._user(number)) for number in range(3)]
        self.workers += [Worker(self._remote), Worker(self._newcomer)]

    def _user(self, number: int) -> Callable[[], None]:
        ours, other = (Client(str(self._nodes[one % 3].control)) for one in (number, number + 1))

        def step() -> None:
            data = random.randbytes(2_500_000)  # leaves for several owners
            small = random.randbytes(3000)
            for content in (data, small):
                stored = ours.store(_Pipe(content), name=f"f{number}")
                assert stored.replicas == 2
                assert b"".join(other.read(stored.cid)) == content

        return step

    def _remote(self) -> None:
        content = random.randbytes(100_000)
        assert b"".join(self.remote.read(self.remote.store(_Pipe(content), name="remote").cid)) == content

    def _newcomer(self) -> None:
        with Client(self._nodes[2].address, tls_dir=self.certificates) as client:
            assert len(client.peers()) == 3

    def copy_client(self) -> None:
        """A node's folder for clients, to where the clients from afar look for it; in one step."""
        self._folders += 1
        fresh = self.certificates.with_name(f"client-{self._folders}")
        shutil.copytree(self._nodes[0].data_dir / "client", fresh)
        link = self.certificates.with_name("link")
        link.symlink_to(fresh)
        os.replace(link, self.certificates)

    def go_on(self) -> None:
        """Until each worker has made some more rounds."""
        wanted = [worker.done + ROUNDS for worker in self.workers]
        wait_until(
            lambda: all(worker.done >= count for worker, count in zip(self.workers, wanted, strict=True)), WAIT_S,
            "everybody goes on",
        )
        assert not self.failures()

    def failures(self) -> list[str]:
        return [failure for worker in self.workers for failure in worker.failures]

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


class _Pipe:
    """What `store` reads from a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, 3, cluster__replicas="2", cluster__write_quorum="2")
    for node in cluster:
        del node.options["cluster.secret"]
        node.options["cluster.secret_file"] = str(secret_file(node))
        write(node, OLD)
    with cluster:
        yield cluster


def secret_file(node: Node) -> Path:
    return node.folder / f"{node.name}.secret"


def write(node: Node, *secrets: str) -> None:
    path = secret_file(node)
    path.touch(0o600)
    path.write_text("".join(f"{secret}\n" for secret in secrets))


def hand_round(cluster: Cluster, *secrets: str, each: Callable[[], object] = lambda: None) -> None:
    """One step of the procedure, on one node after the other."""
    for node in cluster:
        write(node, *secrets)
        before = node.log().count("configuration reloaded")
        node.signal(signal.SIGHUP)
        wait_until(lambda node=node, before=before: node.log().count("configuration reloaded") > before, 60, "SIGHUP")
        each()


def knock(node: Node, folder: Path, secret: str, *, role: str) -> Connection:
    """A connection of somebody who knows a secret; he takes any node of either for the right one."""
    files = material(folder, secret, accepts=(OLD, NEW), role=role)
    return connect(node.address, tls.client_context(*files.files), 10.0, None)


def test_no_request_fails_and_the_old_secret_is_worth_nothing_afterwards(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "AGE_S", 0.5)
    load = Load(nodes, tmp_path)
    try:
        load.go_on()
        intruders = [knock(node, tmp_path / f"{node.name}-{role}", OLD, role=role)
                     for node in nodes for role in ("", "admin")]
        for intruder in intruders:
            intruder.request("STATUS")
        hand_round(nodes, OLD, NEW, each=load.go_on)
        load.copy_client()  # trusts both
        hand_round(nodes, NEW, OLD, each=load.go_on)
        load.copy_client()  # is of the new secret
        copied = time.monotonic()
        # Programs take up the new certificate by themselves, within AGE_S.
        wait_until(lambda: time.monotonic() > copied + 2 * pool.AGE_S, 60, "connections are renewed")
        load.go_on()
        for intruder in intruders:
            intruder.request("STATUS")  # to the last he is a member
        hand_round(nodes, NEW, each=load.go_on)
        for intruder in intruders:
            with pytest.raises(errors.Unreachable), contextlib.closing(intruder):
                intruder.request("STATUS")
        load.go_on()
    finally:
        load.stop()
    assert not load.failures()
    for number, node in enumerate(nodes):
        for role in ("", "admin"):
            with contextlib.closing(knock(node, tmp_path / f"late-{number}", OLD, role=role)) as connection, \
                    pytest.raises(errors.IdentityRefused):
                connection.request("STATUS")
        assert set(node.states().values()) == {"alive"}
        assert node.metric("p2pfs_greenlet_failures_total") == 0
