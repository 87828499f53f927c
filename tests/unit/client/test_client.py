"""Connections of a client: where to, for how long, shared by threads, over TLS."""

from __future__ import annotations

import errno
import io
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfs import Client, config, errors
from p2pfs.client import files, pool
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Gone, Link, Talk, data_of, read_tree

MIB = 1024 * 1024
WAIT_S = 60.0


def test_no_node_says_where_and_how_to_start_one(tmp_path: Path) -> None:
    with Client(str(tmp_path / "none.sock")) as client, pytest.raises(errors.Unreachable) as caught:
        client.status()
    assert "p2pfs-node -c FILE" in str(caught.value)
    assert str(tmp_path / "none.sock") in str(caught.value)


def test_a_socket_of_others_and_a_host_without_a_port_have_their_own_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("nas") as client, pytest.raises(errors.Unreachable, match="another machine is HOST:PORT"):
        client.status()

    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with Client("/run/p2pfs/control.sock") as client, pytest.raises(errors.Unreachable, match="join the group"):
        client.status()


def test_a_connection_is_used_again_unless_the_node_closed_it(node: FakeNode, client: Client) -> None:
    client.status()
    client.status()
    with pytest.raises(errors.NotFound):
        client.stat("nothing")
    client.status()
    assert node.connections == 1
    node.hang_up()
    client.status()
    assert node.connections == 2


def in_child(work: Callable[[], bool]) -> int:
    """The exit code of a forked process: 0 when `work` was true there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: those of the fake node
        child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_shares_no_connection_with_its_parent(node: FakeNode, client: Client) -> None:
    longer, shorter = data_of(3 * MIB), data_of(100_000)
    rest = client.read(node.keep(longer))
    begin = next(rest)  # a connection that is in use at the fork
    client.status()  # and one that is idle
    cid = node.keep(shorter)

    def read() -> bool:
        warnings.simplefilter("error")
        rest.close()
        is_right = b"".join(client.read(cid)) == shorter
        client.close()
        return is_right

    assert in_child(read) == 0
    assert begin + b"".join(rest) == longer, "the child ended its parent's connection"
    client.status()
    assert node.connections == 3, "the parent goes on with its two, and the child had one of its own"


@pytest.mark.parametrize("path", ["a\0b", "half \ud800"])
def test_what_can_be_a_path_nowhere_is_an_error_of_ours(node: FakeNode, client: Client, path: str) -> None:
    cid = node.keep(b"x")
    for call in (
        lambda: client.store(path), lambda: client.store(path, encrypt="link"), lambda: client.import_car(path),
        lambda: client.get(cid, path), lambda: client.export_car(cid, path),
        lambda: client.grant("n", path, role="read", expires_s=60.0), lambda: Client(tls_dir=path),
        lambda: Client(node.address, key_file=path).store(io.BytesIO(b"x"), encrypt="key-file"),
    ):
        with pytest.raises(errors.UsageError, match="is no path"):
            call()


def test_a_time_that_never_ends_is_refused(client: Client, tmp_path: Path) -> None:
    for seconds in (float("nan"), float("inf")):
        for call in (
            lambda seconds=seconds: client.grant("n", tmp_path / "g", role="read", expires_s=seconds),
            lambda seconds=seconds: client.invite(lasts_s=seconds),
        ):
            with pytest.raises(errors.UsageError, match="no time that ends"):
                call()


def test_threads_share_a_client(node: FakeNode, client: Client) -> None:
    cids = [node.keep(data_of(100_000 + i)) for i in range(8)]
    right: list[bool] = []

    def read(index: int) -> None:
        right.extend(b"".join(client.read(cids[index])) == data_of(100_000 + index) for _ in range(5))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert right == [True] * 40
    assert node.connections <= 8


def test_the_deadline_ends_a_silent_answer(node: FakeNode) -> None:
    is_over = threading.Event()
    node.hooks["STATUS"] = lambda talk, line: is_over.wait(WAIT_S) and None
    with Client(node.address, timeout_s=0.05) as client, pytest.raises(errors.DeadlinePassed):
        client.status()
    is_over.set()


def test_the_deadline_is_the_whole_operations(node: FakeNode) -> None:
    def drip(talk: Talk, line: wire.Line) -> None:
        while True:
            talk.part(b"x")

    node.hooks["READ"] = drip
    with Client(node.address, timeout_s=0.1) as client, pytest.raises(errors.DeadlinePassed):
        for _ in client.read("anything"):
            pass


def test_the_deadline_ends_a_body_that_began(node: FakeNode) -> None:
    is_over = threading.Event()

    def stop_in_the_middle(talk: Talk, line: wire.Line) -> None:
        talk.sock.sendall(b"PART 1000\n" + bytes(500))
        is_over.wait(1.5)
        talk.sock.sendall(bytes(100))
        is_over.wait(WAIT_S)
        raise Gone

    node.hooks["READ"] = stop_in_the_middle
    begin = time.monotonic()
    with Client(node.address, timeout_s=2.0) as client, pytest.raises(errors.DeadlinePassed):
        list(client.read("anything"))
    took_s = time.monotonic() - begin
    is_over.set()
    assert took_s < 3.0, "what came late in the middle of a body gave the node as much time again"


def test_a_closed_client_says_so(node: FakeNode) -> None:
    with Client(node.address) as client:
        client.status()
    with pytest.raises(errors.UsageError, match="closed"):
        client.status()


def test_a_remote_address_needs_certificates() -> None:
    with pytest.raises(errors.UsageError, match="--tls-dir"):
        Client("nas:4640")


def test_a_remote_node_gets_and_gives_everything_in_line(remote: tuple[FakeNode, Client], here: Path) -> None:
    node, client = remote
    Path("f").write_bytes(data_of(3 * MIB + 1))
    stored = client.store("f")
    assert node.trees[str(stored.cid)] == data_of(3 * MIB + 1)
    assert "FD" not in node.records
    Path(files.part_path("g", str(stored.cid))).write_bytes(b"of an earlier try" * MIB)
    client.get(stored.cid, "g")
    assert Path("g").read_bytes() == Path("f").read_bytes()
    tree = {b"a": data_of(70_000), b"b": {b"c": b"1", b"l": Link(b"c")}}
    client.get(node.keep(tree), "t")
    assert read_tree(b"t") == tree
    client.store("t")
    assert node.trees[node.pinned["t"]] == tree


def test_a_remote_client_goes_on_with_a_certificate_that_was_replaced(
    remote: tuple[FakeNode, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, client = remote
    client.status()
    client.status()
    assert node.connections == 1
    monkeypatch.setattr(pool, "AGE_S", 0.0)
    client.status()
    assert node.connections == 2
    # What is in the folder is read for each connection.
    Path(str(client._calls.pool._tls_dir), "cert.pem").write_text("nothing")
    with pytest.raises(errors.ConfigError, match=r"cert\.pem"):
        client.status()


def test_a_local_connection_may_be_as_old_as_it_likes(
    node: FakeNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "AGE_S", 0.0)
    client.status()
    client.status()
    assert node.connections == 1


def test_a_remote_refusal_in_mid_stream_is_told(remote: tuple[FakeNode, Client]) -> None:
    node, client = remote
    node.refuse_store_after = 0
    with pytest.raises(errors.NoSpace, match="max_size"):
        client.store(io.BytesIO(data_of(30 * MIB)))


def test_the_default_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2PFS_NODE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(pool, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    own = str(tmp_path / "p2pfs" / "control.sock")
    assert pool.default_address() == own
    (tmp_path / "system.sock").touch()
    assert pool.default_address() == str(tmp_path / "system.sock")
    (tmp_path / "p2pfs").mkdir()
    Path(own).touch()
    assert pool.default_address() == own
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pool, "SYSTEM_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert pool.default_address() == f"{config.default_data_dir(os.environ)}/control.sock", "where the node makes it"
    monkeypatch.setenv("P2PFS_NODE", "nas:4640")
    assert pool.default_address() == "nas:4640"


@pytest.mark.parametrize(
    ("address", "is_path"),
    [("nas:4640", False), ("[::1]:4640", False), ("/run/x.sock", True), ("./a:1", True), ("s", True)],
)
def test_what_is_a_socket_path(address: str, is_path: bool) -> None:
    assert pool.is_socket_path(address) is is_path


def test_importing_the_client_loads_little() -> None:
    code = (
        "import sys, p2pfs; p2pfs.Client; p2pfs.CID; p2pfs.errors\n"
        "print(sorted({'gevent', 'ssl', 'cryptography', 'prometheus_client', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
