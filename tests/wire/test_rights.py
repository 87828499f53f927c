"""Each verb over real TLS with each role: allowed, or refused in a way that says what lacks and leaves all in step."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core import wire, words
from p2pfs.core.cid import CID
from p2pfs.core.wire import Line
from p2pfs.net import tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Server, Session
from tests.sockets import Running, material, running, semaphore, spawn
from tests.wire.test_any_bytes import ALL, BETWEEN_MEMBERS, READING, STORING

MAY = {"read": READING, "store": STORING, "admin": ALL, "": f"{ALL} {BETWEEN_MEMBERS}"}
"""By role; without one it is a member. Written by hand, so that a change of the table shows."""
WORDS: dict[words.Type, Any] = {
    words.INT: 1, words.END: None, words.TEXT: "x", words.MODE: "check",
    words.CID_WORD: CID(0x55, b"\x12\x20" + bytes(32)),
}


def answer(session: Session, line: Line) -> None:
    """Any verb: its name."""
    session.body()
    if line.verb.streams_in:
        while session.next_record().verb.name != "END":
            pass
    session.reply(line.verb.name.encode())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("node"), dict.fromkeys(wire.VERBS, answer)) as started:
        yield started


@pytest.fixture(scope="module", params=MAY)
def caller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, node: Running) -> Iterator[Any]:
    """A role, and how to connect with it."""
    folder = tmp_path_factory.mktemp("caller")
    context = tls.client_context(*material(folder, role=request.param).files)
    return request.param, lambda: connect(node.address, context, 10.0, node.node.id)


def ask(connection: Connection, verb: wire.Verb) -> bytes:
    body = None if verb.max_body is None else b""
    args = [WORDS[kind] for _, kind in verb.args]
    if not verb.streams_in:
        return connection.request(verb.name, *args, body=body)
    stream = connection.stream(verb.name, *args, body=body)
    connection.send_record("END")
    assert list(stream) == []
    return stream.result


@pytest.mark.parametrize("name", wire.VERBS)
def test_a_role_allows_what_it_should_and_nothing_else(name: str, caller: Any) -> None:
    role, opened = caller
    verb = wire.VERBS[name]
    with contextlib.closing(opened()) as connection:
        if name in MAY[role].split():
            assert ask(connection, verb) == name.encode()
            return
        with pytest.raises(errors.Forbidden, match=f"{name} (needs|is for)") as refused:
            ask(connection, verb)
        assert refused.value.exit_code == 9
        if not verb.streams_in:
            assert connection.request("STATUS") == b"STATUS"


@pytest.mark.parametrize(("role", "name", "text"), [
    ("read", "STORE", "STORE needs the right to store; you may read only"),
    ("read", "UNPIN", "UNPIN needs the right to administer; you may read only"),
    ("store", "DRAIN", "DRAIN needs the right to administer; you may read and store only"),
    ("admin", "GET", "GET is for members of the cluster only"),
    ("admin", "FETCH", "FETCH needs the control socket of a node on the same machine"),
    ("none", "STATUS", "STATUS needs the right to read; you may do nothing"),
])
def test_the_refusal_says_which_right_lacks(node: Running, tmp_path: Path, role: str, name: str, text: str) -> None:
    context = tls.client_context(*material(tmp_path, role=role).files)
    with contextlib.closing(connect(node.address, context, 10.0, None)) as connection, \
            pytest.raises(errors.Forbidden) as refused:
        ask(connection, wire.VERBS[name])
    assert str(refused.value) == text


# --- the control socket ------------------------------------------------------------------------------

NOBODY = 65534
ASK_AS = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    sock.connect(sys.argv[1])
    sock.sendall(b"STATUS\\r\\nRESTORE x\\r\\nUNPIN x\\r\\nGET %s\\r\\n" % sys.argv[3].encode())
    sock.shutdown(socket.SHUT_WR)
    while piece := sock.recv(65536):
        sys.stdout.write(piece.decode())
"""


def ask_as(uid: int, path: Path) -> list[str]:
    """What a process of another user is answered."""
    interpreter = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
    done = subprocess.run(
        [interpreter, "-I", "-c", ASK_AS, str(path), str(uid), str(WORDS[words.CID_WORD])],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"(?:OK|ERR) \w+", done.stdout)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
@pytest.mark.parametrize(("uid", "role", "may"), [
    (0, "read", 3), (NOBODY, "read", 1), (NOBODY, "store", 2), (NOBODY, "admin", 3),
])
def test_other_users_of_the_control_socket_have_the_rights_configured(
    open_folder: Path, uid: int, role: str, may: int
) -> None:
    server = Server(spawn, semaphore)
    try:
        server.listen_unix(str(open_folder / "control.sock"), 0o666, lambda: role)
        server.start(dict.fromkeys(wire.VERBS, answer))
        said = ask_as(uid, open_folder / "control.sock")
    finally:
        server.close()
    # Members' verbs are for members, whoever asks.
    assert said == ["OK 6", "OK 7", "OK 5"][:may] + ["ERR FORBIDDEN"] * (4 - may)


@pytest.mark.parametrize(("uid", "is_over"), [(NOBODY, True), (os.geteuid(), False)])
def test_connections_of_other_users_end_with_the_role_that_they_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, is_over: bool
) -> None:
    monkeypatch.setattr("p2pfs.net.listen.peer_uid", lambda sock: uid)
    roles = ["admin"]
    server = Server(spawn, semaphore)
    path = str(tmp_path / "control.sock")
    server.listen_unix(path, 0o600, lambda: roles[0])
    try:
        server.start(dict.fromkeys(wire.VERBS, answer))
        with contextlib.closing(connect(path, None, 10.0, None)) as connection:
            assert connection.request("UNPIN", "x") == b"UNPIN"
            roles[0] = "read"
            assert server.retire() == is_over
            if is_over:
                with pytest.raises(errors.Unreachable):
                    connection.request("UNPIN", "x")
            else:
                assert connection.request("UNPIN", "x") == b"UNPIN"
        with contextlib.closing(connect(path, None, 10.0, None)) as connection:
            assert connection.request("STATUS") == b"STATUS"
    finally:
        server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
def test_the_mode_keeps_other_users_out(open_folder: Path) -> None:
    with running(open_folder, {}) as node, pytest.raises(AssertionError, match="PermissionError"):
        ask_as(NOBODY, Path(node.control))
