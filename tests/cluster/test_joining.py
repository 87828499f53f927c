"""From nothing to a cluster by `init`, `invite` and `join`, with real nodes; and which tokens are good no more."""

from __future__ import annotations

import json
import random
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, free_port, wait_until
from p2pfs.core.invitation import PREFIX, format_token, parse_token
from p2pfs.net import certificates
from tests.sockets import material

OPTIONS = {"storage.reserve_free": "0"}


def new_node(folder: Path, name: str) -> Node:
    return Node(folder, name, dict(OPTIONS))


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Node]:
    """The first node of a cluster, running."""
    node = new_node(tmp_path, "a")
    node.options |= {"cluster.replicas": "2", "storage.chunker": "fixed-256KiB", "repair.audit_interval": "1s"}
    assert made(node.make("init"))
    node.start()
    yield node
    node.kill()


def made(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (9, ""), done.stderr
    return done.stderr


def invite(node: Node, *words: str) -> str:
    return str(node.json("invite", *words)[0]["token"])


def altered(token: str) -> str:
    """Another letter in the middle, as by a slip of the pen."""
    return token[:60] + ("a" if token[60] != "a" else "b") + token[61:]


def test_a_cluster_from_nothing(tmp_path: Path) -> None:
    a, b, c = (new_node(tmp_path, name) for name in "abc")
    a.options |= {"cluster.replicas": "2", "storage.chunker": "fixed-256KiB"}
    file = tmp_path / "f.bin"
    file.write_bytes(random.randbytes(12 * 1024 * 1024))
    (token,) = re.findall(rf"^  p2pfs-node join ({PREFIX}\w+)$", made(a.make("init")), re.MULTILINE)
    try:
        a.start()
        cid = a.json("store", "--replicas=1", str(file))[0]["cid"]
        # The one that init printed; the node was not even running then.
        assert f"p2pfs-node -c {b.folder}" in made(b.make("join", token))
        b.start()
        wait_until(lambda: b.states() == {"a": "alive", "b": "alive"}, 60, "b is a member")
        assert made(c.make("join", "-", input=a.cli("invite", "--once").stdout))
        c.start()
        wait_until(lambda: b.states() == dict.fromkeys("abc", "alive"), 60, "everybody knows c")
        b.cli("get", cid, "-o", str(tmp_path / "back.bin"))
        assert (tmp_path / "back.bin").read_bytes() == file.read_bytes()
        wait_until(lambda: c.json("status", check=False)[0]["blocks"] > 3, 60, "c gets its share of what was there")
        written = [(node.folder / f"{node.name}.conf").joinpath for node in (a, b, c)]
        assert len({conf("secret").read_text() for conf in written}) == 1
        assert {stat.S_IMODE(conf("secret").stat().st_mode) for conf in written} == {0o600}
        for conf in written:  # what all nodes should have alike
            assert "\nreplicas = 2\n" in conf("node.ini").read_text()
            assert "\nchunker = fixed-256KiB\n" in conf("node.ini").read_text()
        secret = written[0]("secret").read_text().strip()
        for node in (a, b, c):
            assert secret not in node.log()
            assert PREFIX not in node.log()
    finally:
        for node in (a, b, c):
            node.kill()


def test_tokens_that_are_not_good_any_more(first: Node, tmp_path: Path) -> None:
    joining = new_node(tmp_path, "b")
    once, often, withdrawn, expired = invite(first, "--once"), invite(first), invite(first), invite(first)
    assert made(new_node(tmp_path, "c").make("join", once))
    assert "was for one use, and was used: by c at 127.0.0.1" in refused(joining.make("join", once))
    assert "copy it again" in refused(joining.make("join", altered(often)))
    longer = format_token(parse_token(often)._replace(expires=parse_token(often).expires + 86400))
    assert "does not know this invitation" in refused(joining.make("join", longer))
    old = format_token(parse_token(often)._replace(expires=1_700_000_000))
    assert "the invitation has expired" in refused(joining.make("join", old))

    # The node's clock is what counts: here the time has come for one that claims to be good for an hour yet.
    def file_of(token: str) -> Path:
        id = certificates.derive_authority(token, certificates.INVITATION).id
        return first.data_dir / "invitations" / f"{id}.pem"

    head, _, rest = file_of(expired).read_text().partition("\n")
    file_of(expired).write_text(f"{json.dumps(json.loads(head) | {'expires': 1_700_000_000})}\n{rest}")
    file_of(withdrawn).unlink()
    reload(first)
    for token in (expired, withdrawn):
        assert "does not know this invitation" in refused(joining.make("join", token))
    # A restart forgets neither those that are open nor those that were used.
    first.stop()
    first.start()
    assert "was used" in refused(joining.make("join", once))
    assert not (tmp_path / "b.conf" / "secret").exists()
    assert not (tmp_path / "b.conf" / "node.ini").exists()
    assert made(joining.make("join", often))
    assert made(new_node(tmp_path, "d").make("join", often))


def reload(node: Node) -> None:
    before = node.log().count("configuration reloaded")
    node.signal(signal.SIGHUP)
    wait_until(lambda: node.log().count("configuration reloaded") > before, 60, "SIGHUP was heard")


def test_what_is_there_is_not_overwritten_and_no_token_is_used_up_for_it(first: Node, tmp_path: Path) -> None:
    token = invite(first, "--once")
    again = new_node(tmp_path, "a")
    files = [tmp_path / "a.conf" / name for name in ("node.ini", "secret")]
    before = [file.read_bytes() for file in files]
    assert "is there already" in refused(again.make("init"))
    assert "is there already" in refused(again.make("join", token))
    files[0].rename(tmp_path / "elsewhere")
    assert "secret is there already: is this machine a member?" in refused(again.make("join", token))
    assert f"{first.data_dir} is in use" in refused(again.make("init"))
    files[1].rename(tmp_path / "elsewhere too")
    assert f"{first.data_dir} belongs to a cluster already" in refused(again.make("init"))
    assert f"{first.data_dir} belongs to a cluster already" in refused(again.make("join", token))
    for file, name, content in zip(files, ("elsewhere", "elsewhere too"), before, strict=True):
        (tmp_path / name).rename(file)
        assert file.read_bytes() == content
    assert made(new_node(tmp_path, "b").make("join", token))


def test_what_is_wrong_with_the_options_is_said_before_a_token_is_used_up(first: Node, tmp_path: Path) -> None:
    token = invite(first, "--once")
    for option, value in (("node.listen", "nowhere"), ("cluster.secret_file", "x"), ("node.nme", "b"),
                          ("cluster.secret", "s" * 40)):
        joining = new_node(tmp_path, "b")
        joining.options[option] = value
        done = joining.make("join", token)
        assert (done.returncode, done.stdout) == (2, "")
        assert "s" * 40 not in done.stderr
    assert made(new_node(tmp_path, "b").make("join", token))


def test_without_a_way_to_the_node_it_is_7(tmp_path: Path) -> None:
    token = format_token(parse_token(_any_token())._replace(address=f"127.0.0.1:{free_port()}"))
    done = new_node(tmp_path, "b").make("join", token)
    assert (done.returncode, done.stdout) == (7, ""), done.stderr


def _any_token() -> str:
    from p2pfs.core.invitation import Token

    return format_token(Token("127.0.0.1:1", "0" * 32, 4_000_000_000, bytes(16)))


def test_a_node_alone_becomes_the_first_of_a_cluster(tmp_path: Path) -> None:
    node = new_node(tmp_path, "a")
    file = tmp_path / "f"
    file.write_bytes(b"kept")
    try:
        node.start()
        cid = node.json("store", "--replicas=1", str(file))[0]["cid"]
        done = node.cli("invite", check=False)
        assert (done.returncode, done.stdout) == (9, "")
        assert "p2pfs-node init" in done.stderr
        node.stop()
        assert made(node.make("init"))
        node.start()
        assert node.cli("cat", cid).stdout == "kept"
        assert invite(node)
    finally:
        node.kill()


def test_a_cluster_with_an_authority_of_its_own_says_how_a_node_is_added(tmp_path: Path) -> None:
    files = material(tmp_path / "pki")
    Path(files.key).chmod(0o600)
    options = dict(zip(("tls_ca", "tls_cert", "tls_key"), files.files, strict=True))
    with Cluster(tmp_path, 1) as cluster:
        node = cluster[0]
        node.stop()
        del node.options["cluster.secret"]
        node.options |= {f"cluster.{key}": path for key, path in options.items()}
        node.start()
        done = node.cli("invite", check=False)
        assert (done.returncode, done.stdout) == (9, "")
        assert "tls_ca" in done.stderr
        assert "issue a certificate" in done.stderr
