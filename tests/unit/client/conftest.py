"""A node in memory, a client of it, and an empty folder to work in."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs import Client
from p2pfs.net import certificates, tls
from tests.unit.client.fake_node import FakeNode
from tests.unit.client.runner import Runner


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path) as node:
        yield node


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with Client(node.address) as client:
        yield client


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(node: FakeNode, tmp_path: Path) -> Runner:
    """The command line as a process, in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    return Runner(node, folder)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[FakeNode, Client]]:
    """A node behind TLS, and a client of the same cluster."""
    authority = certificates.derive_authority("a secret")
    now = datetime.datetime.now(datetime.UTC)
    folders = []
    for name in ("n", "client"):
        folder = tmp_path / name
        folder.mkdir()
        key = certificates.new_key()
        (folder / "key.pem").write_bytes(key)
        (folder / "key.pem").chmod(0o600)
        (folder / "ca.pem").write_bytes(authority.pem)
        (folder / "cert.pem").write_bytes(certificates.issue(authority, certificates.load_key(key), name, now))
        folders.append(folder)
    context = tls.server_context(*(str(folders[0] / name) for name in ("ca.pem", "cert.pem", "key.pem")))
    with FakeNode(tmp_path, context) as node, Client(node.address, tls_dir=folders[1]) as client:
        yield node, client
