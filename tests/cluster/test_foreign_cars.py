"""CARs made by others, and by enemies, against a real node: taken whole, or refused with a clear error."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.cluster import CLI, Cluster, Node
from p2pfs.core import car, unixfs
from tests.unit.dags import file_node, raw
from tests.unit.dags import node as dag_node

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
CARS = {Path(car["file"]).name: car for car in json.loads((VECTORS / "public.json").read_text())["cars"]}
SECONDS = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all cases: it has to survive them."""
    with Cluster(tmp_path_factory.mktemp("cars"), 1) as cluster:
        yield cluster[0]


def named(*expectations: str) -> list[str]:
    """The cases that expect one of these."""
    return [name for name, car in CARS.items() if car["expect"] in expectations]


def take(node: Node, name: str) -> subprocess.CompletedProcess[str]:
    """Import a case."""
    return node.cli("--json", "import", f"--name={name}", str(VECTORS / "public" / name), check=False, timeout=SECONDS)


def cat(node: Node, ref: str, *options: str) -> bytes:
    """A file's bytes."""
    command = [sys.executable, str(CLI), f"--node={node.control}", "cat", *options, ref]
    return subprocess.run(command, capture_output=True, check=True, timeout=SECONDS).stdout


def is_alive(node: Node) -> bool:
    """Does it still answer?"""
    return node.cli("status", check=False).returncode == 0


@pytest.mark.parametrize("name", named("accept"))
def test_what_is_right_is_taken_and_comes_out_as_it_went_in(node: Node, name: str, tmp_path: Path) -> None:
    car = CARS[name]
    done = take(node, name)
    assert done.returncode == 0, done.stderr
    roots = [root["cid"] for root in json.loads(done.stdout)["roots"]]
    assert roots == car.get("roots", [car["root"]])
    check_entry(node, car["root"], car.get("root_entry", car))
    for path, entry in car.get("tree", {}).items():
        check_entry(node, f"{car['root']}/{path}", entry)
    if "inline" in car:
        names = [row["name"] for row in node.json("ls", car["root"])]
        assert car["inline"].encode() in [cat(node, f"{car['root']}/{name}") for name in names]
    node.cli("export", car["root"], "-o", str(tmp_path / "out.car"))
    with Cluster(tmp_path / "other", 1) as other:
        again = other[0].json("import", str(tmp_path / "out.car"))[0]
        assert [root["cid"] for root in again["roots"]] == [car["root"]]


def check_entry(node: Node, ref: str, entry: dict[str, Any]) -> None:
    """One path gives what is expected of it."""
    found = node.json("stat", ref)[0]
    if entry.get("type"):
        assert found["type"] == entry["type"]
    if "cid" in entry:
        assert found["cid"] == entry["cid"]
    if entry.get("sha256"):
        content = cat(node, ref)
        assert len(content) == entry["size"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    if "entries" in entry:
        assert found["entries"] == entry["entries"]


@pytest.mark.parametrize("name", named("reject"))
def test_what_is_wrong_is_refused_and_nothing_is_pinned(node: Node, name: str) -> None:
    before = node.json("ls")
    done = take(node, name)
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert node.json("ls") == before
    assert is_alive(node)


@pytest.mark.parametrize(("is_file", "size"), [(True, 2**53), (False, 2**53), (False, 2**63)])
def test_a_root_of_more_bytes_than_a_pin_can_tell_of_is_refused(
    node: Node, is_file: bool, size: int, tmp_path: Path
) -> None:
    leaf = raw(b"x")
    root = file_node([(leaf.cid, size)]) if is_file else dag_node([(leaf.cid, b"a", size)], unixfs.DIRECTORY_DATA)
    path = tmp_path / "huge.car"
    path.write_bytes(car.header([root.cid]) + b"".join(
        car.frame(block.cid, block.data) + block.data for block in (leaf, root)
    ))
    before = node.json("ls")
    done = node.cli("import", str(path), check=False, timeout=SECONDS)
    assert done.returncode == 5, done.stderr
    assert f"claims to hold {size} bytes" in done.stderr
    assert node.json("ls") == before
    assert is_alive(node)


def test_what_is_incomplete_is_not_called_whole(tmp_path: Path) -> None:
    # A node of its own: other cases bring the very leaf that is missing here.
    with Cluster(tmp_path, 1) as cluster:
        done = take(cluster[0], "leaf-missing.car")
        assert done.returncode == 3
        assert "missing" in done.stderr
        assert cluster[0].json("ls") == []


@pytest.mark.parametrize("name", named("blocks-ok-file-bad", "blocks-ok-dir-bad"))
def test_a_lying_dag_gives_an_error_and_no_wrong_bytes(node: Node, name: str, tmp_path: Path) -> None:
    take(node, name)
    root = CARS[name]["root"]
    done = node.cli("get", root, "-o", str(tmp_path / "out"), check=False, timeout=SECONDS)
    assert done.returncode == 5, done.stderr
    assert not (tmp_path / "out").exists()
    assert node.cli("ls", root, check=False).returncode != 0
    assert is_alive(node)


@pytest.mark.parametrize("name", named("no-crash", "first-or-error", "accept-or-error", "reject-or-accept",
                                       "blocks-ok-entry-bad", "blocks-ok-export-guarded"))
def test_whatever_it_is_it_ends_soon_and_the_node_lives(node: Node, name: str, tmp_path: Path) -> None:
    take(node, name)
    root = CARS[name]["root"]
    target = tmp_path / "in" / "here"
    target.parent.mkdir()
    if name != "doubling-file.car":  # 330 TB; doubling-directory has 2^40 paths, which has to end by its own limits
        node.cli("--timeout=5s", "get", root, "-o", str(target), check=False, timeout=SECONDS)
    for verb in ("stat", "ls", "explain"):
        node.cli("--timeout=20s", verb, root, check=False, timeout=SECONDS)
    node.cli("--timeout=20s", "export", root, "-o", str(tmp_path / "in" / "out.car"), check=False, timeout=SECONDS)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert is_alive(node)
    assert node.memory() < 200 * 1024 * 1024


def test_a_range_of_a_file_that_is_larger_than_any_disk(node: Node) -> None:
    take(node, "doubling-file.car")
    car = CARS["doubling-file.car"]
    assert node.json("stat", car["root"])[0]["size"] == car["size"]
    assert len(cat(node, car["root"], f"--offset={car['size'] // 2 + 1}", "--length=1000")) == 1000


def test_evil_names_write_nothing_outside_and_ok_stays_readable(node: Node, tmp_path: Path) -> None:
    take(node, "evil-names.car")
    root = CARS["evil-names.car"]["root"]
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    node.cli("get", root, "-o", str(inner / "out"), check=False)
    allowed = (inner, *inner.parents)
    outside = [path for path in tmp_path.rglob("*") if inner not in path.parents and path not in allowed]
    assert outside == []
    assert cat(node, f"{root}/ok")
    assert not os.path.lexists("/tmp/p2pfs-evil")
