"""CARs: what is written is read; what is broken, lying or endless is refused before it costs anything."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import car, varint
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.dagpb import MAX_BLOCK_BYTES
from p2pfs.core.multihash import BLAKE3, IDENTITY, SHA2_256, multihash

ONE = CID(RAW, multihash(SHA2_256, b"one"))
INLINE = CID(RAW, multihash(IDENTITY, b"inline"))


def read(data: bytes) -> tuple[list[CID], list[tuple[CID, bytes]]]:
    reader = car.CarReader(io.BytesIO(data).read)
    return reader.roots, list(reader)


def write(roots: list[CID], blocks: list[tuple[CID, bytes]]) -> bytes:
    return car.header(roots) + b"".join(car.frame(cid, data) + data for cid, data in blocks)


def block(codec: int, code: int, data: bytes, is_v0: bool) -> tuple[CID, bytes]:
    if is_v0:
        return CID(DAG_PB, multihash(SHA2_256, data), 0), data
    return CID(codec, multihash(code, data)), data


blocks = st.lists(
    st.builds(block, st.sampled_from([RAW, DAG_PB, 0x71]), st.sampled_from([SHA2_256, BLAKE3]), st.binary(max_size=300),
              st.booleans()), max_size=10)


@given(blocks, st.integers(0, 300))
def test_what_is_written_is_read(blocks: list[tuple[CID, bytes]], more_roots: int) -> None:
    roots = [cid for cid, _ in blocks] + [ONE] * more_roots
    assert read(write(roots, blocks)) == (roots, blocks)


def test_a_header_is_what_others_write() -> None:
    root = CID.parse("bafkreidnsszuua6mrt6tmvvw2cbwgzutxzgkj7w3ukvecpcjenpmzwnpra")
    made = car.header([root])
    assert made.hex().startswith("3aa265726f6f747381d82a582500")
    assert made.endswith(b"\x67version\x01")
    assert len(made) == 59


def test_identity_frames_are_checked_and_left_out() -> None:
    assert read(write([INLINE], [(INLINE, b"inline"), (ONE, b"one")])) == ([INLINE], [(ONE, b"one")])
    with pytest.raises(errors.Malformed, match="claims to be"):
        read(write([], [(INLINE, b"other")]))


def test_the_keys_of_a_header_may_come_in_either_order() -> None:
    body = b"\xa2\x67version\x01\x65roots\x80"
    assert read(varint.encode(len(body)) + body) == ([], [])


HEADER = car.header([ONE])


@pytest.mark.parametrize(("data", "why"), [
    (b"", "empty"),
    (b"\x00", "empty header"),
    (HEADER[:-1], "ends inside a header"),
    (b"\xff\xff\xff\x7f", "limit"),
    (b"\x0b\xa1\x67version\x02", "inside a header"),
    (b"\x0a\xa1\x67version\x02", "CARv2"),
    (b"\x0a\xa1\x67version\x01", "no CARv1"),
    (b"\x08\xa1\x65roots\x80", "no CARv1"),
    (b"\x11\xa2\x65roots\x80\x67version\x03", "no CARv1"),
    (b"\x12\xa2\x65roots\x80\x67version\x01\x00", "left over"),
    (b"\x0b\xa1\x65other\x80", "inside a header"),
    (b"\x08\xa1\x65other\x80", "unknown field"),
    (b"\x01\xbf", "no end"),
    (b"\x0a\xa1\x65roots\x9b\xff\xff", "cut off"),
    (b"\x10\xa1\x65roots\x9b" + b"\xff" * 8, "not what CARv1 wants"),
    (HEADER + b"\x00", "empty frame"),
    (HEADER + b"\x80", "inside a length"),
    (HEADER + b"\x80" * 12, "9 bytes"),
    (HEADER + varint.encode(1 << 62), "limit"),
    (HEADER + varint.encode(car.MAX_FRAME_BYTES + 1), "limit"),
    (HEADER + b"\x05\x01\x55", "inside a frame"),
    (HEADER + b"\x02\x01\x55", "no usable CID"),
    (HEADER + car.frame(ONE, b"onf") + b"onf", "claims to be"),
    (HEADER + car.frame(ONE, b"one") + b"on", "inside a frame"),
    (write([], [(ONE, b"one")]) + b"\x01", "inside a frame"),
])
def test_broken_cars_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(errors.Malformed, match=why):
        read(data)


def test_a_hash_that_cannot_be_computed_is_refused_by_name() -> None:
    name = b"\x01\x55\x13\x40" + bytes(64)
    with pytest.raises(errors.Malformed, match="sha2-512"):
        read(HEADER + varint.encode(len(name)) + name)


def test_a_block_over_the_limit_is_refused() -> None:
    data = bytes(MAX_BLOCK_BYTES)
    cid = CID(RAW, multihash(SHA2_256, data))
    assert read(write([], [(cid, data)]))[1] == [(cid, data)]
    data += b"\0"
    with pytest.raises(errors.Malformed, match="limit"):
        read(write([], [(CID(RAW, multihash(SHA2_256, data)), data)]))


def test_a_claimed_length_reserves_nothing_and_asks_for_nothing() -> None:
    asked = []
    source = io.BytesIO(HEADER + varint.encode(1 << 62))

    def read_some(count: int) -> bytes:
        asked.append(count)
        return source.read(count)

    with pytest.raises(errors.Malformed):
        list(car.CarReader(read_some))
    assert max(asked) == len(HEADER) - 1


@given(st.binary(max_size=100), st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_any_bytes_parse_or_are_malformed(data: bytes, at: int, byte: int, is_ours: bool) -> None:
    if is_ours:
        made = bytearray(write([ONE, INLINE], [(ONE, b"one"), (INLINE, b"inline")]))
        made[at % len(made)] = byte
        data = bytes(made)
    with contextlib.suppress(errors.Malformed):
        read(data)
