"""No secret is ever shown, whatever happens: in logs, output, errors, process arguments, metrics or answers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import NODE, Cluster, Node, wait_until
from p2pfs import Client, errors
from p2pfs.net import tls
from p2pfs.net.connection import split_address

OURS, NEXT, THEIRS = (secrets.token_hex(32) for _ in range(3))
BAD = "too-short-for-a-secret-" + secrets.token_hex(2)
"""What is refused is not quoted, either."""

CRASHES = """
import runpy, sys
import gevent.monkey
gevent.monkey.patch_all(thread=False)
sys.argv = sys.argv[2:]
from p2pfs.node import handlers

def crash(services, session, line):
    secret = services.config.secrets[0]
    raise ZeroDivisionError(f"{secret} {secret!r} {services.config} {vars(services)} {vars(services.identity)}")

handlers.HANDLERS["STAT"] = crash
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Seen:
    """Everything that was to be seen from outside, with where."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, bytes]] = []

    def add(self, where: str, text: str | bytes) -> None:
        self.texts.append((where, text if isinstance(text, bytes) else text.encode()))

    def run(self, *words: str, **environment: str) -> None:
        """A command of `p2pfs-node` that ends by itself."""
        done = subprocess.run(
            [sys.executable, NODE, *words], capture_output=True, timeout=60, check=False,
            env={**os.environ, **environment},
        )
        # With --print-config the secret is printed as `(set)`, or it is a leak.
        self.add(" ".join(words), done.stdout + done.stderr)

    def leaks(self, hidden: dict[str, bytes]) -> list[tuple[str, str]]:
        """Which of these are where."""
        return [(what, where) for where, text in self.texts for what, secret in hidden.items() if secret in text]


def key_of(path: Path) -> bytes:
    """The part of a PEM that is the key."""
    return path.read_bytes().splitlines()[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes, whose one verb crashes with all that it knows in its text, and a stranger with another secret."""
    (tmp_path / "crashes.py").write_text(CRASHES)
    options = {"cluster__secret": "", "cluster__replicas": "1", "cluster__write_quorum": "1", "log__level": "debug"}
    cluster = Cluster(tmp_path, 3, **options)
    for node, secret in zip(cluster, (OURS, OURS, THEIRS), strict=True):
        path = tmp_path / f"{node.name}.secret"
        path.write_text(secret + "\n")
        path.chmod(0o600)
        node.options["cluster.secret_file"] = str(path)
        node.prefix = [sys.executable, str(tmp_path / "crashes.py")]
    cluster[1].options["log.format"] = "json"
    try:
        for node in cluster:
            node.start()
        wait_until(lambda: list(cluster[0].states().values()) == ["alive", "alive"], 30, "two nodes meet")
        yield cluster
    finally:
        cluster.close()


def work(seen: Seen, node: Node, folder: Path) -> None:
    """What users do, and what goes wrong then."""
    (folder / "file").write_bytes(b"hello")
    for words in (
        ["store", "--name=kept", f"{folder / 'file'}"], ["ls"], ["cat", "kept"], ["stat", "kept"], ["explain", "kept"],
        ["peers"], ["--json", "status"], ["cat", "nothing"], ["rm", "nothing"], ["audit", "--wait"], ["gc"], ["drain"],
        ["forget", "nobody"], ["forget", "--revoke", "a" * 32], ["grant", "--role=root", "-o", f"{folder / 'x'}", "x"],
        ["grant", "--role=store", "-o", f"{folder / 'eve'}", "eve"],
    ):
        done = node.cli(*words, check=False)
        seen.add(f"p2pfs-cli {' '.join(words)}", done.stdout + done.stderr)
    with Client(str(node.control)) as client:
        seen.add("metrics", client.metrics())
        with pytest.raises(errors.InternalError) as crash:
            client.stat("kept")
        seen.add("the answer of a verb that crashed", str(crash.value))


def garbage(seen: Seen, node: Node, folder: Path) -> None:
    """Lines that are none, over TLS and the control socket; a handshake that fails."""
    context = tls.client_context_from_dir(str(folder / "eve"))
    with socket.create_connection(split_address(node.address), timeout=20) as plain, \
            context.wrap_socket(plain) as secure:
        secure.sendall(b"GET x\r\nUNPIN x\r\nGRANT 2\r\n{}\xff\xfe\r\n")
        with contextlib.suppress(OSError):
            while piece := secure.recv(65536):
                seen.add("answers over TLS", piece)
    with socket.create_connection(split_address(node.address), timeout=20) as plain:
        plain.sendall(b"STATUS\r\n" * 100)
        with contextlib.suppress(OSError):
            seen.add("the answer to a stranger", plain.recv(65536))


def reloads(node: Node) -> None:
    """SIGHUP with a second secret, with one that is none, with a file that others can read; a dump of all greenlets."""
    path = Path(node.options["cluster.secret_file"])
    for text, mode, says in (
        (f"{OURS}\n{NEXT}\n", 0o600, "configuration reloaded"), (f"{OURS}\n{BAD}\n", 0o600, "that is no secret"),
        (f"{OURS}\n", 0o644, f"chmod 600 {path}"),
    ):
        path.write_text(text)
        path.chmod(mode)
        node.signal(signal.SIGHUP)
        wait_until(lambda says=says: says in node.log(), 20, says)
    node.signal(signal.SIGUSR1)
    wait_until(lambda: "greenlet" in node.log().rpartition("chmod")[2], 20, "a dump")


def commands(seen: Seen, folder: Path) -> None:
    """`p2pfs-node` asked to print and check, rightly and wrongly."""
    config = folder / "node.ini"
    for section in (
        f"secret = {OURS}", f"secret = {BAD}", f"secrte = {OURS}", f"secret {OURS}", f"secret: {OURS}",
        f"secret = {OURS}\nsecret_file = /nowhere", f"secret = {OURS}\nsecret = {NEXT}",
        f"secret = {OURS}\nreplicas = 0",
    ):
        config.write_text(f"[cluster]\n{section}\n")
        for mode in (0o600, 0o644):
            config.chmod(mode)
            seen.run("-c", str(config), "--check-config")
            seen.run("-c", str(config), "--print-config")
    config.write_text("")
    for override in (
        f"cluster.secret={OURS}", f"cluster.secret={BAD}", f"cluster.secrte={OURS}", f"cluster.secret:{OURS}",
        f"cluster.secret {OURS}", f"cluster-secret={OURS}", f"claster.secret={OURS}", f"secret={OURS}",
    ):
        for mode in ("--check-config", "--print-config"):
            seen.run("-c", str(config), "-o", override, mode)
    for variable, value in (
        ("P2PFS_CLUSTER_SECRET", OURS), ("P2PFS_CLUSTER_SECRET", BAD), ("P2PFS_CLUSTER_SECERT", OURS),
    ):
        seen.run("-c", str(config), "--print-config", **{variable: value})
    seen.run("--secret", OURS)


def test_a_secret_is_never_shown(cluster: Cluster, tmp_path: Path) -> None:
    seen, (node, other, stranger) = Seen(), cluster
    wait_until(lambda: "another cluster" in stranger.log() or "certificate" in stranger.log(), 30, "strangers met")
    work(seen, node, tmp_path)
    garbage(seen, node, tmp_path)
    reloads(node)
    commands(seen, tmp_path)
    for one in cluster:
        assert one.process is not None
        seen.add(f"arguments of {one.name}", Path(f"/proc/{one.process.pid}/cmdline").read_bytes())
        one.stop()
        seen.add(f"log of {one.name}", one.log())
    hidden = {"ours": OURS.encode(), "next": NEXT.encode(), "theirs": THEIRS.encode(), "bad": BAD.encode()}
    for one in cluster:
        hidden |= {f"{one.name} {name}": key_of(one.data_dir / name) for name in ("identity.pem", "client/key.pem")}
    hidden["the client's key"] = key_of(tmp_path / "eve" / "key.pem")
    assert seen.leaks(hidden) == []
    # The test looks where it should: the crash is there, with what it knew; both logs have their debug lines.
    assert "ZeroDivisionError" in node.log()
    assert "(set)" in node.log()
    assert any(json.loads(line)["level"] == "debug" for line in other.log().splitlines())


@pytest.mark.parametrize("name", ["identity.pem", "client/key.pem", "own-secret"])
def test_loose_keys_stop_the_start_with_the_command_that_mends_them(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, "node-a", {})
    node.start()
    node.stop()
    path = node.data_dir / name
    path.chmod(0o640)
    with pytest.raises(RuntimeError, match="did not become ready"):
        node.start()
    assert node.stop() == errors.ConfigError.exit_code
    command = node.log().splitlines()[-1].rpartition(": ")[2]
    assert command == f"chmod 600 {path}"
    subprocess.run(command.split(), check=True)
    try:
        node.start()
    finally:
        node.kill()
