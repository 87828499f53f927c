"""Bit rot on the disk of a real node: the scrub finds it, the audit heals it, and nobody who reads notices."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.cluster import Cluster, Node, wait_until
from p2pfs import Client, errors

DAY_S = 86_400


def scrub(node: Node, *, wait: bool = True) -> dict[str, Any]:
    """What a scrub of everything on this node's disk found."""
    report: dict[str, Any] = node.json("scrub", *(["--wait"] if wait else []), check=False)[0]
    return report


def block_files(node: Node) -> list[Path]:
    return sorted(path for path in (node.data_dir / "blocks").glob("*/*") if path.is_file())


def is_good(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def quarantined(node: Node) -> list[str]:
    """The names of the blocks of which bad copies were put aside."""
    return sorted(path.name.partition(".")[0] for path in (node.data_dir / "quarantine").iterdir())


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes under the same name, from one moment to the next: who reads meanwhile meets one damage, not two."""
    aside = path.parents[2] / "aside"
    aside.write_bytes(data)
    aside.replace(path)


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    rewrite(path, data)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit flipped at the begin": lambda path: flip(path, 0),
    "a bit flipped at the end": lambda path: flip(path, -1, 0x80),
    "truncated": lambda path: rewrite(path, path.read_bytes()[:-1]),
    "emptied": lambda path: rewrite(path, b""),
    "extended": lambda path: rewrite(path, path.read_bytes() + b"\0"),
    "zeroes": lambda path: rewrite(path, bytes(path.stat().st_size)),
    "a folder": replace_by_folder,
}


@contextmanager
def reading(node: Node, contents: dict[str, bytes]) -> Iterator[None]:
    """All files are read through a node, again and again, while the body runs; each read must be right."""
    is_over = threading.Event()
    problems: list[str] = []
    reads = 0

    def read_all() -> None:
        nonlocal reads
        with Client(str(node.control)) as client:
            while not is_over.is_set():
                for name, content in contents.items():
                    try:
                        if b"".join(client.read(name)) != content:
                            problems.append(f"{name}: other bytes")
                    except errors.P2pfsError as error:
                        problems.append(f"{name}: {error!r}")
                reads += 1

    thread = threading.Thread(target=read_all)
    thread.start()
    try:
        yield
        before = reads
        wait_until(lambda: reads > before + 1 or not thread.is_alive(), 60, "all was read once more afterwards")
    finally:
        is_over.set()
        thread.join(60)
    assert problems == []


@pytest.fixture(scope="module")
def contents(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Some small files and one of several MiB, stored; name to content."""
    folder = tmp_path_factory.mktemp("files")
    found = {f"small-{number}": random.randbytes(300 + number) for number in range(30)}
    found["large"] = random.randbytes(7 * 1024 * 1024 + 5)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    cluster[0].cli("store", *(str(folder / name) for name in found))
    return found


def test_what_rotted_is_put_aside_and_comes_back_and_readers_never_notice(
    cluster: Cluster, contents: dict[str, bytes]
) -> None:
    a, b, _ = cluster
    assert len(block_files(b)) > len(DAMAGES) + 3
    victims = random.sample(block_files(b), len(DAMAGES))
    largest = max(block_files(b), key=lambda path: path.stat().st_size)
    if largest not in victims:
        victims[0] = largest
    before = quarantined(b)
    with reading(a, contents):
        for damage, path in zip(DAMAGES.values(), victims, strict=True):
            damage(path)
        report = scrub(b)
        # A reader may have met, and healed, one of them before the scrub did; a put may have replaced one.
        assert report["healed_blocks"] == report["bad_blocks"] <= len(victims)
        assert b.metric("p2pfs_blocks_corrupt_total") >= report["bad_blocks"] > 0
        assert report["is_done"]
        assert sorted([*before, *(path.name for path in victims)]) == quarantined(b)
        for path in victims:
            wait_until(lambda path=path: is_good(path), 60, f"{path.name} is back")
    with reading(b, contents):
        report = scrub(b)
    assert report["bad_blocks"] == 0
    assert report["blocks"] == len(block_files(b))
    assert report["bytes"] == sum(path.stat().st_size for path in block_files(b))
    assert b.json("status", check=False)[0]["quarantined"] == len(quarantined(b)) >= len(victims)


def test_all_found_by_the_scrub_when_nobody_reads(cluster: Cluster, contents: dict[str, bytes]) -> None:
    b = cluster[1]
    victims = random.sample(block_files(b), len(DAMAGES))
    for damage, path in zip(DAMAGES.values(), victims, strict=True):
        damage(path)
    report = scrub(b)
    assert (report["bad_blocks"], report["healed_blocks"]) == (len(victims), len(victims))
    assert all(is_good(path) for path in victims)


def test_a_vanished_block_comes_back_by_an_audit(cluster: Cluster, contents: dict[str, bytes]) -> None:
    a, b, _ = cluster
    victims = random.sample(block_files(b), 4)
    with reading(a, contents):
        for path in victims:
            path.unlink()
        assert scrub(b)["bad_blocks"] == 0
        b.cli("audit", "--wait")
        for path in victims:
            wait_until(lambda path=path: is_good(path), 60, f"{path.name} is back")


def test_a_second_scrub_joins_the_first(tmp_path: Path) -> None:
    """At a rate at which the first is far from its end when the second comes."""
    (tmp_path / "file").write_bytes(random.randbytes(4 * 1024 * 1024))
    with Cluster(tmp_path, 1, repair__rate="1MiB") as cluster:
        node = cluster[0]
        node.cli("store", str(tmp_path / "file"))
        # By a client here: a process of the CLI may take as long to start as the first scrub to end.
        with Client(str(node.control)) as client:
            assert client.scrub().is_done is False
            assert client.scrub(wait=True).is_done is True
        assert node.metric("p2pfs_scrubbed_blocks_total") == len(block_files(node)) == 5


def test_what_was_verified_survives_a_kill(cluster: Cluster, contents: dict[str, bytes]) -> None:
    node = cluster[2]

    def restart(end: Callable[[], object]) -> float:
        end()
        node.start()
        return node.metric("p2pfs_scrub_oldest_seconds")

    def forget() -> None:
        node.stop()
        (node.data_dir / "scrub").unlink(missing_ok=True)
        born = node.data_dir / "format"
        os.utime(born, (born.stat().st_mtime - 9 * DAY_S, born.stat().st_mtime - 9 * DAY_S))

    def damage() -> None:
        node.kill()
        proof = node.data_dir / "scrub"
        proof.write_bytes(proof.read_bytes()[:-100])

    assert restart(forget) > 8 * DAY_S
    scrub(node)
    assert restart(node.kill) < DAY_S
    assert restart(node.stop) < DAY_S
    assert restart(damage) > 8 * DAY_S
    assert "its checksum does not fit" in node.log()
    cluster.wait_alive()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_flipped_byte_of_each_file_of_a_small_store_is_found_and_healed(tmp_path: Path) -> None:
    """A directory with one small file: a leaf and a branch on each of two nodes."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(random.randbytes(100))
    with Cluster(tmp_path, 2, cluster__replicas="2", cluster__write_quorum="2") as cluster:
        a, b = cluster
        a.cli("store", str(source))
        b.cli("audit", "--wait")  # so that it looks at the new pin before a flip, and the scrub alone finds those
        files = block_files(b)
        assert len(files) == 2
        flips = 0
        for path in files:
            for position in range(path.stat().st_size):
                flip(path, position, random.randrange(1, 256))
                report = scrub(b)
                assert (report["bad_blocks"], report["healed_blocks"]) == (1, 1), json.dumps(report)
                assert is_good(path)
                flips += 1
                assert len(quarantined(b)) == flips
        assert flips > 150
        shutil.rmtree(source)
        b.cli("get", "source", "-o", str(source))
        assert hashlib.sha256((source / "file").read_bytes()).hexdigest() in [path.name for path in files]
