"""Nodes and commands that were started as not everybody starts them: without standard streams, in an old locale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import Cluster, Node, clean_environment

OLD_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""As a locale of Latin-1 would be, which few machines have to test with: file names are not UTF-8."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("alone")
    with Cluster(folder, 0) as cluster:
        node = Node(folder, "ä", {"node.name": "a"})
        node.prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
        node.environment = OLD_LOCALE
        cluster.nodes.append(node.start())
        yield node


def test_a_node_without_standard_streams_keeps_its_files_off_their_numbers(node: Node, big_file: Path) -> None:
    node.cli("store", str(big_file))
    assert node.process is not None
    streams = [os.readlink(f"/proc/{node.process.pid}/fd/{number}") for number in range(3)]
    assert streams == [os.devnull] * 3


def test_names_are_the_same_whatever_the_locale_is(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "ö"
    folder.mkdir()
    (folder / "日本").write_text("x")
    old = clean_environment() | OLD_LOCALE
    plain = node.cli("store", str(folder)).stdout
    done = node.cli("store", str(folder), env=old)
    assert done.stdout == plain
    assert node.cli("ls", "ö", env=old).stdout == node.cli("ls", "ö").stdout
    assert "日本" in node.cli("ls", "ö", env=old | {"PYTHONIOENCODING": "ascii"}).stdout
    assert "/ü" in node.cli("stat", "ö/ü", env=old, check=False).stderr
    node.cli("get", "ö", "-o", str(tmp_path / "ü"), env=old)
    assert (tmp_path / "ü" / "日本").read_text() == "x"


def test_a_configuration_is_utf_8_whatever_the_locale_is(tmp_path: Path) -> None:
    options = {"node.name": "a", "node.data_dir": f"{tmp_path}/dätä", "node.listen": "127.0.0.1:0"}
    made = Node(tmp_path, "é", options)
    done = made.make("init", env=clean_environment() | OLD_LOCALE)
    assert done.returncode == 0, done.stderr
    assert f"  {tmp_path}/dätä" in done.stdout
    assert f"\ndata_dir = {tmp_path}/dätä\n" in made.config.read_text("utf-8")


def test_a_long_folder_for_temporary_files_has_room_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    with Cluster(folder, 1) as cluster:
        assert cluster[0].states() == {"node-a": "alive"}
    assert (folder / "node-a" / "identity.pem").exists()


def test_where_few_files_may_be_open_small_ones_are_stored_all_the_same(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(600):
        (tree / str(number)).write_text(str(number))
    with Cluster(tmp_path, 0) as cluster:
        node = Node(tmp_path, "a", {})
        node.prefix = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh"]
        cluster.nodes.append(node.start())
        assert node.json("store", str(tree))[0]["new_blocks"] == 601
        assert "only 64 files may be open" in node.log()
