"""Encrypted content from the client's side, beside a node that keeps what it gets, or gives back something else."""

from __future__ import annotations

import errno
import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import Client, errors
from p2pfs.client import sealing, unsealing
from p2pfs.client.ordered import in_order
from p2pfs.client.secrets import Settings, read_key_file, read_settings
from p2pfs.core import wire
from p2pfs.crypt import index, segments
from p2pfs.crypt.index import Row
from p2pfs.crypt.links import Link
from p2pfs.crypt.segments import SEGMENT_BYTES, Cipher
from tests.unit.client.fake_node import FakeNode, Talk
from tests.unit.client.runner import Runner

FIRST, OTHER = segments.capacity(0), segments.capacity(1)
SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without client.ini, whatever the developer's says; where it would be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "p2pfs" / "client.ini"


@pytest.fixture
def keyed(node: FakeNode, key_file: Path) -> Client:
    return Client(node.address, key_file=key_file, passphrase=SECRET)


def make(path: Path, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    return data


def link_of(client: Client, source: Path | io.BytesIO, **options: object) -> str:
    link = client.store(source, **{"encrypt": True, **options}).link  # type: ignore[arg-type]
    assert link is not None
    return link


def inside(link: str, path: str) -> str:
    named, _, fragment = link.partition("#")
    return f"{named}/{path}#{fragment}"


def held(node: FakeNode) -> bytes:
    """All bytes and names that the node has, and all that was asked of it."""
    def all_of(tree: object) -> bytes:
        if isinstance(tree, dict):
            return b"".join(name + all_of(child) for name, child in tree.items())
        return tree if isinstance(tree, bytes) else repr(tree).encode()

    return b"".join(map(all_of, node.trees.values())) + repr((node.requests, node.pinned, node.options)).encode()


def replace(node: FakeNode, link: str, change: Callable[[bytes], bytes]) -> None:
    """Have the node give something else for what a link names."""
    cid = str(Link.parse(link).cid)
    old = node.trees[cid]
    assert isinstance(old, bytes)
    node.trees[cid] = node.trees[node.keep(change(old))]


# --- what goes in comes out --------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + OTHER, FIRST + OTHER + 1, 5 * OTHER])
def test_files_come_back_at_every_edge(node: FakeNode, client: Client, here: Path, size: int) -> None:
    data = make(here / "f", size)
    for source in (here / "f", io.BytesIO(data)):
        link = link_of(client, source)
        assert node.options["chunker"] == "fixed-1MiB"
        assert b"".join(client.read(link)) == data
        assert client.get(link, "back", force=True).read_bytes() == data
        assert client.stat(link).size == size
        assert node.trees[str(Link.parse(link).cid)] not in (data, b"")


@given(st.integers(0, FIRST + 2 * OTHER), st.integers(0, FIRST + 2 * OTHER))
@settings(max_examples=30, deadline=None)
def test_ranges_equal_slices(one: int, other: int) -> None:
    _, client, link, data = SHARED
    start, length = min(one, other), abs(one - other)
    assert b"".join(client.read(link, start, length)) == data[start : start + length]
    with client.open(link) as file:
        file.seek(start)
        assert file.read(length) == data[start : start + length]


SHARED: tuple[FakeNode, Client, str, bytes]


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One stored file for the examples of hypothesis."""
    global SHARED
    folder = tmp_path_factory.mktemp("shared")
    data = make(folder / "f", FIRST + 2 * OTHER - 5)
    with FakeNode(folder) as node, Client(node.address) as client:
        SHARED = node, client, link_of(client, folder / "f", encrypt="link"), data
        yield


def test_a_range_asks_for_its_segments_only(node: FakeNode, client: Client, here: Path) -> None:
    data = make(here / "f", 5 * OTHER)
    link = link_of(client, here / "f")
    node.requests.clear()
    assert b"".join(client.read(link, 3 * OTHER, 1)) == data[3 * OTHER : 3 * OTHER + 1]
    reads = [(int(offset), int(length)) for verb, _, offset, length in
             (request for request in node.requests if request[0] == "READ")]
    assert reads == [(0, 40), (3 * SEGMENT_BYTES, SEGMENT_BYTES)]


def tree_in(here: Path, count: int = 5) -> Path:
    tree = here / "tree"
    (tree / "docs" / "old").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "docs" / "größe.txt").write_bytes(b"marker of a small file")
    make(tree / "docs" / "old" / "big", 2 * OTHER)
    (tree / "docs" / "nothing").write_bytes(b"")
    (tree / "link").symlink_to("docs/old")
    os.symlink(b"\xff\xfe", bytes(tree / "odd"))
    for number in range(count):
        (tree / "docs" / f"n{number}").write_bytes(b"%d" % number)
    return tree


def read_tree(path: Path) -> dict[str, object]:
    if path.is_symlink():
        return {"": os.readlink(path)}
    if path.is_dir():
        return {child.name: read_tree(child) for child in path.iterdir()}
    return {"": path.read_bytes()}


def test_directories_come_back(node: FakeNode, client: Client, here: Path) -> None:
    tree = tree_in(here, 2 * index.GROUP + 1)
    link = link_of(client, tree)
    root = node.trees[str(Link.parse(link).cid)]
    assert isinstance(root, dict) and set(root) == {b"0", b"1", b"2", b"index"}
    assert read_tree(client.get(link, "back")) == read_tree(tree)
    assert read_tree(client.get(inside(link, "docs/old"))) == read_tree(tree / "docs" / "old")
    assert sorted(entry.name for entry in client.ls(link)) == sorted(os.listdir(tree))
    assert {entry.name: entry.size for entry in client.ls(inside(link, "docs/old"))} == {"big": 2 * OTHER}
    for entry in client.ls(inside(link, "docs")):
        if entry.type == "file" and entry.name.startswith("n20"):
            assert entry.link is not None
            assert b"".join(client.read(entry.link)) == (tree / "docs" / entry.name).read_bytes()
    assert client.stat(inside(link, "link")).target == "docs/old"
    assert os.readlink(client.get(inside(link, "link"))) == "docs/old"
    assert client.stat(link).entries == 4 and client.stat(link).type == "directory"
    assert client.get(inside(link, "docs/größe.txt")).read_bytes() == b"marker of a small file"


def test_what_is_not_there_is_not_found(client: Client, here: Path) -> None:
    link = link_of(client, tree_in(here))
    for path in ("missing", "docs/old/big/x", "index", "0", "0/0"):
        with pytest.raises(errors.NotFound):
            client.stat(inside(link, path))
    for call in (client.read, client.open):
        with pytest.raises(errors.UsageError):
            list(call(link))
    with pytest.raises(errors.UsageError):
        list(client.ls(inside(link, "docs/n0")))
    with pytest.raises(errors.UsageError):
        client.explain(inside(link, "docs"))


# --- nothing plain reaches a node --------------------------------------------------------------------

@pytest.mark.parametrize("encrypt", ["link", "key-file", "passphrase", "convergent"])
def test_a_node_gets_neither_names_nor_content_nor_keys(
    node: FakeNode, keyed: Client, key_file: Path, here: Path, encrypt: str
) -> None:
    tree = tree_in(here)
    link = link_of(keyed, tree, encrypt=encrypt)
    single = link_of(keyed, tree / "docs" / "größe.txt", encrypt=encrypt)
    keyed.get(link, "back")
    list(keyed.ls(inside(link, "docs")))
    assert b"".join(keyed.read(single)) == b"marker of a small file"
    keyed.explain(inside(link, "docs/n1")).close()
    keyed.export_car(inside(link, "docs/n1"), io.BytesIO())
    keyed.remove(single)
    seen = held(node)
    big = (tree / "docs" / "old" / "big").read_bytes()
    names = (b"marker", "größe".encode(), b"docs", b"tree", b"nothing")
    key = (key_file.read_bytes(), key_file.read_bytes().hex().encode(), SECRET.encode())
    for secret in (*names, *key, big[:32], big[-32:], link.partition("#")[2].encode(), Link.parse(link).value):
        assert secret not in seen, secret
    assert node.options["name"] == ""


def test_a_name_is_given_only_where_it_is_wanted(node: FakeNode, client: Client, here: Path) -> None:
    make(here / "f", 5)
    link = link_of(client, here / "f", name="diary")
    assert node.options["name"] == "diary" and client.stat(link).pins == ["diary"]


def test_rm_and_restore_take_links(client: Client, here: Path) -> None:
    make(here / "f", 5)
    link = link_of(client, here / "f")
    assert client.remove(link)[0].cid == client.restore(link)[0].cid == Link.parse(link).cid


# --- keys --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("encrypt", "wrong"), [
    ("key-file", {"passphrase": SECRET}), ("passphrase", {"passphrase": SECRET + "!"}),
    ("key-file", {}), ("passphrase", {}),
])
def test_keys_outside_of_the_link(
    node: FakeNode, keyed: Client, here: Path, tmp_path: Path, encrypt: str, wrong: dict[str, str]
) -> None:
    data = make(here / "f", 500)
    link = link_of(keyed, here / "f", encrypt=encrypt)
    assert b"".join(keyed.read(link)) == data
    other_key = tmp_path / "other"
    other_key.write_text("00" * 32 + "\n")
    other_key.chmod(0o400)
    if wrong:
        with Client(node.address, key_file=other_key, **wrong) as other, pytest.raises(errors.Corrupt):
            other.get(link, "back")
    else:
        with Client(node.address) as other, pytest.raises(errors.UsageError, match="this takes a"):
            other.get(link, "back")
    assert os.listdir() == ["f"]


def test_equal_files_of_one_secret_are_equal_and_of_others_not(node: FakeNode, keyed: Client, here: Path) -> None:
    for size in (0, 100, 2 * OTHER):
        make(here / "f", size)
        make(here / "g", size)
        one, same = (link_of(keyed, here / name, encrypt="convergent") for name in "fg")
        assert one == same
        assert b"".join(keyed.read(one)) == (here / "f").read_bytes()
        (here / "key").write_bytes(bytes(32))
        (here / "key").chmod(0o600)
        with Client(node.address, key_file=here / "key") as other:
            assert Link.parse(link_of(other, here / "f", encrypt="convergent")).cid != Link.parse(one).cid
        assert link_of(keyed, here / "f") != link_of(keyed, here / "f")
        (here / "f").write_bytes((here / "f").read_bytes() + b"!")
        changed = Link.parse(link_of(keyed, here / "f", encrypt="convergent"))
        sealed = node.trees[str(changed.cid)]
        assert isinstance(sealed, bytes) and sealed[:40] != node.trees[str(Link.parse(one).cid)][:40]  # type: ignore[index]


def test_equal_files_in_directories_are_stored_once(node: FakeNode, keyed: Client, here: Path) -> None:
    tree = tree_in(here)
    make(tree / "again", 2 * OTHER)
    link = link_of(keyed, tree, encrypt="convergent")
    assert read_tree(keyed.get(link, "back")) == read_tree(tree)
    before = set(node.trees)
    keyed.store(tree, encrypt="convergent")
    assert sum(isinstance(node.trees[cid], bytes) for cid in set(node.trees) - before) == 1, "only the index is new"


def test_a_convergent_store_never_seals_other_bytes_under_the_same_key(
    node: FakeNode, keyed: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(here / "f", 3 * OTHER)
    sealed = sealing._seal

    def change_then_seal(*args: object) -> memoryview:
        with open(here / "f", "r+b") as file:
            file.seek(OTHER + 5)
            file.write(b"changed")
        return sealed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "_seal", change_then_seal)
    # That it was changed is noticed at the end as well; but then the bytes have been sent.
    with pytest.raises(errors.Refused, match="between its two readings"):
        keyed.store(here / "f", encrypt="convergent")
    assert node.pinned == {}


def test_a_stream_has_no_convergent_key(keyed: Client) -> None:
    with pytest.raises(errors.UsageError, match="two readings"):
        keyed.store(io.BytesIO(b"x"), encrypt="convergent")


def test_a_file_that_changes_meanwhile_is_refused(
    node: FakeNode, client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(here / "f", 2 * OTHER)
    sealed = sealing._seal

    def cut_then_seal(*args: object) -> memoryview:
        os.truncate(here / "f", 10)
        return sealed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "_seal", cut_then_seal)
    with pytest.raises(errors.Refused, match="shorter"):
        client.store(here / "f", encrypt=True)
    assert node.pinned == {}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(errors.Refused, match=f"chmod 600 {key_file}"):
        read_key_file(str(key_file))
    key_file.chmod(0o400)
    assert read_key_file(str(key_file)) == key_file.read_bytes()


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_client_ini_that_is_out_of_reach_is_not_taken_for_none(
    client: Client, no_settings: Path, tmp_path: Path, up: int
) -> None:
    way = [no_settings, *no_settings.parents][up]
    way.parent.mkdir(parents=True, exist_ok=True)
    way.symlink_to(tmp_path / "not mounted")
    (tmp_path / "f").write_bytes(b"to be encrypted always")
    with pytest.raises(errors.ConfigError, match="leads nowhere"):
        client.store(tmp_path / "f")


def test_a_home_that_is_no_folder_holds_no_client_ini(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/dev/null")
    with Client(node.address) as client:
        assert client.store(io.BytesIO(b"x")).link is None


def test_client_ini(node: FakeNode, here: Path, no_settings: Path, key_file: Path) -> None:
    make(here / "f", 5)
    no_settings.parent.mkdir(parents=True)
    no_settings.write_text(f"[store]\nencrypt = always\nkey = key-file\nkey_file = {key_file}\n")
    assert read_settings() == Settings("always", "key-file", str(key_file))
    with Client(node.address) as client:
        link = client.store(here / "f").link
        assert link is not None and "#f=" in link
        assert b"".join(client.read(link)) == (here / "f").read_bytes()
        assert client.store(here / "f", encrypt=False).link is None
        assert "#k=" in link_of(client, here / "f", encrypt="link")
        with pytest.raises(errors.UsageError, match="encrypt = 'yes'"):
            client.store(here / "f", encrypt="yes")
    for wrong in ("encrypt = always\n", "[store]\nencrypt = yes\n", "[store]\nencript = always\n", "[other]\n",
                  "[DEFAULT]\nencrypt = always\n", "[store]\nkey = none\n", "[store]\n" + "#" * 5000,
                  "[store]\nencrypt\n"):
        no_settings.write_text(wrong)
        with Client(node.address) as client, pytest.raises(errors.ConfigError, match=r"client\.ini"):
            client.store(here / "f")
    for wrong, says in (
        ("[store]\nencrypt = always\nhunter2\n", "line 3: Source contains parsing errors"),
        ("hunter2\n[store]\n", "line 1: File contains no section headers"),
    ):
        no_settings.write_text(wrong)
        with pytest.raises(errors.ConfigError, match=rf"client\.ini {says}") as caught:
            read_settings()
        assert "hunter2" not in str(caught.value)


# --- a node that gives something else ----------------------------------------------------------------

def test_no_flipped_byte_of_a_file_passes(node: FakeNode, client: Client, here: Path) -> None:
    (here / "f").write_bytes(b"small")
    link = link_of(client, here / "f")
    cid = str(Link.parse(link).cid)
    good = node.trees[cid]
    assert isinstance(good, bytes)
    os.unlink("f")
    for at in range(len(good)):
        changed = good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1 :]
        node.trees[cid] = changed
        node.keep(changed)
        for call in (client.read, client.get, client.open):
            with pytest.raises(errors.Corrupt):
                list(call(link))
    assert os.listdir() == []


SEGMENT_CHANGES = {
    "cut": lambda data: data[: 2 * SEGMENT_BYTES],
    "middle cut": lambda data: data[:SEGMENT_BYTES] + data[2 * SEGMENT_BYTES :],
    "swapped": lambda data: data[:SEGMENT_BYTES] + data[2 * SEGMENT_BYTES : 3 * SEGMENT_BYTES]
    + data[SEGMENT_BYTES : 2 * SEGMENT_BYTES] + data[3 * SEGMENT_BYTES :],
    "twice": lambda data: data[: 2 * SEGMENT_BYTES] + data[SEGMENT_BYTES:],
    "appended": lambda data: data + bytes(SEGMENT_BYTES),
    "shortened": lambda data: data[:-1],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("change", SEGMENT_CHANGES.values(), ids=SEGMENT_CHANGES)
def test_no_change_of_segments_passes(
    node: FakeNode, client: Client, here: Path, change: Callable[[bytes], bytes]
) -> None:
    data = make(here / "f", FIRST + 2 * OTHER + 100)
    link = link_of(client, here / "f")
    replace(node, link, change)
    got: list[bytes] = []
    with pytest.raises(errors.Corrupt):
        got.extend(client.read(link))
    assert data.startswith(b"".join(got))
    with pytest.raises(errors.Corrupt):
        client.get(link, "back")
    assert os.listdir() == ["f"]


def test_nobody_makes_a_file_look_shorter(node: FakeNode, client: Client, here: Path) -> None:
    make(here / "f", FIRST + 2 * OTHER)
    link = link_of(client, here / "f")
    replace(node, link, lambda data: data[:SEGMENT_BYTES])
    for look in (client.stat, client.open, lambda link: list(client.read(link, FIRST + OTHER, 10))):
        with pytest.raises(errors.Corrupt):
            look(link)


def test_files_of_one_key_do_not_pass_for_each_other(node: FakeNode, keyed: Client, here: Path) -> None:
    make(here / "f", 100)
    make(here / "g", 100)
    for encrypt in ("key-file", "passphrase", "link"):
        one, other = (link_of(keyed, here / name, encrypt=encrypt) for name in "fg")
        node.trees[str(Link.parse(one).cid)] = node.trees[str(Link.parse(other).cid)]
        with pytest.raises(errors.Corrupt):
            list(keyed.read(one))


def test_files_of_a_directory_do_not_pass_for_each_other(node: FakeNode, client: Client, here: Path) -> None:
    link = link_of(client, tree_in(here))
    root = node.trees[str(Link.parse(link).cid)]
    assert isinstance(root, dict)
    group = root[b"0"]
    names = [name for name, data in group.items() if len(data) == 57]
    group[names[0]], group[names[1]] = group[names[1]], group[names[0]]
    node.keep(root)
    with pytest.raises(errors.Corrupt):
        client.get(link, "back")
    root[b"index"], group[names[0]] = group[names[0]], root[b"index"]
    with pytest.raises(errors.Corrupt):
        list(client.ls(link))
    assert "back" not in os.listdir()


def hostile_index(node: FakeNode, rows: list[Row]) -> str:
    """A directory that somebody made who has the key: it is shared with us."""
    key = os.urandom(32)
    cipher = Cipher(key, segments.new_header(os.urandom(39)), index.CONTEXT)
    plain = index.head_line() + b"".join(map(index.row_line, rows))
    out = memoryview(bytearray(SEGMENT_BYTES))
    sealed = bytes(cipher.seal(next(segments.segments(len(plain))), plain, out))
    file = Cipher(bytes(32), segments.new_header(bytes(39)))
    data = bytes(file.seal(next(segments.segments(2)), b"hi", out))
    cid = node.keep({b"index": sealed, b"0": {b"0": data, b"1": data}})
    return str(Link(Link.parse(f"p2pfs:{cid}#k=" + "A" * 43).cid, (), "link", key))


@pytest.mark.parametrize("rows", [
    [Row("enter", ".."), Row("file", "evil", 2, bytes(32)), Row("leave")],
    [Row("file", "../evil", 2, bytes(32))], [Row("file", "/evil", 2, bytes(32))], [Row("file", "", 2, bytes(32))],
    [Row("symlink", "s", target=".."), Row("enter", "s"), Row("file", "evil", 2, bytes(32)), Row("leave")],
    [Row("file", "a", 2, bytes(32)), Row("file", "a", 2, bytes(32))], [Row("leave"), Row("file", "evil", 2, bytes(32))],
    [Row("file", "a", 3, bytes(32))], [Row("file", f"f{number}", 2, bytes(32)) for number in range(3)],
    [Row("file", "a", 2, bytes(31) + b"\1")],
])
def test_a_hostile_index_writes_nothing_elsewhere(
    node: FakeNode, client: Client, here: Path, rows: list[Row]
) -> None:
    (here / "in").mkdir()
    with pytest.raises((errors.Malformed, errors.Refused, errors.Corrupt)):
        client.get(hostile_index(node, rows), "in/back")
    assert os.listdir(here) == ["in"] and "back" not in os.listdir(here / "in")


def test_a_node_that_sends_too_little_or_too_much(node: FakeNode, client: Client, here: Path) -> None:
    make(here / "f", 2 * OTHER)
    link = link_of(client, here / "f")
    for change in (lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""):
        def read(talk: Talk, line: wire.Line, change: Callable[[bytes], bytes] = change) -> None:
            ref, offset, length = line.args
            data = node.trees[str(ref)]
            assert isinstance(data, bytes)
            part = data[offset : offset + length]
            if length > 40:
                part = change(part)
            for start in range(0, len(part), wire.MAX_PART):
                talk.part(part[start : start + wire.MAX_PART])
            talk.ok({"cid": str(ref), "size": len(data), "sent": len(part)})

        node.hooks["READ"] = read
        with pytest.raises(errors.ProtocolError):
            client.get(link, "back")
    assert os.listdir() == ["f"]


def test_a_disk_that_fails_meanwhile_ends_a_get(
    client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(here / "f", 5 * OTHER)
    link = link_of(client, here / "f")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(unsealing, "FLUSH_BYTES", OTHER)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(errors.P2pfsError, match="input/output error"):
        client.get(link, "back")
    assert "back" not in os.listdir()


# --- the parts ---------------------------------------------------------------------------------------

@given(st.integers(0, 30), st.integers(1, 4))
def test_jobs_come_in_order(count: int, threads: int) -> None:
    def job(number: int) -> Callable[[memoryview], memoryview]:
        def work(out: memoryview) -> memoryview:
            out[:4] = number.to_bytes(4, "big")
            return out[:4]
        return work

    assert [int.from_bytes(done, "big") for done in in_order(map(job, range(count)), threads)] == list(range(count))


def test_jobs_that_are_left_end_their_threads() -> None:
    before = threading.active_count()

    def fail(out: memoryview) -> memoryview:
        raise errors.Corrupt("x")

    running = in_order([lambda out: out[:1], lambda out: out[:1], *[fail] * 20], 2)
    next(running)
    running.close()
    with pytest.raises(errors.Corrupt):
        list(in_order([fail] * 20, 2))
    assert threading.active_count() == before


def test_an_index_longer_than_a_segment_comes_back(tmp_path: Path) -> None:
    cipher = Cipher(bytes(32), segments.new_header(bytes(39)), index.CONTEXT)
    rows = [Row("file", f"{number}-" + "x" * 200, number, bytes(32), number=number) for number in range(9000)]
    spool = io.BytesIO()
    writer = sealing.IndexWriter(cipher, spool)
    for row in rows:
        writer.add(row)
    writer.close()
    with FakeNode(tmp_path) as node, Client(node.address) as client:
        cid = Link.parse(f"p2pfs:{node.keep({b'index': spool.getvalue()})}#k=" + "A" * 43).cid
        assert len(spool.getvalue()) > 2 * SEGMENT_BYTES
        assert list(unsealing.read_index(client._calls, cid, bytes(32), client._deadline())) == rows


# --- the command line --------------------------------------------------------------------------------

def test_cat_writes_the_segments_before_a_bad_one_and_exits_5(node: FakeNode, run: Runner) -> None:
    data = make(run.folder / "f", FIRST + 2 * OTHER)
    link = run.json("store", "--encrypt", "f")[0]["link"]
    replace(node, link, lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]))
    done = run("cat", link)
    assert (done.returncode, done.stdout) == (5, data[: FIRST + OTHER])
    assert run("get", link, "-o", "back").returncode == 5
    assert os.listdir(run.folder) == ["f"]


def test_links_on_the_command_line_and_on_standard_input(node: FakeNode, run: Runner) -> None:
    data = make(run.folder / "f", 100)
    line = run("store", "--encrypt", "f").stdout.decode()
    link, path = line.split()
    assert path == "f" and run("cat", link).stdout == data
    assert run("cat", "-", "--offset=5", "--length=7", input=line.encode()).returncode == 2
    assert run("cat", "-", "--offset=5", "--length=7", input=link.encode() + b"\n").stdout == data[5:12]
    failed = run("cat", link.replace("#", "/x#"))
    assert failed.returncode == 3
    assert link.partition("=")[2].encode() not in failed.stderr


def test_passphrases_come_from_a_file_or_the_environment(node: FakeNode, run: Runner) -> None:
    data = make(run.folder / "f", 100)
    (run.folder / "words").write_text(SECRET + "\n")
    (run.folder / "words").chmod(0o600)
    link = run.json("--passphrase-file=words", "store", "--passphrase", "f")[0]["link"]
    assert "#p=17." in link
    run.environment["P2PFS_PASSPHRASE"] = SECRET
    assert run("cat", link).stdout == data
    run.environment["P2PFS_PASSPHRASE"] = "wrong"
    assert run("cat", link).returncode == 5
    del run.environment["P2PFS_PASSPHRASE"]
    assert run("cat", link).returncode == 2
    (run.folder / "words").chmod(0o644)
    assert run("--passphrase-file=words", "cat", link).returncode == 9


def test_a_passphrase_file_is_a_wish_to_encrypt(run: Runner, key_file: Path) -> None:
    make(run.folder / "f", 100)
    (run.folder / "words").write_text(SECRET)
    (run.folder / "words").chmod(0o600)
    for wish in ((), ("--encrypt",), ("--passphrase",)):
        assert "#p=" in run.json("--passphrase-file=words", "store", *wish, "f")[0]["link"]
    assert run.json("--passphrase-file=words", "store", "--plain", "f")[0]["link"] is None
    for other in (("--convergent",), (f"--key-file={key_file}",)):
        assert run("--passphrase-file=words", "store", *other, "f").returncode == 2


@pytest.mark.parametrize("lost", ["p2pfs:", "p2p", "p2pfs"])
def test_a_link_that_lost_its_beginning_is_asked_nobody_about(node: FakeNode, run: Runner, lost: str) -> None:
    make(run.folder / "f", 100)
    link = run.json("store", "--encrypt", "f")[0]["link"]
    key = link.partition("=")[2][:40].encode()
    node.requests.clear()
    for words in (
        ["get", link.removeprefix(lost)], ["cat", f" {link}"], ["rm", link.upper()[:6] + link[6:]], [link],
        ["get", link.removeprefix(lost)[:-2]], ["get", link.removeprefix(lost) + "."],
        ["forget", link], ["forget", "--revoke", link.removeprefix(lost)],
    ):
        done = run(*words)
        assert done.returncode == 2 and key not in done.stderr + done.stdout, words
    assert node.requests == []


def test_what_hides_its_bytes_is_not_encrypted_as_nothing(node: FakeNode, client: Client) -> None:
    with pytest.raises(errors.Refused, match="'/proc/version': its size is not known, so give it through a pipe"):
        client.store("/proc/version", encrypt=True)
    with open("/proc/version", "rb") as file:
        link = link_of(client, file)
    assert b"".join(client.read(link)) == Path("/proc/version").read_bytes()


def test_always_in_client_ini_and_plain_on_the_command_line(run: Runner, no_settings: Path) -> None:
    make(run.folder / "f", 100)
    no_settings.parent.mkdir(parents=True)
    no_settings.write_text("[store]\nencrypt = always\n")
    run.environment["XDG_CONFIG_HOME"] = str(no_settings.parents[1])
    assert run.json("store", "f")[0]["link"].startswith("p2pfs:")
    assert run.json("store", "--plain", "f")[0]["link"] is None
