"""dag-pb: canonical writing, liberal but bounded reading."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import dagpb, varint

links = st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300), st.integers(0, 2**64 - 1))


@given(st.lists(links, max_size=20), st.binary(max_size=300))
def test_what_is_encoded_is_decoded(links: list[dagpb.PBLink], data: bytes) -> None:
    block = dagpb.encode(links, data)
    assert dagpb.decode(block) == (links, data)
    assert dagpb.decode(memoryview(bytearray(block))) == (links, data)
    assert block.startswith(b"".join(dagpb.encode_link(*link) for link in links))


def field(tag: int, body: bytes) -> bytes:
    return bytes([tag]) + varint.encode(len(body)) + body


LINK = field(0x12, field(0x0A, b"hash") + field(0x12, b"") + b"\x18\x05")


def test_an_empty_block_is_an_empty_node() -> None:
    assert dagpb.decode(b"") == ([], None)


def test_data_may_come_first_and_names_and_tsizes_may_be_left_out() -> None:
    assert dagpb.decode(field(0x0A, b"d") + LINK) == ([(b"hash", b"", 5)], b"d")
    assert dagpb.decode(field(0x12, field(0x0A, b"h"))) == ([(b"h", b"", 0)], None)


@pytest.mark.parametrize("block", [
    LINK + field(0x0A, b"d") + LINK,  # links on both sides
    field(0x0A, b"") + field(0x0A, b""),  # data twice
    field(0x1A, b""),  # unknown field
    b"\x10\x01",  # a link that is a number
    b"\x12",
    b"\x12\x7f\x0a",
    field(0x12, b""),  # no hash
    field(0x12, field(0x0A, b"")),  # an empty hash
    field(0x12, field(0x12, b"name")),
    field(0x12, field(0x0A, b"h") * 2),
    field(0x12, field(0x0A, b"h") + b"\x18\x01\x18\x01"),
    field(0x12, field(0x0A, b"h") + field(0x22, b"")),
    field(0x12, field(0x0A, b"h") + b"\x18\xff"),
    field(0x12, field(0x0A, b"h") + b"\x18"),
    field(0x12, b"\x0a\x09h"),
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\0" * (dagpb.MAX_BLOCK_BYTES + 1),
    field(0x12, field(0x0A, b"h")) * (dagpb.MAX_LINKS + 1),
])
def test_malformed_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(errors.Malformed):
        dagpb.decode(block)


def test_a_link_ends_where_its_length_says() -> None:
    # The tsize's varint would take the first byte of the data that follows.
    block = b"\x12\x06" + field(0x0A, b"ha") + b"\x18\x81" + field(0x0A, b"")
    with pytest.raises(errors.Malformed):
        dagpb.decode(block)


@given(st.one_of(
    st.binary(max_size=200),
    st.tuples(st.lists(links, max_size=3), st.binary(max_size=20), st.integers(0, 400), st.integers(0, 255)).map(
        lambda made: _with_one_byte(dagpb.encode(made[0], made[1]), made[2], made[3])
    ),
))
def test_any_bytes_parse_or_are_malformed(block: bytes) -> None:
    with contextlib.suppress(errors.Malformed):
        found, data = dagpb.decode(block)
        assert all(hash for hash, _, _ in found)
        assert data is None or len(data) <= len(block)


def _with_one_byte(block: bytes, at: int, byte: int) -> bytes:
    at %= len(block)
    return block[:at] + bytes([byte]) + block[at + 1 :]
