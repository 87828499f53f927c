"""Varints: both dialects, every length, and nothing but Malformed for bad bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import varint


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_what_is_encoded_is_decoded_where_it_stands(value: int, before: bytes, after: bytes) -> None:
    data = before + varint.encode(value) + after
    end = len(data) - len(after)
    assert varint.decode(data, len(before)) == (value, end)
    assert varint.decode_protobuf(data, len(before)) == (value, end)
    assert varint.length(value) == len(varint.encode(value))


@pytest.mark.parametrize(("value", "hex"), [
    (0, "00"), (127, "7f"), (128, "8001"), (16384, "808001"), (2**63 - 1, "ffffffffffffffff7f"),
    (2**64 - 1, "ffffffffffffffffff01"),
])
def test_known_encodings(value: int, hex: str) -> None:
    assert varint.encode(value).hex() == hex
    assert varint.decode_protobuf(bytes.fromhex(hex), 0) == (value, len(hex) // 2)


@pytest.mark.parametrize("hex", ["", "80", "8000", "ff00", "ffffffffffffffffff01", "80" * 20])
def test_the_strict_dialect_refuses(hex: str) -> None:
    with pytest.raises(errors.Malformed):
        varint.decode(bytes.fromhex(hex), 0)


@pytest.mark.parametrize("hex", ["", "80", "ffffffffffffffffff02", "80" * 11 + "00"])
def test_the_protobuf_dialect_refuses(hex: str) -> None:
    with pytest.raises(errors.Malformed):
        varint.decode_protobuf(bytes.fromhex(hex), 0)


def test_the_protobuf_dialect_takes_longer_forms() -> None:
    assert varint.decode_protobuf(b"\x81\x00", 0) == (1, 2)


@given(st.binary(max_size=12), st.integers(0, 12))
def test_any_bytes_parse_or_are_malformed(data: bytes, pos: int) -> None:
    for decode in (varint.decode, varint.decode_protobuf):
        with contextlib.suppress(errors.Malformed):
            value, end = decode(data, pos)
            assert 0 <= value < 2**64
            assert pos < end <= len(data)
