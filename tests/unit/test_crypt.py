"""The sealed format against Tink's own output, the keys against published vectors, and the parsers against anything."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.crypt import index, is_link, keys, segments, without_key
from p2pfs.crypt.index import Row
from p2pfs.crypt.links import Link
from p2pfs.crypt.segments import HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, Cipher

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "crypt" / "tink.json").read_text())["cases"]
FIRST, OTHER = segments.capacity(0), segments.capacity(1)
EDGES = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + OTHER - 1, FIRST + OTHER, FIRST + OTHER + 1, FIRST + 2 * OTHER]
SIZES = st.one_of(st.sampled_from(EDGES), st.integers(0, FIRST + 3 * OTHER))
KEY = bytes(range(32))
HEADER = segments.new_header(bytes(range(39)))
SCRATCH = memoryview(bytearray(SEGMENT_BYTES))
CID_TEXT = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


def seal(cipher: Cipher, plain: bytes) -> bytes:
    return b"".join(
        bytes(cipher.seal(one, plain[one.start : one.start + one.length], SCRATCH))
        for one in segments.segments(len(plain))
    )


def unseal(cipher: Cipher, sealed: bytes, start: int = 0, stop: int | None = None) -> bytes:
    size = segments.plain_size(len(sealed))
    found, begin = b"", 0
    for count, one in enumerate(segments.segments(size, start, stop)):
        begin = one.start if not count else begin
        piece = memoryview(sealed)[one.sealed_start : one.sealed_start + one.sealed_length]
        found += bytes(cipher.open(one, piece, SCRATCH))
    return found[max(0, start - begin) : None if stop is None else max(0, stop - begin)]


def plain_of(size: int) -> bytes:
    return hashlib.shake_128(b"p2pfs vector").digest(size)


# --- the format --------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['size']}-{case['context']}")
def test_seals_and_opens_as_tink_does(case: dict[str, str]) -> None:
    cipher = Cipher(bytes.fromhex(case["key"]), bytes.fromhex(case["header"]), case["context"].encode())
    plain = plain_of(int(case["size"]))
    sealed = seal(cipher, plain)
    assert len(sealed) == case["sealed_size"] == segments.sealed_size(len(plain))
    assert hashlib.sha256(sealed).hexdigest() == case["sealed_sha256"]
    assert sealed.hex() == case.get("sealed", sealed.hex())
    assert unseal(cipher, sealed) == plain


def seal_by_pycryptodome(key: bytes, header: bytes, context: bytes, plain: bytes) -> bytes:
    """The whole stream from the specification alone, with another AES, GCM and HKDF than OpenSSL's."""
    derived = HKDF(key, 32, header[1:33], SHA256, context=context)
    step = SEGMENT_BYTES - TAG_BYTES
    text = bytes(HEADER_BYTES) + plain
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    pieces[0] = pieces[0][HEADER_BYTES:]
    sealed = header
    for number, piece in enumerate(pieces):
        nonce = header[33:] + number.to_bytes(4, "big") + bytes([number == len(pieces) - 1])
        sealed += b"".join(AES.new(derived, AES.MODE_GCM, nonce=nonce).encrypt_and_digest(piece))
    return sealed


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=39, max_size=39), st.binary(max_size=40),
    st.sampled_from([0, 1, 1000, SEGMENT_BYTES - 57, SEGMENT_BYTES - 56, SEGMENT_BYTES - 55, 2 * SEGMENT_BYTES + 3]),
)
def test_seals_as_pycryptodome_does(key: bytes, random: bytes, context: bytes, size: int) -> None:
    header = bytes([HEADER_BYTES]) + random
    sealed = seal_by_pycryptodome(key, header, context, plain_of(size))
    assert seal(Cipher(key, header, context), plain_of(size)) == sealed
    assert unseal(Cipher(key, header, context), sealed) == plain_of(size)


@given(SIZES)
def test_segments_cover_a_stream_and_its_size_is_known(size: int) -> None:
    found = list(segments.segments(size))
    assert sum(one.length for one in found) == size
    assert [one.is_last for one in found] == [False] * (len(found) - 1) + [True]
    assert [one.start for one in found[1:]] == [one.start + one.length for one in found[:-1]]
    assert sum(one.sealed_length for one in found) == segments.sealed_size(size)
    assert segments.plain_size(segments.sealed_size(size)) == size


@given(SIZES, st.integers(0, FIRST + 3 * OTHER), st.integers(0, FIRST + 3 * OTHER))
def test_a_range_takes_only_the_segments_that_it_touches(size: int, start: int, length: int) -> None:
    found = list(segments.segments(size, start, start + length))
    assert found[0].start <= min(start, size)
    assert start + length <= found[-1].start + found[-1].length or found[-1].is_last
    assert all(one.start < start + length for one in found[1:])
    assert found[0].start + found[0].length > start or found[0].is_last


@given(st.integers(0, 2**43))
def test_a_size_that_no_stream_has_is_refused(sealed: int) -> None:
    try:
        assert segments.sealed_size(segments.plain_size(sealed)) == sealed
    except errors.Corrupt:
        rest = sealed % SEGMENT_BYTES
        assert sealed < HEADER_BYTES + TAG_BYTES or 0 < rest <= TAG_BYTES


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    sealed = seal(Cipher(KEY, HEADER), b"a small file")
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(errors.Corrupt):
            unseal(Cipher(KEY, changed[:HEADER_BYTES]), changed)
    for cut in [sealed[:at] for at in range(len(sealed))] + [sealed + b"\0", sealed + sealed]:
        with pytest.raises(errors.Corrupt):
            unseal(Cipher(KEY, cut[:HEADER_BYTES]), cut)


THREE = seal(Cipher(KEY, HEADER), plain_of(FIRST + OTHER + 100))
PARTS = [THREE[:SEGMENT_BYTES], THREE[SEGMENT_BYTES : 2 * SEGMENT_BYTES], THREE[2 * SEGMENT_BYTES :]]


@pytest.mark.parametrize("sealed", [
    pytest.param(PARTS[0] + PARTS[1], id="last segment cut"),
    pytest.param(PARTS[0], id="all but the first cut"),
    pytest.param(PARTS[0] + PARTS[2], id="middle cut"),
    pytest.param(PARTS[0] + PARTS[1] + PARTS[1] + PARTS[2], id="twice"),
    pytest.param(PARTS[1] + PARTS[0] + PARTS[2], id="swapped"),
    pytest.param(PARTS[0] + PARTS[1] + PARTS[2][:-20], id="last one shortened"),
    pytest.param(PARTS[0] + PARTS[1] + PARTS[2] + bytes(100), id="extended"),
    pytest.param(seal(Cipher(bytes(32), HEADER), plain_of(FIRST + OTHER + 100)), id="another key's"),
    pytest.param(PARTS[0] + seal(Cipher(KEY, segments.new_header(bytes(39))), plain_of(FIRST + OTHER + 100))
                 [SEGMENT_BYTES:], id="rest of another stream of the key"),
])
def test_segments_only_open_in_their_place(sealed: bytes) -> None:
    with pytest.raises(errors.Corrupt):
        unseal(Cipher(KEY, HEADER), sealed)


def test_the_context_is_part_of_the_key() -> None:
    with pytest.raises(errors.Corrupt):
        unseal(Cipher(KEY, HEADER), seal(Cipher(KEY, HEADER, index.CONTEXT), b"x"))


def test_what_does_not_open_leaves_nothing_in_the_buffer() -> None:
    sealed = bytearray(seal(Cipher(KEY, HEADER), b"secret words"))
    sealed[-1] ^= 1
    out = memoryview(bytearray(100))
    with pytest.raises(errors.Corrupt):
        Cipher(KEY, HEADER).open(next(segments.segments(12)), memoryview(sealed), out)
    assert bytes(out) == bytes(100)


@given(SIZES, st.data())
def test_ranges_equal_slices(size: int, data: st.DataObject) -> None:
    plain = plain_of(size)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert unseal(Cipher(KEY, HEADER), seal(Cipher(KEY, HEADER), plain), start, stop) == plain[start:stop]


def test_more_than_tink_takes_is_refused() -> None:
    most = segments.MOST_SEGMENTS * (SEGMENT_BYTES - TAG_BYTES) - HEADER_BYTES
    assert segments.plain_size(segments.sealed_size(most)) == most
    with pytest.raises(errors.Refused):
        segments.sealed_size(most + 1)


# --- keys --------------------------------------------------------------------------------------------

def test_hkdf_is_that_of_rfc_5869() -> None:
    salt, info = bytes(range(13)), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    assert segments.hkdf(b"\x0b" * 22, 42, salt, info) == bytes.fromhex(  # its first test case
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_scrypt_is_that_of_rfc_7914() -> None:
    # Its third vector, of which this is the first half: r = 8, p = 1, N = 2^14.
    assert keys.key_of_passphrase(b"pleaseletmein", b"SodiumChloride", 14).hex() == (
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
    )


@pytest.mark.parametrize("log_n", [0, 13, 21, 99])
def test_scrypt_takes_neither_too_little_nor_too_much(log_n: int) -> None:
    with pytest.raises(errors.UsageError):
        keys.key_of_passphrase(b"x", bytes(16), log_n)


def test_key_files_are_raw_or_hex() -> None:
    assert keys.parse_key_file(KEY) == KEY
    assert keys.parse_key_file(KEY.hex().encode() + b"\n") == keys.parse_key_file(KEY.hex().upper().encode()) == KEY
    for wrong in (b"", KEY[:-1], KEY + b"\n", KEY.hex().encode() + b"\n\n", b"g" * 64, KEY.hex().encode()[:-2]):
        with pytest.raises(errors.UsageError) as refused:
            keys.parse_key_file(wrong)
        assert KEY.hex()[:8] not in str(refused.value)


def test_no_two_uses_of_a_secret_give_one_key() -> None:
    salt = bytes(16)
    made = [keys.key_of_file(KEY, salt), keys.key_of_file(KEY, bytes(15) + b"\1"), keys.key_of_content(KEY, salt),
            keys.key_of_content(KEY, bytes(15) + b"\1"), keys.key_of_content(bytes(32), salt)]
    assert len(set(made)) == len(made)
    assert keys.header_of_content(made[2]) != keys.header_of_content(made[3])


# --- links -------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20).filter(lambda n: n not in (".", ".."))
LINKS = st.one_of(
    st.builds(Link, st.just(CID.parse(CID_TEXT)), st.lists(NAMES, max_size=3).map(tuple), st.just("link"),
              st.binary(min_size=32, max_size=32), st.just(0)),
    st.builds(Link, st.just(CID.parse(CID_TEXT)), st.lists(NAMES, max_size=3).map(tuple), st.just("key-file"),
              st.binary(min_size=16, max_size=16), st.just(0)),
    st.builds(Link, st.just(CID.parse(CID_TEXT)), st.lists(NAMES, max_size=3).map(tuple), st.just("passphrase"),
              st.binary(min_size=16, max_size=16), st.integers(1, 99)),
)


@given(LINKS)
def test_links_come_back(link: Link) -> None:
    assert Link.parse(str(link)) == link
    assert str(link).partition("#")[2] not in repr(link) + link.public or "#" in "".join(link.path)


@given(st.one_of(
    st.text(), st.text().map(lambda t: f"p2pfs:{CID_TEXT}#k={t}"), st.text().map(lambda t: f"p2pfs:{t}#k=x")
))
def test_anything_is_a_link_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(errors.UsageError):
        assert Link.parse(str(Link.parse(text))) == Link.parse(text)


@pytest.mark.parametrize("fragment", ["k=" + "A" * 42, "k=" + "A" * 42 + "B", "k=" + "A" * 44, "kf", "", "p=17",
                                      "p=017.AAAAAAAAAAAAAAAAAAAAAA", "f=" + "A" * 21, "k=" + "A" * 42 + "=",
                                      "K=" + "A" * 43])
def test_a_link_that_was_mistyped_is_refused_without_its_key(fragment: str) -> None:
    with pytest.raises(errors.UsageError) as refused:
        Link.parse(f"p2pfs:{CID_TEXT}#{fragment}")
    assert len(fragment) < 9 or fragment not in str(refused.value)


def test_a_key_is_not_shown() -> None:
    link = f"p2pfs:{CID_TEXT}/a#b#k=xyz"
    assert is_link(link) and without_key(link) == f"p2pfs:{CID_TEXT}/a#b"
    assert [without_key(ref) for ref in ("photos#1", CID_TEXT, "p2pfs:x")] == ["photos#1", CID_TEXT, "p2pfs:x"]
    assert not is_link("notes#k=short") and not is_link("p2pfs") and not is_link(CID.parse(CID_TEXT))


# --- the index ---------------------------------------------------------------------------------------

TREE = [
    Row("file", "a", 3, KEY, number=0), Row("enter", "docs"), Row("enter", "old"), Row("file", "a", 5, KEY, number=1),
    Row("leave"), Row("symlink", "up", target="../\udcff"), Row("file", "b", 0, KEY, number=2), Row("leave"),
    Row("enter", "empty"), Row("leave"), Row("file", "old", 7, KEY, number=3),
]


def written(rows: list[Row]) -> bytes:
    return index.head_line() + b"".join(map(index.row_line, rows))


@given(st.integers(1, 50))
def test_an_index_comes_back_however_it_is_cut(step: int) -> None:
    data = written(TREE)
    assert list(index.read_rows(data[at : at + step] for at in range(0, len(data), step))) == TREE


@pytest.mark.parametrize(("path", "row"), [
    (("a",), 0), (("docs",), 1), (("docs", "old"), 2), (("docs", "old", "a"), 3), (("docs", "b"), 6), (("empty",), 8),
    (("old",), 10), (("b",), None), (("docs", "a"), None), (("a", "a"), None), (("empty", "old"), None),
    (("docs", "old", "b"), None),
])
def test_paths_are_found(path: tuple[str, ...], row: int | None) -> None:
    assert index.find(iter(TREE), path) == (None if row is None else TREE[row])


def test_what_is_inside_ends_with_the_directory() -> None:
    rows = iter(TREE)
    index.find(rows, ("docs",))
    assert [(depth, row.name) for depth, row in index.inside(rows)] == [
        (0, "old"), (1, "a"), (0, ""), (0, "up"), (0, "b")
    ]


LINES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.just("AAAA"), st.just(KEY.hex())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["dir", "end", "file", "size", "key", "link", "target", "x"]), inner),
    ),
)


@given(st.lists(st.one_of(st.binary(max_size=80), LINES.map(lambda row: json.dumps(row).encode())), max_size=8),
       st.booleans())
def test_any_bytes_are_an_index_or_malformed(lines: list[bytes], has_head: bool) -> None:
    data = (index.head_line() if has_head else b"") + b"\n".join(lines)
    try:
        for row in index.read_rows([data]):
            assert row.kind in ("enter", "leave", "file", "symlink")
    except errors.Malformed:
        pass


@pytest.mark.parametrize("line", [
    {"dir": ".."}, {"dir": "a/b"}, {"dir": ""}, {"dir": "a\0"}, {"dir": "\udcff"}, {"dir": "n" * 256}, {"end": True},
    {"file": "a", "size": -1, "key": "A" * 43 + "="}, {"file": "a", "size": True, "key": "A" * 43 + "="},
    {"file": "a", "size": 1, "key": "AAAA"}, {"file": "a", "size": 1}, {"link": "a", "target": ""},
    {"link": "a", "target": "x" * 4097}, {"link": "a", "target": "a\0"}, {"link": "a", "target": "\ud800"}, {"x": 1},
    [],
])
def test_lines_that_no_index_has_are_malformed(line: object) -> None:
    with pytest.raises(errors.Malformed):
        list(index.read_rows([index.head_line() + json.dumps(line).encode() + b"\n"]))


def test_limits_of_an_index() -> None:
    def rows(data: bytes) -> list[Row]:
        return list(index.read_rows([data]))

    deep = index.MAX_DEPTH
    assert len(rows(written([Row("enter", "d")] * deep + [Row("leave")] * deep))) == 2 * deep
    for wrong in (
        written([Row("enter", "d")] * (deep + 1) + [Row("leave")] * (deep + 1)), written([Row("enter", "d")]), b"",
        index.head_line()[:-1], index.head_line() + b"{" + b" " * index.MAX_LINE_BYTES + b"}\n",
        index.head_line() + b"[" * 60_000 + b"\n", index.head_line() + b'{"end":true}',
    ):
        with pytest.raises(errors.Malformed):
            rows(wrong)
    with pytest.raises(errors.Malformed):  # a line without end is not gathered
        list(index.read_rows(iter([index.head_line()] + [b"x" * 1000] * 10**6)))
