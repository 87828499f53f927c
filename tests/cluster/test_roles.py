"""Clients with a role, granted by a real node: what each may from the command line, and what it is told when not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.cluster import CLI, Cluster, Node
from p2pfs import errors


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("roles")
    with Cluster(folder, 1, cluster__replicas="1", cluster__write_quorum="1") as cluster:
        (folder / "file").write_bytes(b"hello")
        cluster[0].cli("store", "--name=kept", str(folder / "file"))
        yield cluster[0]


@pytest.fixture(scope="module")
def folders(node: Node) -> dict[str, Path]:
    """A folder for --tls-dir, by role."""
    for role in ("read", "store", "admin"):
        node.cli("grant", f"--role={role}", "--expires=1h", f"--output={node.folder / role}", role)
    return {role: node.folder / role for role in ("read", "store", "admin")}


def remote(node: Node, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command line over TLS."""
    return subprocess.run(
        [sys.executable, CLI, f"--node={node.address}", f"--tls-dir={folder}", *args],
        capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )


VERBS: dict[str, tuple[str, int]] = {
    "ls": ("read", 0), "cat kept": ("read", 0), "stat kept": ("read", 0), "peers": ("read", 0), "status": ("read", 0),
    "explain kept": ("read", 0), "export kept -o -": ("read", 0), "get kept -o -": ("read", 0),
    "store --name=more FILE": ("store", 0), "restore none": ("store", 3), "import FILE": ("store", 5),
    "rm none": ("admin", 3), "audit": ("admin", 0), "scrub": ("admin", 0), "gc --dry-run": ("admin", 0),
    "drain": ("admin", 8), "forget none": ("admin", 3), "grant --role=read -o OUT x": ("admin", 0),
}
"""The least role of each, and the exit code with which the node then answers."""
RANK = ["read", "store", "admin"]


@pytest.mark.parametrize("role", RANK)
@pytest.mark.parametrize("words", VERBS)
def test_each_verb_of_the_command_line_with_each_role(
    node: Node, folders: dict[str, Path], tmp_path: Path, words: str, role: str
) -> None:
    least, code = VERBS[words]
    names = {"FILE": str(node.folder / "file"), "OUT": str(tmp_path / "out")}
    done = remote(node, folders[role], *(names.get(word, word) for word in words.split()))
    if RANK.index(role) >= RANK.index(least):
        assert done.returncode == code, done.stderr
        assert "right" not in done.stderr
    else:
        needed = {"store": "store", "admin": "administer"}[least]
        assert done.returncode == errors.Forbidden.exit_code == 9
        assert f"needs the right to {needed}; you may read" in done.stderr


def pinned(node: Node, name: str) -> dict[str, Any]:
    """The pin of that name."""
    rows = map(json.loads, node.cli("ls", "--json").stdout.splitlines())
    return next(row for row in rows if row["name"] == name)


def test_who_may_store_cannot_take_copies_or_a_checksum_from_what_is_pinned(
    node: Node, folders: dict[str, Path], tmp_path: Path
) -> None:
    file, car = tmp_path / "file", tmp_path / "car"
    file.write_bytes(os.urandom(2_500_000))  # of several blocks: an import computes no SHA-256
    node.cli("store", "--replicas=3", "--name=dear", str(file))
    before = pinned(node, "dear")
    assert before["replicas"] == 3
    node.cli("export", "dear", "-o", str(car))
    for words in (["store", str(file)], ["import", str(car)]):
        done = remote(node, folders["store"], *words, "--replicas=1", "--name=dear")
        assert done.returncode == 0, done.stderr
        assert pinned(node, "dear") == {**before, "created": pinned(node, "dear")["created"]}
    for role, replicas in (("admin", 1), ("store", 2), ("store", 2)):  # more go, and are what there is then
        assert remote(
            node, folders[role], "store", f"--replicas={replicas}", "--name=dear", str(file)
        ).returncode == 0
        assert pinned(node, "dear")["replicas"] == replicas
    node.cli("rm", "dear")
    assert remote(node, folders["store"], "store", "--replicas=1", "--name=dear", str(file)).returncode == 0
    assert pinned(node, "dear")["replicas"] == 1, "a pin that was removed wants none"


def test_the_nodes_own_client_may_everything(node: Node) -> None:
    assert remote(node, node.data_dir / "client", "scrub").returncode == 0


@pytest.mark.parametrize("wishes", [
    ["--role=root", "x"], ["--role=read", "--expires=1s", "x"], ["--role=read", "--expires=9999d", "x"],
    ["--role=read", "a b"], ["--role=read", "x" * 64], ["--role=read", "a\nb"],
])
def test_what_cannot_be_granted_is_a_usage_error(node: Node, tmp_path: Path, wishes: list[str]) -> None:
    done = node.cli("grant", "-o", str(tmp_path / "out"), *wishes, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "out").exists()


def test_a_key_that_others_can_read_is_not_used(node: Node, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = node.folder / "loose"
    subprocess.run(["cp", "-r", str(folders["read"]), str(folder)], check=True)
    (folder / "key.pem").chmod(0o640)
    done = remote(node, folder, "ls")
    assert done.returncode == 2
    command = done.stderr.rpartition(": ")[2].strip()
    assert command == f"chmod 600 {folder / 'key.pem'}"
    subprocess.run(command.split(), check=True)
    assert remote(node, folder, "ls").returncode == 0


def openssl(*args: Any) -> None:
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def test_an_authority_of_ones_own_issues_roles_with_openssl(tmp_path: Path) -> None:
    """As docs/OPERATIONS.md shows it."""
    (tmp_path / "ca").mkdir()
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", "/CN=our authority",
            "-keyout", tmp_path / "ca/key.pem", "-out", tmp_path / "ca/ca.pem")
    for name, subject in {"node": "/CN=node-a", "eve": "/OU=p2pfs-read/CN=client/UID=eve"}.items():
        folder = tmp_path / name
        folder.mkdir()
        openssl("req", "-newkey", "ed25519", "-nodes", "-subj", subject, "-keyout", folder / "key.pem",
                "-out", folder / "request.pem")
        openssl("x509", "-req", "-in", folder / "request.pem", "-CA", tmp_path / "ca/ca.pem",
                "-CAkey", tmp_path / "ca/key.pem", "-CAcreateserial", "-days", "30", "-out", folder / "cert.pem")
        (folder / "ca.pem").write_bytes((tmp_path / "ca/ca.pem").read_bytes())
    own = {f"cluster__tls_{name}": str(tmp_path / f"node/{name}.pem") for name in ("ca", "cert", "key")}
    with Cluster(tmp_path, 1, cluster__secret="", **own) as cluster:
        assert remote(cluster[0], tmp_path / "eve", "ls").returncode == 0
        refused = remote(cluster[0], tmp_path / "eve", "gc")
        assert (refused.returncode, "administer" in refused.stderr) == (9, True)
        granted = cluster[0].cli("grant", "--role=store", f"--output={tmp_path / 'bob'}", "bob", check=False)
        assert granted.returncode == 9
        assert "/OU=p2pfs-store/CN=client/UID=bob" in granted.stderr
