"""`grant`: a folder that only its owner can read, complete or not there."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.client import Client
from p2pfs.core import wire
from p2pfs.net import certificates
from tests.unit.client.fake_node import FakeNode, Talk
from tests.unit.client.runner import Runner


def test_the_key_stays_here_and_the_folder_is_private(node: FakeNode, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    granted = client.grant("alice", folder, role="store", expires_s=3600.5)
    assert granted == ("c" * 32, "alice", "store", 1800000000, str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "ca.pem": 0o600, "cert.pem": 0o600, "key.pem": 0o600,
    }
    asked = node.options
    assert (asked["name"], asked["role"], asked["seconds"]) == ("alice", "store", 3600)
    key = certificates.load_key((folder / "key.pem").read_bytes())
    assert certificates.requested_key(asked["request"].encode()) == key.public_key()
    assert "PRIVATE" not in str(asked)
    assert (folder / "cert.pem").read_text() == "the certificate\n"
    assert (folder / "ca.pem").read_text() == "the ca\n"


def test_nothing_is_left_of_a_refused_one(node: FakeNode, client: Client, tmp_path: Path) -> None:
    def refuse(talk: Talk, line: wire.Line) -> None:
        raise errors.Forbidden("GRANT needs the right to administer; you may read only")

    node.hooks["GRANT"] = refuse
    with pytest.raises(errors.Forbidden):
        client.grant("alice", tmp_path / "alice", role="read", expires_s=60)
    assert not (tmp_path / "alice").exists()


def test_what_exists_stays(node: FakeNode, client: Client, tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir()
    with pytest.raises(errors.Refused, match="exists"):
        client.grant("alice", tmp_path / "alice", role="read", expires_s=60)
    with pytest.raises(errors.NotFound):
        client.grant("alice", tmp_path / "no" / "alice", role="read", expires_s=60)
    assert not node.requests or node.requests[-1][0] != "GRANT"


def test_the_command_says_who_may_what_until_when(node: FakeNode, run: Runner) -> None:
    done = run("grant", "--role=read", "--expires=12h", "-o", "alice", "alice")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"alice: alice may read until 2027-01-15 08:00 UTC; id {'c' * 32}\n".encode()
    assert node.options["seconds"] == 12 * 3600
    assert run("grant", "-o", "bob", "bob").returncode == errors.UsageError.exit_code
    assert run("grant", "--role=read", "bob").returncode == errors.UsageError.exit_code
