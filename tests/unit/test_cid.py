"""CIDs and multihashes: one spelling each, every text form, and BadCid for anything else."""

from __future__ import annotations

import contextlib
import hashlib

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import multihash as mh
from p2pfs.core.cid import CID, DAG_PB, MAX_CID_BYTES, RAW

HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
HELLO_V0 = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"

cids = st.builds(
    lambda codec, code, data, is_v0: CID(DAG_PB, mh.multihash(mh.SHA2_256, data), 0) if is_v0
    else CID(codec, mh.multihash(code, data)),
    st.sampled_from([RAW, DAG_PB, 0x71, 0x0129]),
    st.sampled_from([mh.SHA2_256, mh.BLAKE3, mh.IDENTITY]),
    st.binary(max_size=128),
    st.booleans(),
)


@given(cids, st.binary(max_size=5))
def test_every_cid_round_trips(cid: CID, after: bytes) -> None:
    data = cid.encode()
    assert len(data) <= MAX_CID_BYTES
    assert CID.decode(data) == cid
    assert CID.read(b"??" + data + after, 2) == (cid, 2 + len(data))
    assert CID.parse(str(cid)) == cid
    if cid.version:
        assert CID.parse("f" + data.hex()) == cid
        assert CID.parse("F" + data.hex().upper()) == cid
        assert CID.parse(str(cid).upper()) == cid


def test_a_known_cid() -> None:
    cid = CID.parse(HELLO)
    assert cid == CID(RAW, b"\x12\x20" + hashlib.sha256(b"hello world").digest())
    assert str(cid) == HELLO
    assert not cid.is_identity
    # 0xb94d... : the first 12 bits of the digest.
    assert cid.shard == 0xB94


def test_base36_and_base58() -> None:
    # The same CIDv1 in other bases, as `ipfs cid format -b` prints it.
    number = int.from_bytes(CID.parse(HELLO).encode(), "big")
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    assert CID.parse("k" + digits) == CID.parse(HELLO)
    assert CID.parse("K" + digits.upper()) == CID.parse(HELLO)


def test_cidv0_is_dag_pb_with_the_multihash_of_its_v1() -> None:
    cid = CID.parse(HELLO_V0)
    assert (cid.codec, cid.version, len(cid.encode())) == (DAG_PB, 0, 34)
    assert str(cid) == HELLO_V0


def test_the_empty_identity_cid() -> None:
    cid = CID.parse("bafkqaaa")
    assert cid.is_identity
    assert mh.digest_of(cid.multihash) == b""


@pytest.mark.parametrize("text", [
    "", "b", "x", HELLO[:-1], HELLO + "a", HELLO[:-1] + "f", HELLO.replace("k", "K", 1), HELLO + "=", "z" + HELLO_V0,
    HELLO_V0[:-1],
    "f01551220" + "00" * 33, "Qm" + "0" * 44, "Qm" + "z" * 44, "bafk€", "f01551220", "f0", "k", "B" + HELLO[1:],
    "a" * 100_000,
    "f0055122000", "f0255" + "1220" + "00" * 32, "f0155" + "1320" + "00" * 32, "f0155" + "121f" + "00" * 31,
    "f015500" + "8101" + "00" * 129, "f8100551200", "f1220" + "00" * 32, " " + HELLO,
])
def test_what_is_no_cid_is_refused_by_name(text: str) -> None:
    with pytest.raises(errors.BadCid) as caught:
        CID.parse(text)
    assert len(str(caught.value)) < 600


def test_a_hash_that_cannot_be_verified_is_named() -> None:
    with pytest.raises(errors.BadCid, match="sha2-512"):
        CID.parse("f0155" + "1340" + "00" * 64)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_cid_or_bad(data: bytes) -> None:
    with contextlib.suppress(errors.BadCid):
        assert CID.decode(data).encode() == data


@given(st.text(max_size=80))
def test_any_text_is_a_cid_or_bad(text: str) -> None:
    with contextlib.suppress(errors.BadCid):
        CID.parse(text)


# --- multihashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "digest"), [
    ("sha2-256", lambda data: hashlib.sha256(data).digest()), ("blake3", lambda data: blake3.blake3(data).digest()),
])
@given(data=st.binary(max_size=300))
def test_multihashes_are_the_digest_with_a_head(name: str, digest, data: bytes) -> None:  # type: ignore[no-untyped-def]
    code = mh.HASHES[name]
    made = mh.multihash(code, memoryview(data))
    assert made == bytes([code, 32]) + digest(data)
    assert mh.matches(made, bytearray(data))
    assert not mh.matches(made, data + b"x")
    assert mh.code_of(made) == code
    assert mh.shard_of(made) == int(made[2:4].hex()[:3], 16)


@given(st.binary(max_size=128))
def test_identity_multihashes_hold_the_data(data: bytes) -> None:
    made = mh.multihash(mh.IDENTITY, data)
    assert mh.digest_of(made) == data
    assert mh.matches(made, memoryview(data))
    assert mh.read(made, 0) == (made, len(made))


def test_unknown_hashes_are_refused_by_name() -> None:
    with pytest.raises(errors.Malformed, match="sha1"):
        mh.matches(b"\x11\x14" + b"\0" * 20, b"")
    with pytest.raises(errors.Malformed, match="0x99"):
        mh.multihash(0x99, b"")
    with pytest.raises(errors.Malformed):
        mh.multihash(mh.IDENTITY, b"x" * 129)
