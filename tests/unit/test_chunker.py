"""Cutting: arithmetic for fixed sizes; FastCDC the same however the bytes arrive."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.chunker import Cutter, fixed_cuts
from p2pfs.core.profile import CHUNKERS, MIB, Profile, profile
from tests.unit.dags import Blocks, add_file, content

SMALL_CDC = Profile("fastcdc", 4096, 1024, 8192, is_fixed=False)
NOISE = random.Random(1).randbytes(200_000)


def cuts(data: bytes, made: Profile) -> list[int]:
    """Leaf lengths, cut one by one, each from a window that holds just what it needs: the definition."""
    cutter, pos, lengths = Cutter(made), 0, []
    while pos < len(data):
        window = data[pos : pos + cutter.window_bytes]
        lengths.append(cutter.cuts(window, pos + len(window) == len(data))[0])
        pos += lengths[-1]
    return lengths


@given(st.integers(0, 5000), st.integers(1, 700))
def test_fixed_cuts_cover_the_file(size: int, chunk_bytes: int) -> None:
    found = list(fixed_cuts(size, chunk_bytes))
    assert sum(length for _, length in found) == size
    assert [offset for offset, _ in found] == list(range(0, max(size, 1), chunk_bytes))
    assert all(length == chunk_bytes for _, length in found[:-1])


@settings(max_examples=30)
@given(st.integers(0, len(NOISE)), st.lists(st.integers(1, 20_000), min_size=1, max_size=10))
def test_cuts_do_not_depend_on_how_the_bytes_arrive(size: int, steps: list[int]) -> None:
    data = NOISE[:size]
    cutter, buffer, lengths, pos, step = Cutter(SMALL_CDC), bytearray(), [], 0, 0
    while pos < size or buffer:
        while len(buffer) < cutter.window_bytes and pos < size:
            piece = data[pos : pos + steps[step % len(steps)]]
            buffer += piece
            pos, step = pos + len(piece), step + 1
        found = cutter.cuts(buffer, pos == size)
        assert found
        lengths += found
        del buffer[: sum(found)]
    assert lengths == cuts(data, SMALL_CDC)
    assert sum(lengths) == size
    assert all(SMALL_CDC.min_leaf_bytes <= length <= SMALL_CDC.max_leaf_bytes for length in lengths[:-1])


FIXED = SMALL_CDC._replace(is_fixed=True).with_chunk(4096)


@pytest.mark.parametrize("made", [FIXED, SMALL_CDC, SMALL_CDC._replace(max_leaf_bytes=4097)])
@settings(max_examples=50)
@given(st.data(), st.sampled_from([NOISE, bytes(len(NOISE)), NOISE[:3000] * 60]))
def test_windows_of_any_length_give_the_same_cuts(made: Profile, data: st.DataObject, content: bytes) -> None:
    content = content[: data.draw(st.integers(0, len(content)))]
    cutter, lengths = Cutter(made), []
    while (done := sum(lengths)) < len(content):
        end = min(len(content), done + data.draw(st.integers(cutter.window_bytes, 60_000)))
        lengths += cutter.cuts(memoryview(content)[done:end], end == len(content))
    assert lengths == cuts(content, made)


def test_an_insertion_moves_few_cuts() -> None:
    def ends(data: bytes) -> set[bytes]:
        found, pos = set(), 0
        for length in cuts(data, SMALL_CDC):
            found.add(hashlib.sha256(data[pos : pos + length]).digest())
            pos += length
        return found

    before, after = ends(NOISE), ends(NOISE[:5000] + b"inserted" + NOISE[5000:])
    assert len(before - after) <= 3


@pytest.mark.parametrize(("chunker", "cid", "lengths"), [
    ("fastcdc-1MiB", "bafybeie4whvyqpaodxo2vdfgetyeusghvy6w4qujzbc6gxegt5ms2fleqy", [
        1343788, 1133810, 1534685, 276870, 810356, 997632, 194315,
    ]),
    ("fastcdc-256KiB", "bafybeihqfh72rl7zmx3tnuoqlyk6vcgvh6wcxksg4rzvfns64sgvafdse4", [
        315673, 497789, 226360, 303966, 290838, 410247, 371263, 311291, 279138, 135912, 346037, 523769, 74824, 202046,
        524288, 286068, 524288, 473344, 194315,
    ]),
])
def test_the_parameters_behind_the_chunker_names_are_pinned(chunker: str, cid: str, lengths: list[int]) -> None:
    # These fix the CIDs of everything stored with these names: they may never change.
    data = b"".join(hashlib.shake_128(b"p2pfs-cdc-%d" % block).digest(65536) for block in range(96))
    assert cuts(data, profile(chunker)) == lengths
    assert str(add_file([data], profile(chunker), Blocks()).cid) == cid


def test_a_short_window_before_the_end_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="are needed"):
        Cutter(SMALL_CDC).cuts(b"x" * 100, False)
    assert Cutter(SMALL_CDC).cuts(b"", True) == []


@pytest.mark.parametrize("chunker", CHUNKERS)
def test_no_leaf_is_over_two_mebibytes(chunker: str) -> None:
    made = profile(chunker)
    data = bytes(5 * MIB)
    assert max(cuts(data, made)) == made.max_leaf_bytes <= 2 * MIB
    store = Blocks()
    assert b"".join(content(store, add_file([data], made, store).cid)) == data


def test_unknown_options_are_refused_with_what_there_is() -> None:
    with pytest.raises(errors.UsageError, match="fixed-1MiB"):
        profile("rabin")
    with pytest.raises(errors.UsageError, match="blake3"):
        profile(hash="md5")
