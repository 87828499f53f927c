"""Names of files and folders in a data directory."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.multihash import BLAKE3, SHA2_256, multihash, shard_of
from p2pfs.store import layout


def test_a_file_is_named_as_sha256sum_names_it() -> None:
    block = multihash(SHA2_256, b"hello\n")
    assert layout.block_name(block) == hashlib.sha256(b"hello\n").hexdigest()
    assert layout.block_name(multihash(BLAKE3, b"hello\n")).endswith(".blake3")


@given(st.binary(max_size=50), st.sampled_from([SHA2_256, BLAKE3]))
def test_names_parse_back_and_begin_with_their_folder(data: bytes, code: int) -> None:
    block = multihash(code, data)
    name = layout.block_name(block)
    assert layout.parse_name(name) == block
    assert name.startswith(layout.SHARD_FOLDERS[shard_of(block)])


def test_there_is_a_folder_of_three_digits_for_each_shard() -> None:
    folders = list(layout.SHARD_FOLDERS)
    assert len(folders) == 4096 and folders == sorted(set(folders))
    assert folders[0] == "000" and folders[-1] == "fff"


@pytest.mark.parametrize("name", [
    "", "README", ".temp", "ab" * 31, "ab" * 33, "AB" * 32, "ab" * 32 + ".", "ab" * 32 + ".sha512",
    "ab" * 32 + "\n", "ab" * 32 + ".blake3~", "zz" * 32, "\u0661" * 64, "ab" * 32 + ".BLAKE3",
])
def test_foreign_names_are_no_blocks(name: str) -> None:
    assert layout.parse_name(name) is None


@given(st.text())
def test_any_text_is_a_block_or_none(name: str) -> None:
    block = layout.parse_name(name)
    assert block is None or layout.block_name(block) == name


@pytest.mark.parametrize("block", [
    b"", b"\x12", b"\x12\x20" + bytes(31), b"\x12\x20" + bytes(33), b"\x00\x03abc", b"\x13\x40" + bytes(64),
])
def test_other_multihashes_have_no_file(block: bytes) -> None:
    with pytest.raises(errors.BadCid, match="sha2-256"):
        layout.block_name(block)
