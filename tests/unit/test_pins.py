"""Pins: the total order, the wire form, digests."""

from __future__ import annotations

import json
from functools import reduce
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.hlc import stamp_of
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import (
    BUCKETS,
    CLOCK_SLACK_MS,
    Pin,
    Sight,
    bucket_of,
    check_name,
    horizon_ms,
    newer,
    outlived,
    record_digest,
    split_digests,
)

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40)


def cid(number: int, codec: int = RAW) -> CID:
    return CID(codec, multihash(SHA2_256, b"%d" % number))


PINS = st.builds(
    Pin,
    cid=st.builds(cid, st.integers(0, 5), st.sampled_from([RAW, DAG_PB])),
    name=NAMES,
    size=st.integers(0, 2**53 - 1),
    sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    replicas=st.integers(1, 9),
    blocks=st.integers(0, 10**9),
    created=st.integers(0, 2**40),
    stamp=st.integers(0, 3) | st.integers(0, 2**63 - 1),
    origin=st.sampled_from(["a", "b"]),
    removed=st.booleans(),
)
GOOD = Pin(cid(1), "backup/today.tar", 10, "ab" * 32, 3, 1, 1_790_000_000, 7 << 16, "node")


def merged(a: Pin, b: Pin) -> Pin:
    return a if newer(a, b) else b


@given(PINS)
def test_wire_form_and_back(pin: Pin) -> None:
    assert Pin.from_wire(json.loads(json.dumps(pin.to_wire()))) == pin
    assert Pin.from_wire(json.loads(pin.to_bytes())) == pin
    assert b"\n" not in pin.to_bytes()


@given(st.lists(PINS, min_size=3, max_size=3))
def test_merging_is_commutative_associative_and_idempotent(pins: list[Pin]) -> None:
    assert len({reduce(merged, order) for order in permutations(pins)}) == 1
    a, b, c = pins
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, a) == a
    assert not newer(a, a)
    assert newer(a, b) != newer(b, a) or a == b


def test_the_stamp_decides_before_the_origin_and_the_origin_before_the_bytes() -> None:
    assert newer(GOOD._replace(stamp=GOOD.stamp + 1, origin="a"), GOOD._replace(origin="z"))
    assert newer(GOOD._replace(origin="z", size=0), GOOD._replace(origin="a", size=9))
    assert newer(GOOD._replace(size=2), GOOD._replace(size=1))


BAD: dict[str, list[Any]] = {
    "cid": ["", "nonsense", 3, None, "b" * 500],
    "name": ["x" * 1025, "é" * 513, "a\nb", "a\x00", "\x1b[31m", "\ud800", "a\u2028b", 3, None],
    "size": [-1, 2**53, 1.0, True, "1", None],
    "sha256": ["AB" * 32, "ab" * 31, "", 3],
    "replicas": [0, 1025, False],
    "blocks": [-1, 1.5],
    "created": [-1, 1.5],
    "stamp": [-1, 2**63],
    "origin": ["", "a b", "x" * 129, "ä"],
    "removed": [0, "false", None],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD for value in BAD[field]])
def test_a_bad_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(errors.ProtocolError, match=r"name|record"):
        Pin.from_wire(GOOD.to_wire() | {field: value})


@pytest.mark.parametrize("field", Pin._fields)
def test_a_missing_field_is_refused(field: str) -> None:
    row = GOOD.to_wire()
    del row[field]
    with pytest.raises(errors.ProtocolError, match=field):
        Pin.from_wire(row)


def test_an_unknown_field_is_ignored() -> None:
    assert Pin.from_wire(GOOD.to_wire() | {"later": 1}) == GOOD


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(Pin._fields), inner),
    max_leaves=12,
)


@given(JSON, st.dictionaries(st.sampled_from(Pin._fields), JSON, max_size=3))
def test_anything_parses_or_is_refused(value: object, fields: dict[str, object]) -> None:
    for candidate in (value, GOOD.to_wire() | fields):
        try:
            pin = Pin.from_wire(candidate)
        except errors.ProtocolError:
            continue
        assert Pin.from_wire(pin.to_wire()) == pin


def test_names_of_many_scripts_are_names() -> None:
    for name in ("", "a b", "日本語", "naïve", "👩‍👩‍👧", "a/b/c", "x" * 1024):
        assert check_name(name) == name


def test_digests_and_buckets_never_change_silently() -> None:
    """A change here makes every node of a mixed cluster compare its whole catalog for ever."""
    assert GOOD.to_bytes() == (
        b'{"blocks":1,"cid":"bafkreidlq2zhh7zu7tqz224aj37vup2xi6w2j2vcf4outqa6klo3pb23jm",'
        b'"created":1790000000,"name":"backup/today.tar","origin":"node","removed":false,"replicas":3,'
        b'"sha256":"' + b"ab" * 32 + b'","size":10,"stamp":458752}'
    )
    assert record_digest(GOOD) == GOLDEN_DIGEST
    assert bucket_of(GOOD.key) == GOLDEN_BUCKET
    assert {bucket_of((cid(n), "")) for n in range(4000)} == set(range(BUCKETS))


GOLDEN_DIGEST = 0x120e2f91bad6aed716ac9e361490f74d
GOLDEN_BUCKET = 139


@given(st.binary(max_size=100))
def test_any_bytes_are_digests_or_refused(body: bytes) -> None:
    if len(body) % 16:
        with pytest.raises(errors.ProtocolError):
            split_digests(body)
    else:
        assert split_digests(body) == {body[start : start + 16] for start in range(0, len(body), 16)}


DAY_MS = 24 * 3600 * 1000
NOW_MS = 20_000 * DAY_MS + 12_345


@pytest.mark.parametrize(("life_s", "step_ms"), [(90 * 86400.0, DAY_MS), (86400.0, DAY_MS // 10), (60.0, 6000)])
def test_tombstones_go_on_all_nodes_together(life_s: float, step_ms: int) -> None:
    horizon = horizon_ms(NOW_MS, life_s)
    assert horizon % step_ms == 0
    assert 0 <= NOW_MS - life_s * 1000 - horizon < step_ms
    assert horizon_ms(5, life_s) == 0


def test_only_what_both_had_and_one_has_lost_was_removed() -> None:
    old = GOOD._replace(stamp=stamp_of(NOW_MS))
    young = GOOD._replace(name="young", stamp=stamp_of(NOW_MS + DAY_MS))
    gone = GOOD._replace(name="gone", stamp=stamp_of(NOW_MS), removed=True)
    compared = NOW_MS + CLOCK_SLACK_MS + 1
    sight = Sight(compared, compared, None)
    assert outlived([old, young, gone], [], sight, compared) == [old]
    assert outlived([old, young], [old._replace(stamp=1)], sight, compared) == []
    assert outlived([old], [], Sight(compared - 1, compared - 1, None), compared) == []
    assert outlived([old], [], sight, NOW_MS + 1) == []
    assert outlived([old], [], Sight(0, 0, None), compared) == []


def test_what_was_seen_through_others_counts_when_holder_and_writer_were_seen() -> None:
    old = GOOD._replace(stamp=stamp_of(NOW_MS))
    seen, purged = NOW_MS + CLOCK_SLACK_MS + 1, NOW_MS + DAY_MS
    assert outlived([old], [], Sight(0, seen, {old.origin: seen}), purged) == [old]
    assert outlived([old], [], Sight(0, seen, {old.origin: seen + 10 * DAY_MS}), purged) == [old]
    assert outlived([old], [], Sight(0, seen + 10 * DAY_MS, {old.origin: seen}), purged) == [old]
    assert outlived([old], [], Sight(0, seen - 1, {old.origin: seen}), purged) == [], "the writer may have lost it"
    assert outlived([old], [], Sight(0, seen, {old.origin: seen - 1}), purged) == [], "the holder may have got it later"
    assert outlived([old], [], Sight(0, seen, {}), purged) == []
    assert outlived([old], [], Sight(0, seen, {old.origin: seen}), NOW_MS) == [], "no such tombstone is gone"
    assert outlived([old], [], Sight(2 * purged, 2 * purged, {old.origin: 2 * purged}), purged) == []
