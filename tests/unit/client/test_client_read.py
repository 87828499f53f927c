"""Open files and ranges of them, and typed answers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import CID, Client, errors
from p2pfs.client import answers, parsing
from p2pfs.client.remote_file import MOST_BYTES, RemoteFile
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Talk, cid_of, data_of

MIB = 1024 * 1024
WAIT_S = 60.0


def test_open_is_a_seekable_binary_file(node: FakeNode, client: Client) -> None:
    data = data_of(5 * MIB + 3)
    node.keep(data, "big")
    with client.open("big") as file:
        assert file.seekable()
        assert file.read(10) == data[:10]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(MIB)
        node.keep(b"another", "big")
        assert file.read(3 * MIB) == data[MIB : 4 * MIB]
        assert file.seek(len(data) + 100) and file.read(1) == b""
        with pytest.raises(ValueError, match="before the start"):
            file.raw.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


@given(st.binary(max_size=400_000), st.lists(st.tuples(st.integers(0, 450_000), st.integers(0, 300_000)), max_size=8))
def test_a_remote_file_reads_what_a_file_in_memory_does(data: bytes, reads: list[tuple[int, int]]) -> None:
    def read_range(offset: int, length: int) -> Iterator[bytes]:
        assert 0 < length <= MOST_BYTES
        assert offset + length <= len(data)
        yield from (data[at : min(at + 1000, offset + length)] for at in range(offset, offset + length, 1000))

    ours = io.BufferedReader(RemoteFile(CID.parse(cid_of(data)), len(data), read_range), 4096)
    model = io.BytesIO(data)
    for offset, length in reads:
        assert ours.seek(offset) == model.seek(offset)
        assert ours.read(length) == model.read(length)
        assert ours.tell() == model.tell()
    ours.seek(0)
    assert ours.read() == data


def test_reading_on_asks_for_more_at_once(node: FakeNode, client: Client) -> None:
    node.keep(data_of(20 * MIB), "big")
    with client.open("big") as file:
        while file.read(64 * 1024):
            pass
    lengths = [int(request[3]) for request in node.requests if request[0] == "READ"]
    assert max(lengths) == MOST_BYTES
    assert len(lengths) < 15


def test_read_gives_a_range_and_may_be_left(node: FakeNode, client: Client) -> None:
    data = data_of(3 * MIB)
    cid = node.keep(data)
    assert b"".join(client.read(cid, 100, 50)) == data[100:150]
    assert b"".join(client.read(cid)) == data
    pieces = client.read(cid)
    next(pieces)
    pieces.close()
    assert b"".join(client.read(cid, 5)) == data[5:]
    assert b"".join(client.read(CID.parse(cid))) == data


def test_answers_are_typed(node: FakeNode, client: Client) -> None:
    cid = node.keep({b"d": {}, b"f": b"12345"}, "tree")
    assert [(entry.name, entry.type, entry.size) for entry in client.ls("tree")] == [
        ("d", "directory", None), ("f", "file", 5),
    ]
    pin = next(client.pins())
    assert (pin.name, pin.cid) == ("tree", CID.parse(cid))
    assert client.stat("tree").entries == 2
    assert [peer.name for peer in client.peers()] == ["a", "b"]
    assert client.status().verdict == "healthy"
    explained = client.explain("tree")
    assert [row.holders for row in explained] == [["a"]]
    assert explained.end.below_wanted == 1
    assert client.explain("tree").end.wanted == 2
    assert [one.name for one in client.remove("tree")] == ["tree"]
    assert list(client.pins()) == []


def test_the_readme_shows_lists_of_pins_and_entries(
    node: FakeNode, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    example = readme.partition("```python\n")[2].partition("```")[0]
    monkeypatch.setenv("P2PFS_NODE", node.address)
    Path("model.bin").write_bytes(data_of(5000))
    node.keep({b"a.txt": b"a"}, "some-directory")
    node.keep(b"of last year", "old.bin")
    seen: dict[str, Any] = {}
    exec(example, seen)
    assert Path("copy.bin").read_bytes() == data_of(5000)
    assert {pin.name for pin in seen["pins"]} == {"model.bin", "some-directory", "old.bin"}
    assert node.requests[-1] == ("RESTORE", "old.bin")
    assert seen["names"] == ["a.txt"]


def test_car_in_and_out(node: FakeNode, client: Client, here: Path) -> None:
    Path("in.car").write_bytes(data_of(2 * MIB))
    imported = client.import_car("in.car", replicas=2)
    root = imported.roots[0]
    assert (node.trees[str(root.cid)], root.pinned) == (data_of(2 * MIB), True)
    assert node.options == {"replicas": 2}
    assert client.export_car("imported", "out.car") == 1
    assert Path("out.car").read_bytes() == b"CAR of " + data_of(2 * MIB)
    out = io.BytesIO()
    client.export_car(root.cid, out)
    assert out.getvalue() == Path("out.car").read_bytes()
    with pytest.raises(errors.NotFound):
        client.export_car("nothing", "new.car")
    assert sorted(os.listdir()) == ["in.car", "out.car"]


def test_an_export_never_replaces_what_came_meanwhile(node: FakeNode, client: Client, here: Path) -> None:
    node.keep(b"data", "name")
    usual = node._export

    def export(talk: Talk, line: wire.Line) -> None:
        Path("out.car").write_bytes(b"of somebody else")
        usual(talk, line)

    node.hooks["EXPORT"] = export
    with pytest.raises(errors.Refused, match=r"waits in (\S+)") as refused:
        client.export_car("name", "out.car")
    assert Path("out.car").read_bytes() == b"of somebody else"
    assert Path(str(refused.value).split()[-1]).read_bytes() == b"CAR of data"


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(cid_of(b"")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["cid", "name", "size", "roots", "blocks", "new_blocks", "new_bytes", "type", "pinned"]), inner
    ),
))
def test_any_json_is_an_answer_or_a_protocol_error(value: Any) -> None:
    for shape in (answers.Imported, answers.Entry, answers.Removed, answers.Peer):
        try:
            parsed = parsing.parse(shape, value)
        except errors.ProtocolError:
            continue
        assert parsing.parse(shape, parsing.plain(parsed)) == parsed


@pytest.mark.parametrize(("offset", "length"), [(-5, 10), (0, -1), (5, -5), (-(2**21), None)])
def test_a_range_that_is_none_is_refused(
    node: FakeNode, client: Client, tmp_path: Path, offset: int, length: int | None
) -> None:
    (tmp_path / "f").write_bytes(data_of(100_000))
    for ref in (node.keep(data_of(100_000)), client.store(tmp_path / "f", encrypt=True).link):
        assert ref is not None
        with pytest.raises(errors.UsageError, match="0 or more"):
            list(client.read(ref, offset, length))


def test_an_answer_that_failed_or_was_closed_has_no_end(node: FakeNode, client: Client) -> None:
    node.keep(data_of(100_000), "f")

    def break_off(talk: Talk, line: wire.Line) -> None:
        raise errors.Unreachable("it broke off")

    left = client.explain("f")
    next(left)
    left.close()
    with pytest.raises(errors.UsageError, match="closed before its end"):
        left.end.asked  # noqa: B018 - it raises
    assert list(left) == []
    node.hooks["EXPLAIN"] = break_off
    failed = client.explain("f")
    for _ in range(2):
        with pytest.raises(errors.Unreachable):
            list(failed)
    with pytest.raises(errors.Unreachable):
        failed.end.asked  # noqa: B018 - it raises
