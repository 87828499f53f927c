"""The UnixFS message."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import unixfs, varint


@given(st.lists(st.integers(0, 2**60), max_size=8))
def test_a_file_branch_says_its_sizes(sizes: list[int]) -> None:
    node = unixfs.decode(unixfs.encode_file(sizes))
    assert (node.type, node.filesize, list(node.blocksizes), node.data) == (2, sum(sizes), sizes, b"")


def test_known_messages() -> None:
    assert unixfs.encode_file([1048576, 1]).hex() == "080218818040208080402001"
    assert unixfs.encode_symlink(b"target.txt").hex() == "0804120a7461726765742e747874"
    assert unixfs.decode(unixfs.DIRECTORY_DATA) == unixfs.UnixFs(unixfs.TYPE_DIRECTORY, blocksizes=[])


@given(st.sets(st.integers(0, 255), min_size=1))
def test_a_shard_cuts_its_bitfield(buckets: set[int]) -> None:
    node = unixfs.decode(unixfs.encode_shard(sum(1 << bucket for bucket in buckets)))
    assert (node.type, node.hash_type, node.fanout) == (unixfs.TYPE_SHARD, 0x22, 256)
    assert len(node.data) == max(buckets) // 8 + 1
    assert {i for i in range(256) if int.from_bytes(node.data, "big") >> i & 1} == buckets


def test_mode_and_mtime() -> None:
    data = b"\x08\x02\x38\xe9\x03\x42\x0b\x08\x80\xe2\xcf\xaa\x06\x15\x15\xcd\x5b\x07"
    node = unixfs.decode(data)
    assert (node.mode, node.mtime) == (489, (1700000000, 123456789))
    before = b"\x08\x02\x42\x0b\x08" + varint.encode(2**64 - 5)
    assert unixfs.decode(before).mtime == (-5, 0)


def test_packed_blocksizes_and_unknown_fields_are_read() -> None:
    node = unixfs.decode(
        b"\x08\x02\x18\x03\x22\x02\x01\x02" + b"\x48\x01" + b"\x52\x01x" + b"\x5d1234" + b"\x6112345678"
    )
    assert (node.filesize, list(node.blocksizes)) == (3, [1, 2])


@pytest.mark.parametrize("hex", [
    "",  # no type
    "1800",
    "08",  # cut off
    "0802" + "120561",
    "0802" + "2202ff",
    "0802" + "4203ffffff",
    "0a00",  # a type that is no number
    "1000",  # data that is a number
    "0802" + "3a00",  # a mode that is no number
    "0802" + "09" + "00" * 8,  # fixed64 for the type
    "0802" + "59" + "00" * 3,
    "0802" + "5b",  # a group
    "0802" + "2000" * 65537,
    "0802" + "4200",  # an mtime without seconds
    "0802" + "4207" + "0801" + "15ffffffff",  # over a second
    "0802" + "4207" + "0801" + "1500000000",
])
def test_malformed_messages_are_refused(hex: str) -> None:
    with pytest.raises(errors.Malformed):
        unixfs.decode(bytes.fromhex(hex))


@given(st.binary(max_size=80).flatmap(lambda tail: st.sampled_from([tail, b"\x08\x02" + tail, b"\x08\x05" + tail])))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    with contextlib.suppress(errors.Malformed):
        node = unixfs.decode(data)
        assert len(node.data) <= len(data)
