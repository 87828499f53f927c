"""No secret is ever shown, whatever happens: in logs, output, errors, process arguments, metrics or answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
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
from tests.sockets import material

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

    def run(self, *words: str, typed: str = "", **environment: str) -> int:
        """A command of `p2pfs-node` that ends by itself; its exit code."""
        done = subprocess.run(
            [sys.executable, NODE, *words], capture_output=True, timeout=60, check=False, input=typed.encode(),
            env={**os.environ, **environment},
        )
        # With --print-config the secret is printed as `(set)`, or it is a leak.
        self.add(" ".join(words), done.stdout + done.stderr)
        return done.returncode

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
        wait_until(lambda: list(cluster[0].states().values()) == ["alive", "alive"], 60, "two nodes meet")
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
    with socket.create_connection(split_address(node.address), timeout=60) as plain, \
            context.wrap_socket(plain) as secure:
        secure.sendall(b"GET x\r\nUNPIN x\r\nGRANT 2\r\n{}\xff\xfe\r\n")
        with contextlib.suppress(OSError):
            while piece := secure.recv(65536):
                seen.add("answers over TLS", piece)
    with socket.create_connection(split_address(node.address), timeout=60) as plain:
        plain.sendall(b"STATUS\r\n" * 100)
        with contextlib.suppress(OSError):
            seen.add("the answer to a stranger", plain.recv(65536))


def tokens(seen: Seen, node: Node, folder: Path) -> list[str]:
    """Invitations taken up, altered, used twice, typed wrongly: what each side says of it, and writes. The tokens."""
    often, once = (str(node.json("invite", *words)[0]["token"]) for words in ([], ["--once"]))
    altered = often[:60] + ("a" if often[60] != "a" else "b") + often[61:]
    for number, (token, code) in enumerate((
        (once, 0), (once, 9), (altered, 9), (often, 0), (often[:-1], 9), (f"{often}{once}", 9), (f"{often} {once}", 9),
    )):
        config = folder / f"joining-{number}" / "node.ini"
        data_dir = config.parent / "data"
        assert seen.run("join", "-c", str(config), "-o", f"node.data_dir={data_dir}", "-", typed=token) == code
        if code == 0:
            seen.add(f"{config}", config.read_bytes())
            seen.run("-c", str(config), "--print-config")
    assert seen.run("join", often, once) == 2
    assert seen.run("--token", often) == 2
    return [often, once, altered]


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
    wait_until(lambda: "greenlet" in node.log().rpartition("chmod")[2], 60, "a dump")


def commands(seen: Seen, folder: Path) -> None:
    """`p2pfs-node` asked to print and check, rightly and wrongly."""
    config = folder / "node.ini"
    for section in (
        f"secret = {OURS}", f"secret = {BAD}", f"secrte = {OURS}", f"secret {OURS}", f"secret: {OURS}",
        f"secret = {OURS}\nsecret_file = /nowhere", f"secret = {OURS}\nsecret = {NEXT}",
        f"secret_file = {OURS}", f"tls_key = {OURS}\ntls_cert = {config}\ntls_ca = {config}",
        f"secret = {OURS}\nreplicas = 0",
    ):
        config.write_text(f"[cluster]\n{section}\n")
        for mode, wanted in ((0o600, "--print-config"), (0o644, "--check-config")):
            config.chmod(mode)
            seen.run("-c", str(config), wanted)
    config.write_text("")
    for override in (
        f"cluster.secret={OURS}", f"cluster.secret={BAD}", f"cluster.secrte={OURS}", f"cluster.secret:{OURS}",
        f"cluster.secret_file={OURS}",
        f"cluster.secret {OURS}", f"cluster-secret={OURS}", f"claster.secret={OURS}", f"secret={OURS}",
    ):
        seen.run("-c", str(config), "-o", override, "--print-config")
    for variable, value in (
        ("P2PFS_CLUSTER_SECRET", OURS), ("P2PFS_CLUSTER_SECRET", BAD), ("P2PFS_CLUSTER_SECERT", OURS),
        ("P2PFS_CLUSTER_SECRET_FILE", OURS),
    ):
        seen.run("-c", str(config), "--print-config", **{variable: value})
    seen.run("--secret", OURS)
    for override in (f"cluster.secret={OURS}", f"cluster.secret:{OURS}", f"cluster.secret_file={OURS}"):
        seen.run("init", "-c", str(folder / "new" / "node.ini"), "-o", override)
    assert seen.run("init", "-c", str(folder / "new" / "node.ini"), "-o", f"node.data_dir={folder / 'new'}") == 0


def test_no_command_shows_a_secret(tmp_path: Path) -> None:
    seen = Seen()
    commands(seen, tmp_path)
    made = (tmp_path / "new" / "secret").read_bytes().strip()
    assert seen.leaks({"ours": OURS.encode(), "next": NEXT.encode(), "bad": BAD.encode(), "init's": made}) == []
    assert any(b"(set)" in text for _, text in seen.texts)


def test_a_secret_is_never_shown(cluster: Cluster, tmp_path: Path) -> None:
    seen, (node, other, stranger) = Seen(), cluster
    wait_until(lambda: "another cluster" in stranger.log() or "certificate" in stranger.log(), 60, "strangers met")
    work(seen, node, tmp_path)
    garbage(seen, node, tmp_path)
    given = tokens(seen, node, tmp_path)
    reloads(node)
    other.cli("cat", "nothing", check=False)
    for one in cluster:
        assert one.process is not None
        seen.add(f"arguments of {one.name}", Path(f"/proc/{one.process.pid}/cmdline").read_bytes())
        one.stop()
        seen.add(f"log of {one.name}", one.log())
    hidden = {"ours": OURS.encode(), "next": NEXT.encode(), "theirs": THEIRS.encode(), "bad": BAD.encode()}
    for one in cluster:
        hidden |= {f"{one.name} {name}": key_of(one.data_dir / name) for name in ("identity.pem", "client/key.pem")}
    hidden |= {f"a token from {token[50:]}": token[-60:].encode() for token in given}
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


def with_own_authority(node: Node, folder: Path) -> Path:
    """Have it use files as an operator's own authority makes them; the key's."""
    files = material(folder)
    Path(files.key).chmod(0o600)
    del node.options["cluster.secret"]
    node.options |= dict(zip(("cluster.tls_ca", "cluster.tls_cert", "cluster.tls_key"), files.files, strict=True))
    return Path(files.key)


@pytest.mark.parametrize("name", ["secret_file", "identity.pem", "tls_key"])
def test_a_reload_with_a_loose_file_is_refused_and_the_node_goes_on_as_it_was(tmp_path: Path, name: str) -> None:
    """Old secret, old connections, old settings; and the command that it names mends it."""
    cluster = Cluster(tmp_path, 1, cluster__replicas="1", cluster__write_quorum="1")
    with contextlib.closing(cluster):
        node = cluster[0]
        config = tmp_path / "node.ini"
        config.write_text("[cluster]\nwrite_quorum = 1\n[log]\nlevel = info\n")
        node.config = config
        if name == "tls_key":
            path = with_own_authority(node, tmp_path / "pki")
            folder = Path(material(tmp_path / "client", role="admin").key).parent
        else:
            secret = tmp_path / "secret"
            secret.write_text(OURS + "\n")
            secret.chmod(0o600)
            node.options |= {"cluster.secret": "", "cluster.secret_file": str(secret)}
            path = secret if name == "secret_file" else node.data_dir / name
            folder = node.data_dir / "client"
        node.start()
        (folder / "key.pem").chmod(0o600)
        before = (node.data_dir / "tls" / "ca.pem").read_bytes() if name != "tls_key" else b""
        with Client(node.address, tls_dir=folder) as client:
            assert len(client.peers()) == 1
            if name != "tls_key":
                secret.write_text(f"{NEXT}\n{OURS}\n")
            config.write_text("[log]\nlevel = debug\n")
            path.chmod(0o644)
            node.signal(signal.SIGHUP)
            wait_until(lambda: f"not reloaded, the old one stays: {path} holds" in node.log(), 60, "a refusal")
            (command,) = re.findall(r"chmod 600 .*", node.log())
            assert command == f"chmod 600 {path}"
            assert len(client.peers()) == 1
        with Client(node.address, tls_dir=folder) as client:
            assert len(client.peers()) == 1
            if name != "tls_key":
                assert (node.data_dir / "tls" / "ca.pem").read_bytes() == before
                client.grant("eve", tmp_path / "eve", role="read", expires_s=600)
                assert (tmp_path / "eve" / "ca.pem").read_bytes() == before, "it signs with the old secret only"
        assert " debug " not in node.log()
        subprocess.run(command.split(), check=True)
        node.signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in node.log(), 60, "a reload")
        node.cli("cat", "nothing", check=False)
        wait_until(lambda: " debug " in node.log(), 60, "a line of the new level")
