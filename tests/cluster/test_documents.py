"""What the documents tell a reader to type, typed: against real nodes."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import CLI, ROOT, Cluster, free_port, wait_until
from tests.test_docs import cells, section

RECOVER = ROOT / "docs" / "recover.py"
ONE_MIB = 1024 * 1024


def shell(command: str, folder: Path, **environment: str) -> str:
    """What a command line prints; a failure fails the test with all of it."""
    done = subprocess.run(["sh", "-ec", command], cwd=folder, env=clean_environment(**environment),
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without settings of ours, with this interpreter first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("P2PFS_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **more}


def fences(text: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- README.md ---------------------------------------------------------------------------------------

@contextlib.contextmanager
def started(command: str, folder: Path, **environment: str) -> Iterator[None]:
    """A command that goes on until the end of the block; SIGTERM has to end it with 0."""
    with (folder / "nodes.log").open("ab") as log:
        node = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=folder, env=clean_environment(**environment),
                                stdout=log, stderr=log)
    try:
        yield
        node.send_signal(signal.SIGTERM)
        assert node.wait(60) == 0
    finally:
        node.kill()
        node.wait()


def test_a_cluster_in_five_minutes(tmp_path: Path) -> None:
    # Two machines with each its home; the addresses are of loopback, the rest is what the page says.
    first, second, anywhere = fences((ROOT / "README.md").read_text().partition("## A cluster in five")[2], "sh")[:3]
    (tmp_path / "bin").symlink_to(ROOT / "bin")
    (tmp_path / "movie.mkv").write_bytes(random.randbytes(3 * ONE_MIB))
    ports = {f"10.0.0.{number}:4801": f"127.0.0.1:{free_port()}" for number in (1, 2)}

    def here(text: str) -> str:
        for page_address, address in ports.items():
            text = text.replace(page_address, address)
        return text

    homes = {name: {"XDG_DATA_HOME": str(tmp_path / name)} for name in ("1", "2")}
    sockets = [tmp_path / name / "p2pfs" / "control.sock" for name in homes]
    places = [tmp_path / "place-1", tmp_path / "place-2"]
    for place in places:
        place.mkdir()
        (place / "bin").symlink_to(ROOT / "bin")
    init, start = here(first).strip().splitlines()
    (token,) = re.findall(r"join (p2pfs-join-\w+)", shell(init, places[0], **homes["1"]))
    join, start_next = here(second).replace("TOKEN", token).strip().splitlines()
    with started(start, places[0], **homes["1"]):
        wait_until(sockets[0].exists, 60, "the first one listens")
        shell(join, places[1], **homes["2"])
        with started(start_next, places[1], **homes["2"]):
            use(anywhere, tmp_path, homes, sockets)


def use(anywhere: str, tmp_path: Path, homes: dict[str, dict[str, str]], sockets: list[Path]) -> None:
    """The commands that a user of these two nodes types."""
    for socket in sockets:
        wait_until(socket.exists, 60, f"{socket} is there")
    peers, store, get, explain, invite = anywhere.strip().splitlines()
    wait_until(lambda: shell(peers, tmp_path, **homes["1"]).count(" alive ") == 2, 60, "two members are alive")
    assert re.fullmatch(r"b\w{58}  movie\.mkv\n", shell(store, tmp_path, **homes["1"]))
    shell(get, tmp_path, **homes["2"])
    assert (tmp_path / "copy.mkv").read_bytes() == (tmp_path / "movie.mkv").read_bytes()
    assert "every block has the 2 copies wanted" in shell(explain, tmp_path, **homes["2"])
    assert shell(invite, tmp_path, **homes["1"]).startswith("p2pfs-join-")


def test_the_python_example_runs(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster[0]
    (tmp_path / "some-directory").mkdir()
    (tmp_path / "some-directory" / "a.txt").write_text("a\n")
    node.cli("store", str(tmp_path / "some-directory"))
    (tmp_path / "old.bin").write_bytes(b"old")
    node.cli("store", str(tmp_path / "old.bin"))
    (tmp_path / "model.bin").write_bytes(random.randbytes(2 * ONE_MIB))
    (example,) = fences((ROOT / "README.md").read_text(), "python")
    (tmp_path / "example.py").write_text(f"{example}\nassert tail == open('model.bin', 'rb').read()[-1024:]\n")
    shell("python example.py", tmp_path, P2PFS_NODE=str(node.control))
    assert (tmp_path / "copy.bin").read_bytes() == (tmp_path / "model.bin").read_bytes()


# --- docs/OPERATIONS.md ------------------------------------------------------------------------------

def test_the_operator_finds_every_field_of_status(cluster: Cluster) -> None:
    listed = [name for row in cells(section("OPERATIONS.md", "Status")) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted(cluster[0].json("status")[0])


def test_the_metrics_reach_a_file(cluster: Cluster, tmp_path: Path) -> None:
    (command,) = fences(section("OPERATIONS.md", "Metrics"), "sh")
    shell(command, tmp_path, P2PFS_NODE=str(cluster[0].control))
    written = (tmp_path / "p2pfs.prom").read_text()
    for row in cells(section("OPERATIONS.md", "Metrics")):
        assert f"# TYPE {row[0].strip('`')} " in written


@pytest.mark.slow
def test_a_node_that_died_for_good(tmp_path: Path) -> None:
    file = tmp_path / "f.bin"
    file.write_bytes(random.randbytes(8 * ONE_MIB))
    with Cluster(tmp_path, 3, cluster__replicas="2") as nodes:
        a, b, c = nodes
        before = a.json("store", str(file))[0]
        c.kill()
        wait_until(lambda: a.states()["node-c"] == "dead", 60, "node-c is dead")
        below = a.json("explain", "f.bin", check=False)[-1]["below_wanted"]
        again = a.json("store", str(file))[0]
        assert (again["cid"], again["new_blocks"]) == (before["cid"], below)
        assert a.json("explain", "f.bin")[-1]["below_wanted"] == 0
        a.cli("forget", "node-c")
        wait_until(lambda: a.states() == b.states() == {"node-a": "alive", "node-b": "alive"}, 60, "it is struck")
        wait_until(lambda: a.json("status", check=False)[0]["verdict"] == "healthy", 60, "all is well")


def test_a_secret_is_replaced_step_by_step(tmp_path: Path) -> None:
    old, new = "1" * 64, "2" * 64
    nodes = Cluster(tmp_path, 2, cluster__replicas="2")
    for node in nodes:
        del node.options["cluster.secret"]
        node.options["cluster.secret_file"] = str(tmp_path / f"{node.name}.secret")
    client = tmp_path / "client"

    def write(number: int, *lines: str) -> None:
        path = tmp_path / f"{nodes[number].name}.secret"
        path.touch(0o600)
        path.write_text("".join(f"{line}\n" for line in lines))

    def step(*lines: str, authorities: int) -> None:
        for number, node in enumerate(nodes):
            write(number, *lines)
            before = (node.data_dir / "tls" / "cert.pem").read_bytes()
            node.signal(signal.SIGHUP)
            ca = node.data_dir / "tls" / "ca.pem"
            wait_until(lambda ca=ca: ca.read_text().count("BEGIN") == authorities, 60, "authorities are exchanged")
            cert = node.data_dir / "tls" / "cert.pem"
            wait_until(lambda cert=cert, before=before: cert.read_bytes() != before, 60, "a new certificate")
            file = tmp_path / f"{len(list(tmp_path.glob('*.bin')))}.bin"
            file.write_bytes(random.randbytes(1000))
            assert nodes[0].json("store", str(file))[0]["replicas"] == 2

    def remote() -> int:
        return subprocess.run([sys.executable, str(CLI), f"--node={nodes[1].address}", f"--tls-dir={client}", "ls"],
                              capture_output=True, check=False, timeout=60).returncode

    def copy_client() -> None:
        shutil.copytree(nodes[0].data_dir / "client", client, dirs_exist_ok=True)

    for number in (0, 1):
        write(number, old)
    with nodes:
        copy_client()
        assert remote() == 0
        step(old, new, authorities=2)
        assert remote() == 0
        copy_client()
        step(new, old, authorities=2)
        assert remote() == 0  # what was copied in between trusts both
        stale = tmp_path / "stale"
        shutil.copytree(client, stale)
        copy_client()
        step(new, authorities=1)
        assert remote() == 0
        shutil.rmtree(client)
        stale.rename(client)
        wait_until(lambda: remote() == 9, 60, "the old secret's client is refused")
        nodes[1].stop()
        write(1, old)
        with pytest.raises(RuntimeError, match="belongs to another cluster"):
            nodes[1].start()
        assert nodes[1].process is not None and nodes[1].process.wait(60) == 9


# --- docs/STORE.md -----------------------------------------------------------------------------------

def test_what_a_node_leaves_can_be_read_by_hand(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(random.randbytes(3 * ONE_MIB + 5))
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    for number in range(3):
        (tree / f"{number}.txt").write_text(f"file {number}\n")
    with Cluster(tmp_path, 2, cluster__replicas="1", cluster__write_quorum="1") as nodes:
        data_dirs = [node.data_dir for node in nodes]
        stored = {"big": [big], "blake": ["--hash=blake3", big], "cut": ["--chunker=fastcdc-1MiB", big], "tree": [tree]}
        roots = {name: nodes[0].json("store", f"--name={name}", *map(str, words))[0]["cid"]
                 for name, words in stored.items()}
        nodes[0].kill()  # a crash must leave something that can be read, too
        assert nodes[1].stop() == 0

    def recover(name: str, *folders: Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, str(RECOVER), roots[name], *map(str, folders)],
                              capture_output=True, check=False, timeout=60)

    for name in ("big", "blake", "cut"):
        assert recover(name, *data_dirs).stdout == big.read_bytes(), name
    lines = recover("tree", *data_dirs).stdout.decode().splitlines()
    assert [line.split()[1] for line in lines] == ["0.txt", "1.txt", "2.txt", "deep"]
    assert recover("big", tmp_path / "nothing").returncode == 1

    check = fences(section("STORE.md", "Blocks"), "sh")[0].splitlines()
    for folder in data_dirs:
        assert shell("\n".join(check[:2]), tmp_path, DATA_DIR=str(folder)) == ""
    digest = shell(fences(section("STORE.md", "Blocks"), "sh")[1], tmp_path, CID=roots["big"]).strip()
    path = data_dirs[0] / "blocks" / digest[:3] / digest
    assert path.exists()
    to_cid = fences(section("STORE.md", "Recovery"), "sh")[1]
    assert shell(to_cid, tmp_path, DIGEST=digest).strip() == roots["big"]
    pinned = shell(fences(section("STORE.md", "Catalog"), "sh")[0], tmp_path, DATA_DIR=str(data_dirs[1]))
    assert all(root in pinned for root in roots.values())

    path.chmod(0o600)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(AssertionError, match=digest):
        shell("\n".join(check[:2]), tmp_path, DATA_DIR=str(data_dirs[0]))
    assert recover("big", data_dirs[0], data_dirs[1]).stdout == big.read_bytes()  # the branch's other copy
    assert f"bad copy: {path}" in recover("big", data_dirs[0]).stderr.decode()


def test_every_file_of_a_data_directory_is_explained(tmp_path: Path) -> None:
    explained = {name.split("/")[0] for row in cells(section("STORE.md", "What is in it"))
                 for name in re.findall(r"`([^`]+)`", row[0])}
    with Cluster(tmp_path, 1) as nodes:
        node = nodes[0]
        node.stop()
        node.start()
        found = {path.name for path in node.data_dir.iterdir()}
        node.stop()
        found |= {path.name for path in node.data_dir.iterdir()}
    found = {name.replace("catalog.sqlite-wal", "-wal") for name in found}
    assert found <= explained, found - explained
    assert explained - found <= {"own-secret", "invitations", "revoked", "scrub", "catalog-dropped-1750000000000.jsonl"}
