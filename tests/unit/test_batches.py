"""Several small blocks in one body: what is packed comes back, and any bytes parse or raise one class of errors."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import batches, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash

CIDS = st.binary(max_size=8).map(lambda data: CID(RAW, multihash(SHA2_256, data)))
CID_TEXT = str(CID(RAW, multihash(SHA2_256, b"x"))).encode()
BLOCKS = st.lists(st.tuples(CIDS, st.binary(max_size=200)), max_size=batches.MOST)
OUTCOMES = st.lists(
    st.none() | st.integers(0, 10**20 - 1)
    | st.builds(errors.NoSpace, st.text(max_size=20)) | st.builds(errors.Corrupt, st.text(max_size=20)), min_size=1,
)


@given(BLOCKS)
def test_blocks_come_back(blocks: list[tuple[CID, bytes]]) -> None:
    assert batches.unpack(memoryview(batches.pack(blocks))) == blocks


def test_what_weighs_no_more_than_a_batch_may_fits_into_a_message_and_is_taken() -> None:
    for size in (0, 1, 4096, 10_000, wire.MAX_SMALL):
        count = batches.BYTES // batches.weight(size)
        cid = CID(RAW, multihash(SHA2_256, bytes(size)))
        body = batches.pack([(cid, bytes(size))] * count)
        assert len(body) <= batches.BYTES < wire.MAX_MESSAGE
        assert len(batches.unpack(memoryview(body))) == count <= batches.MOST


@given(st.lists(st.tuples(CIDS, st.integers(0, 10**20 - 1)), min_size=1, max_size=20))
def test_age_tokens_come_back(tokens: list[tuple[CID, int]]) -> None:
    assert batches.unpack_tokens(batches.pack_tokens(tokens)) == tokens


def test_a_discard_has_no_more_lines_than_the_protocol_says() -> None:
    row = CID_TEXT + b" 1"
    assert len(batches.unpack_tokens(b"\n".join([row] * 4096))) == 4096
    with pytest.raises(errors.TooBig):
        batches.unpack_tokens(b"\n".join([row] * 4097))


@given(st.lists(CIDS, min_size=1, max_size=20))
def test_cids_come_back(cids: list[CID]) -> None:
    assert batches.unpack_cids(batches.pack_cids(cids), 20) == cids


@given(OUTCOMES)
def test_outcomes_come_back(outcomes: list[Any]) -> None:
    back = batches.parse_outcomes(batches.format_outcomes(outcomes), len(outcomes))
    assert [(type(outcome), str(outcome)) for outcome in back] == [
        (type(outcome), str(outcome)) for outcome in outcomes
    ]


@given(st.binary(max_size=300) | st.lists(st.sampled_from([
    CID_TEXT, b" ", b"\n", b"3", b"abc", b"0", b"99999999999", b"-1", b"new", b"old", b"ERR", b"NO_SPACE", b"OK 3",
]), max_size=12).map(b"".join))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    for parse in (
        lambda: batches.unpack(memoryview(body)), lambda: batches.unpack_cids(body, 5),
        lambda: batches.parse_outcomes(body, 2), lambda: batches.parse_outcome(body),
    ):
        with contextlib.suppress(errors.ProtocolError):
            parse()


@pytest.mark.parametrize(("body", "what"), [
    (CID_TEXT + b" 3\nab", "a block of 3 bytes in a body of"),
    (CID_TEXT + b" %d\n" % (wire.MAX_SMALL + 1) + bytes(wire.MAX_SMALL + 1), "at most 65536"),
    ((CID_TEXT + b" 0\n") * (batches.MOST + 1), "over 128 blocks"),
    (CID_TEXT + b" 3", "is not CID and length"),
    (b"nonsense 3\nabc", "is no CID"),
    (b"x" * 1000, "is not CID and length"),
])
def test_what_breaks_a_limit_is_refused(body: bytes, what: str) -> None:
    with pytest.raises(errors.ProtocolError, match=what):
        batches.unpack(memoryview(body))


def test_a_long_reason_is_cut_so_that_the_answer_stays_a_message() -> None:
    outcomes = [errors.NoSpace("ü" * 10_000)] * batches.MOST
    assert len(batches.format_outcomes(outcomes)) < wire.MAX_MESSAGE
