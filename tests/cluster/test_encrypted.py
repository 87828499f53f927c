"""Encrypted content on real nodes: what lies on their disks, and what another node's client makes of a link."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.cluster import CLI, Cluster, Node
from kit.demo import is_same_tree
from p2pfs import CID, Client
from p2pfs.crypt.links import Link
from p2pfs.crypt.segments import SEGMENT_BYTES, capacity

FIRST, OTHER = capacity(0), capacity(1)
WORD = b"the treasure is below the third palm tree"


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def make_tree(folder: Path) -> Path:
    """Small files, empty ones, one of several segments, links, and folders; names that are found when they are told."""
    tree = folder / "confidential-tree"
    (tree / "passports" / "scans").mkdir(parents=True)
    (tree / "nothing-within").mkdir()
    (tree / "passports" / "größe.txt").write_bytes(WORD)
    (tree / "passports" / "empty.txt").write_bytes(b"")
    (tree / "passports" / "scans" / "anna.tiff").write_bytes(random.randbytes(FIRST + 2 * OTHER + 77))
    (tree / "shortcut").symlink_to("passports/scans/anna.tiff")
    return tree


def store(node: Node, path: Path, *options: str) -> str:
    """Its link."""
    link: str = node.json("store", *(options or ("--encrypt",)), str(path))[0]["link"]
    return link


def inside(link: str, path: str) -> str:
    named, _, fragment = link.partition("#")
    return f"{named}/{path}#{fragment}"


def cat(node: Node, ref: str, *options: str) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error."""
    command = [sys.executable, str(CLI), f"--node={node.control}", "cat", *options, ref]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def another_key(link: str) -> str:
    parsed = Link.parse(link)
    return str(parsed._replace(value=bytes([parsed.value[0] ^ 1]) + parsed.value[1:]))


def spellings(secret: bytes) -> list[bytes]:
    """How bytes could stand in a file."""
    return [
        secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="), base64.b32encode(secret).rstrip(b"=").lower(),
    ]


def files_with(folder: Path, secrets: list[bytes]) -> list[tuple[Path, bytes]]:
    """Which files below a folder have one of them within, or in their names."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = os.fsencode(path.relative_to(folder)) + b"\0" + path.read_bytes()
            found += [(path, secret) for secret in secrets if secret in data]
    return found


# --- what nodes get ----------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["--encrypt", "--key-file", "--passphrase", "--convergent"])
def test_no_disk_and_no_log_has_a_name_a_byte_or_the_key(
    cluster: Cluster, tmp_path: Path, key_file: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFS_PASSPHRASE", "a phrase of some words")
    tree = make_tree(tmp_path)
    a, b, _ = cluster
    door = [f"--key-file={key_file}"] if how in ("--key-file", "--convergent") else []
    link: str = a.json("store", *door, *([] if how == "--key-file" else [how]), str(tree))[0]["link"]
    b.cli(*door, "get", link, "-o", str(tmp_path / "back"))
    assert is_same_tree(tree, tmp_path / "back")
    b.cli(*door, "ls", inside(link, "passports"))
    b.cli(*door, "stat", inside(link, "passports/scans/anna.tiff"))
    b.cli(*door, "explain", link)
    big = (tree / "passports" / "scans" / "anna.tiff").read_bytes()
    words = [name.encode() for name in ("confidential", "passports", "größe", "anna", "shortcut", "nothing-within")]
    samples = [big[start : start + 24] for start in range(0, len(big), 300_007)]
    secrets = [Link.parse(link).value] if how in ("--encrypt", "--convergent") else []
    if door:
        secrets.append(key_file.read_bytes())
    keys = [text for secret in secrets for text in spellings(secret)]
    assert files_with(cluster.folder, [WORD, b"a phrase of some words", *words, *samples, *keys]) == []


def test_the_search_of_disks_finds_what_is_stored_in_clear(cluster: Cluster, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "plain")
    word = random.randbytes(30)
    (tree / "a-name-in-clear").write_bytes(word)
    cluster[0].cli("store", str(tree))
    try:
        assert {secret for _, secret in files_with(cluster.folder, [word, b"a-name-in-clear"])} == {
            word, b"a-name-in-clear"
        }
    finally:
        cluster[0].cli("rm", tree.name)
        cluster[0].cli("gc")


# --- what a link gives at another node ---------------------------------------------------------------

def test_a_directory_by_its_link_at_another_node(cluster: Cluster, tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    a, b, c = cluster
    link = store(a, tree)
    big = (tree / "passports" / "scans" / "anna.tiff").read_bytes()
    rows = {row["name"]: row for row in b.json("ls", link)}
    assert {name: row["type"] for name, row in rows.items()} == {
        "passports": "directory", "nothing-within": "directory", "shortcut": "symlink"
    }
    rows = {row["name"]: row for row in c.json("ls", rows["passports"]["link"])}
    assert rows["größe.txt"]["size"] == len(WORD)
    assert cat(b, rows["größe.txt"]["link"]) == (0, WORD, b"")
    for offset, length in ((0, 1), (FIRST - 1, 2), (FIRST + OTHER - 5, OTHER + 10), (len(big) - 3, 99), (len(big), 5)):
        options = [f"--offset={offset}", f"--length={length}"]
        assert cat(c, inside(link, "passports/scans/anna.tiff"), *options)[:2] == (0, big[offset : offset + length])
    b.cli("get", inside(link, "passports"), "-o", str(tmp_path / "part"))
    assert is_same_tree(tree / "passports", tmp_path / "part")
    with Client(str(c.control)) as client, client.open(inside(link, "passports/scans/anna.tiff")) as file:
        file.seek(FIRST + 3)
        assert file.read(1000) == big[FIRST + 3 : FIRST + 1003]


def test_a_range_fetches_the_segments_that_it_touches(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "ranged"
    path.write_bytes(random.randbytes(16 * OTHER))
    link = store(cluster[0], path, "--encrypt", "--replicas=1")

    def fetched() -> float:
        return sum(node.metric("p2pfs_blocks_fetched_total") for node in cluster)

    before = fetched()
    for node in cluster:
        assert cat(node, link, f"--offset={9 * OTHER}", "--length=10")[0] == 0
    # For each of the two that may not have them: the table of leaves, the first leaf for its header, and the range's.
    assert fetched() - before <= 3 * 3


def test_rm_and_restore_by_link(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random.randbytes(500))
    link = store(cluster[0], path)
    cluster[1].cli("rm", link)
    cluster[1].cli("restore", link)
    assert cat(cluster[0], link)[:2] == (0, path.read_bytes())


# --- what does not open ------------------------------------------------------------------------------

def test_another_key_gives_exit_5_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    for link in (store(cluster[0], tree), store(cluster[0], tree / "passports" / "scans" / "anna.tiff")):
        wrong = another_key(link)
        assert cat(cluster[1], wrong)[1] == b""
        done = cluster[1].cli("get", wrong, "-o", str(here / "back"), check=False)
        assert (done.returncode, done.stdout) == (5, ""), done.stderr
        assert wrong.partition("=")[2] not in done.stderr
    assert cluster[1].cli("ls", another_key(store(cluster[0], tree)), check=False).returncode == 5
    assert os.listdir(here) == []


def forged(node: Node, folder: Path, sealed: bytes, link: str) -> str:
    """The link's key for other bytes: what a node gives that makes up content, and names it rightly."""
    path = folder / "forged"
    path.write_bytes(sealed)
    cid = node.json("store", "--chunker=fixed-1MiB", "--name=", str(path))[0]["cid"]
    return str(Link.parse(link)._replace(cid=CID.parse(cid)))


FORGERIES = {
    "a bit of the first segment": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "a bit of the last": lambda data: data[:-30] + bytes([data[-30] ^ 0x80]) + data[-29:],
    "a tag": lambda data: data[: 2 * SEGMENT_BYTES - 1] + bytes([data[2 * SEGMENT_BYTES - 1] ^ 1])
    + data[2 * SEGMENT_BYTES :],
    "the header": lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
    "cut at a segment": lambda data: data[: 2 * SEGMENT_BYTES],
    "cut within one": lambda data: data[: 2 * SEGMENT_BYTES + 500],
    "swapped": lambda data: data[:SEGMENT_BYTES] + data[2 * SEGMENT_BYTES : 3 * SEGMENT_BYTES]
    + data[SEGMENT_BYTES : 2 * SEGMENT_BYTES] + data[3 * SEGMENT_BYTES :],
    "one twice": lambda data: data[: 2 * SEGMENT_BYTES] + data[SEGMENT_BYTES:],
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_what_was_changed_gives_exit_5_and_no_byte_that_was_not_proved(
    cluster: Cluster, tmp_path: Path, change: Any
) -> None:
    path = tmp_path / "f"
    path.write_bytes(random.randbytes(FIRST + 2 * OTHER + 77))
    link = store(cluster[0], path)
    code, sealed, _ = cat(cluster[0], str(Link.parse(link).cid))
    assert code == 0
    assert cat(cluster[1], forged(cluster[0], tmp_path, sealed, link))[:2] == (0, path.read_bytes())
    wrong = forged(cluster[0], tmp_path, change(sealed), link)
    code, got, _ = cat(cluster[1], wrong)
    assert code == 5
    assert path.read_bytes().startswith(got) and len(got) in (0, FIRST, FIRST + OTHER, FIRST + 2 * OTHER)
    here = tmp_path / "here"
    here.mkdir()
    assert cluster[1].cli("get", wrong, "-o", str(here / "back"), check=False).returncode == 5
    assert os.listdir(here) == []


def test_a_flipped_bit_in_all_copies_gives_exit_5_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random.randbytes(FIRST + 2 * OTHER + 77))
    here = tmp_path / "here"
    here.mkdir()
    with Cluster(tmp_path, 2, cluster__replicas="2", cluster__write_quorum="2") as cluster:
        link = store(cluster[0], path)
        leaves = 0
        for node in cluster:
            for block in (node.data_dir / "blocks").glob("*/*"):
                if block.stat().st_size == SEGMENT_BYTES:
                    data = bytearray(block.read_bytes())
                    data[-100] ^= 4
                    block.write_bytes(data)
                    leaves += 1
        assert leaves == 2 * 3
        done = cluster[1].cli("get", link, "-o", str(here / "back"), check=False)
        assert done.returncode == 5, done.stderr
        assert os.listdir(here) == []
        # By now the bad copies are in quarantine, and nobody has the block at all.
        code, got, error = cat(cluster[0], link)
        assert code in (3, 5), error
        assert got == b""


# --- equal files -------------------------------------------------------------------------------------

def test_convergent_files_are_stored_once_and_only_for_one_secret(
    cluster: Cluster, tmp_path: Path, key_file: Path
) -> None:
    a, b, _ = cluster
    path, same = tmp_path / "f", tmp_path / "g"
    path.write_bytes(random.randbytes(FIRST + 2 * OTHER + 77))
    same.write_bytes(path.read_bytes())
    mine = [f"--key-file={key_file}", "store", "--convergent"]
    first = a.json(*mine, str(path))[0]
    again = b.json(*mine, str(same))[0]
    assert (again["cid"], again["new_blocks"]) == (first["cid"], 0)
    assert cat(b, again["link"])[:2] == (0, path.read_bytes())
    other = tmp_path / "other-key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    for options in ([f"--key-file={other}", "store", "--convergent"], ["store", "--encrypt"]):
        receipt = a.json(*options, str(path))[0]
        assert receipt["new_blocks"] == receipt["blocks"] == first["blocks"]
