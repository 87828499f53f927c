"""The golden vectors: identifiers and CARs that independent implementations agree on (tests/vectors/README.md)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core import branch, car, dag, varint
from p2pfs.core.chunker import fixed_cuts
from p2pfs.core.cid import CID
from p2pfs.core.directory import Entry, build_directory, build_symlink
from p2pfs.core.layout import BalancedLayout, Block, Link
from p2pfs.core.profile import Profile, profile
from tests.unit.dags import Blocks, add_file, content, node, sha256_of
from tests.vectors import recipes

VECTORS = Path(__file__).parent.parent / "vectors"
ALL = json.loads((VECTORS / "public.json").read_text())
CHUNKERS = {"unixfs-v1-2025": "fixed-1MiB", "kubo-cidv1-256k": "fixed-256KiB"}
"""Our names; unixfs-v0-2015 is only read, never written."""


def profile_of(case: dict[str, Any]) -> Profile:
    options = case.get("options", {})
    made = profile(CHUNKERS[case["profile"]], options.get("hash", "sha2-256"))
    if "chunk" in options:
        made = made.with_chunk(options["chunk"])
    return made._replace(max_links=options.get("max_links", made.max_links))


def build(recipe: dict[str, Any], made: Profile, store: Blocks, keeps: bool) -> Link:
    if recipe["kind"] == "file":
        return add_file(recipes.iter_bytes(recipe["content"]), made, store, keeps)
    if recipe["kind"] == "symlink":
        link, block = build_symlink(recipe["target"].encode(), made)
        store.put(block)
        return link
    entries = []
    for name, child in recipes.entries(recipe):
        link = build(child, made, store, keeps)
        entries.append(Entry(name.encode(), link.cid, link.tsize))
    link, blocks = build_directory(entries, made)
    for block in blocks:
        store.put(block)
    return link


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["id"], marks=pytest.mark.slow if case.get("heavy") else ())
        for case in ALL["cases"]
        if case["profile"] in CHUNKERS
    ],
)
def test_builds_the_identifier_that_others_build(case: dict[str, Any]) -> None:
    store = Blocks()
    link = build(case["input"], profile_of(case), store, keeps=not case.get("heavy"))
    expect = case["expect"]
    assert str(link.cid) == expect["cid"]
    assert len(store.sizes) == expect["blocks"]
    assert sum(store.sizes.values()) == expect["bytes"]
    assert link.tsize == expect["dag_size"]
    if "root_block_hex" in expect:
        assert store.data[link.cid.multihash].hex() == expect["root_block_hex"]
    assert store.sizes[link.cid.multihash] == expect["root_block_bytes"]


@pytest.mark.parametrize("case", [c for c in ALL["cases"] if c["profile"] in CHUNKERS and not c.get("heavy")],
                         ids=lambda case: case["id"])
def test_a_walk_finds_every_block_of_what_was_built(case: dict[str, Any]) -> None:
    store = Blocks()
    link = build(case["input"], profile_of(case), store, keeps=True)
    visits = list(dag.walk(store.load, link.cid, len(store.data[link.cid.multihash])))
    assert visits[0].cid == link.cid
    assert {visit.cid.multihash: visit.size for visit in visits} == store.sizes
    assert len(visits) == len(store.sizes)


# --- CARs --------------------------------------------------------------------------------------------

CARS = {entry["file"].removeprefix("public/").removesuffix(".car"): entry for entry in ALL["cars"]}


def read_car(name: str) -> tuple[list[CID], Blocks, int]:
    with (VECTORS / "public" / f"{name}.car").open("rb") as file:
        reader = car.CarReader(file.read)
        store, frames = Blocks(), 0
        for cid, block in reader:
            frames += 1
            store.put(Block(cid, block))
    return reader.roots, store, frames


def root_of(name: str) -> CID:
    return CID.parse(CARS[name]["root"])


def everything(store: Blocks, root: CID) -> Iterator[tuple[bytes, CID]]:
    """(path, CID) of all entries below a directory."""
    stack = [(b"", root)]
    while stack:
        path, cid = stack.pop()
        for entry in dag.entries(store.load, cid):
            below = path + entry.name
            yield below, entry.cid
            if kind_of(store, entry.cid) == "directory":
                stack.append((below + b"/", entry.cid))


def kind_of(store: Blocks, cid: CID) -> str:
    return dag.kind(cid, store.block(cid))


def is_whole(store: Blocks, root: CID) -> bool:
    return all(visit.cid.multihash in store.data for visit in dag.walk(store.load, root))


@pytest.mark.parametrize("name", [name for name, entry in CARS.items() if entry["expect"] == "accept"])
def test_an_accepted_car_is_read_whole(name: str) -> None:
    expected = CARS[name]
    roots, store, frames = read_car(name)
    if "roots" in expected:
        assert sorted(map(str, roots)) == sorted(expected["roots"])
    if "frames" in expected:
        assert frames == expected["frames"]
        assert len(store.data) == expected["blocks"]
        assert sum(store.sizes.values()) == expected["bytes"]
    root = CID.parse(expected["root"])
    assert is_whole(store, root)
    check_entry(store, root, expected.get("root_entry", {}))
    for path, entry in expected.get("tree", {}).items():
        cid = dag.resolve(store.load, root, [part.encode() for part in path.split("/")])
        check_entry(store, cid, entry)
    if "tree" in expected:
        assert {path.decode() for path, _ in everything(store, root)} == set(expected["tree"])
    if "listing_sha256" in expected:
        found = sorted(everything(store, root))
        assert len(found) == expected["entries"]
        lines = b"".join(path + b"\t" + str(cid).encode() + b"\n" for path, cid in found)
        assert hashlib.sha256(lines).hexdigest() == expected["listing_sha256"]
        for path, cid in found:
            assert dag.resolve(store.load, root, path.split(b"/")) == cid
    if "sha256" in expected:
        assert sha256_of(store, root) == (expected["size"], expected["sha256"])
    assert exported(store, root) == {visit.cid.multihash for visit in dag.walk(store.load, root)}


def check_entry(store: Blocks, cid: CID, entry: dict[str, Any]) -> None:
    if not entry:
        return
    assert str(cid) == entry["cid"]
    assert kind_of(store, cid) == entry["type"]
    if entry["type"] == "file":
        assert dag.file_size(cid, store.block(cid)) == entry["size"]
        assert sha256_of(store, cid) == (entry["size"], entry["sha256"])
    elif entry["type"] == "directory":
        assert sum(1 for _ in dag.entries(store.load, cid)) == entry["entries"]


def exported(store: Blocks, root: CID) -> set[bytes]:
    """The blocks of our own CAR of a root, read back."""
    parts = [car.header([root])]
    for visit in dag.walk(store.load, root):
        data = store.block(visit.cid)
        parts += (car.frame(visit.cid, data), data)
    reader = car.CarReader(io.BytesIO(b"".join(parts)).read)
    assert reader.roots == [root]
    return {cid.multihash for cid, _ in reader}


@pytest.mark.parametrize("name", [
    name for name, entry in CARS.items() if entry["expect"] in ("reject", "reject-or-accept")
])
def test_a_broken_car_is_refused(name: str) -> None:
    with pytest.raises(errors.Malformed):
        read_car(name)


def test_a_carv2_is_refused_by_its_name() -> None:
    with pytest.raises(errors.Malformed, match="CARv2"):
        read_car("car-v2-pragma")


def test_an_incomplete_dag_is_not_called_whole() -> None:
    _, store, _ = read_car("leaf-missing")
    assert not is_whole(store, root_of("leaf-missing"))


@pytest.mark.parametrize("name", [name for name in CARS if CARS[name]["expect"] == "blocks-ok-file-bad"])
def test_a_lying_file_is_kept_but_not_read(name: str) -> None:
    _, store, _ = read_car(name)
    root = root_of(name)
    with pytest.raises(errors.Malformed):
        dag.file_size(root, store.block(root))
    with pytest.raises(errors.Malformed):
        sha256_of(store, root)


@pytest.mark.parametrize("name", [name for name in CARS if CARS[name]["expect"] == "blocks-ok-dir-bad"])
def test_a_lying_directory_is_kept_but_not_read(name: str) -> None:
    _, store, _ = read_car(name)
    with pytest.raises(errors.Malformed):
        list(dag.entries(store.load, root_of(name)))
    with pytest.raises(errors.Malformed):
        dag.resolve(store.load, root_of(name), [b"x"])


def test_an_identity_cid_that_is_too_long_spoils_its_own_entry_alone() -> None:
    _, store, _ = read_car("identity-too-long")
    root = root_of("identity-too-long")
    with pytest.raises(errors.Malformed, match="limit is 128"):
        list(dag.entries(store.load, root))


def test_an_inlined_entry_is_read_and_never_a_block() -> None:
    _, store, _ = read_car("identity-link")
    root = root_of("identity-link")
    inlined = [entry.cid for entry in dag.entries(store.load, root) if entry.cid.is_identity]
    assert b"".join(bytes(branch.payload(cid, store.block(cid))) for cid in inlined) == b"inln1"
    assert not any(visit.cid.is_identity for visit in dag.walk(store.load, root))


def test_packed_blocksizes_are_read() -> None:
    _, store, _ = read_car("packed-blocksizes")
    expected = CARS["packed-blocksizes"]
    assert sha256_of(store, root_of("packed-blocksizes")) == (expected["size"], expected["sha256"])


def test_of_two_entries_of_one_name_the_first_is_found() -> None:
    _, store, _ = read_car("duplicate-names")
    found = dag.resolve(store.load, root_of("duplicate-names"), [b"twin"])
    assert str(found) == CARS["duplicate-names"]["first"]


def test_evil_names_are_listed_as_they_are_and_good_ones_resolve() -> None:
    _, store, _ = read_car("evil-names")
    root = root_of("evil-names")
    names = [entry.name for entry in dag.entries(store.load, root)]
    assert any(b".." in name for name in names)
    assert kind_of(store, dag.resolve(store.load, root, [b"ok"])) == "file"


@pytest.mark.parametrize("name", ["deep-file-chain", "deep-directories"])
def test_what_is_nested_too_deep_is_refused(name: str) -> None:
    _, store, _ = read_car(name)
    with pytest.raises(errors.Malformed, match="too deep"):
        list(dag.walk(store.load, root_of(name)))


def test_a_file_that_is_a_chain_too_deep_is_refused_when_read() -> None:
    _, store, _ = read_car("deep-file-chain")
    with pytest.raises(errors.Malformed, match="more than 64 branches"):
        sha256_of(store, root_of("deep-file-chain"))
    assert len(store.loaded) <= dag.MAX_FILE_DEPTH


def test_a_doubling_file_has_a_size_and_ranges_and_41_blocks() -> None:
    _, store, _ = read_car("doubling-file")
    root = root_of("doubling-file")
    size = CARS["doubling-file"]["size"]
    assert dag.file_size(root, store.block(root)) == size
    assert sum(1 for _ in dag.walk(store.load, root)) == len(store.data) == 41
    store.loaded.clear()
    start = size // 3
    found = list(dag.spans(store.load, root, start, start + 1000))
    assert sum(span.length for span in found) == 1000
    assert found[0].offset == start
    assert len(store.loaded) < 200
    # The same bytes at another place of the repeating file.
    assert b"".join(dag.span_payload(span, store.block(span.cid)) for span in found) == b"".join(
        dag.span_payload(span, store.block(span.cid))
        for span in dag.spans(store.load, root, start % 300, start % 300 + 1000)
    )


def test_a_doubling_directory_is_walked_once() -> None:
    _, store, _ = read_car("doubling-directory")
    assert sum(1 for _ in dag.walk(store.load, root_of("doubling-directory"))) == len(store.data) == 41
    assert len(store.loaded) <= 41


# --- CIDv0: read, not written ------------------------------------------------------------------------


def as_v0(link: Link) -> Link:
    return link._replace(cid=link.cid._replace(version=0))


def build_v0(recipe: dict[str, Any], store: Blocks) -> Link:
    """What the old default of `ipfs add` makes: dag-pb leaves; for files of up to 174 of them."""
    made = profile("fixed-256KiB")
    if recipe["kind"] == "dir":
        links = [(name.encode(), build_v0(child, store)) for name, child in recipes.entries(recipe)]
        link, blocks = build_directory([Entry(name, link.cid, link.tsize) for name, link in links], made)
    else:
        data = b"".join(recipes.iter_bytes(recipe["content"]))
        layout = BalancedLayout(made)
        for offset, length in fixed_cuts(len(data), made.chunk_bytes):
            size = varint.encode(length)
            inline = b"\x12%b%b" % (size, data[offset : offset + length]) if length else b""
            leaf = node([], b"\x08\x02%b\x18%b" % (inline, size))
            layout.add(as_v0(Link(store.put(leaf), length, len(leaf.data))))
        link, branches = layout.finish()
        blocks = iter(branches)
    for block in blocks:
        store.put(block)
    return as_v0(link)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["id"], marks=pytest.mark.slow if case.get("heavy") else ())
        for case in ALL["cases"]
        if case["profile"] == "unixfs-v0-2015"
    ],
)
def test_what_the_old_default_makes_is_read(case: dict[str, Any]) -> None:
    store = Blocks()
    link = build_v0(case["input"], store)
    assert str(link.cid) == case["expect"]["cid"]
    assert CID.parse(case["expect"]["cid"]) == CID.decode(link.cid.encode()) == link.cid
    assert link.tsize == case["expect"]["dag_size"]
    assert {visit.cid.multihash: visit.size for visit in dag.walk(store.load, link.cid)} == store.sizes
    if case["input"]["kind"] == "file":
        data = b"".join(recipes.iter_bytes(case["input"]["content"]))
        assert sha256_of(store, link.cid) == (len(data), hashlib.sha256(data).hexdigest())
        middle = slice(len(data) // 2, len(data) // 2 + 10)
        assert b"".join(content(store, link.cid, middle.start, middle.stop)) == data[middle]
    else:
        assert {path.decode() for path, _ in everything(store, link.cid)} == {"a.txt", "b.txt", "empty"}
