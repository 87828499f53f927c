"""A membership row: its order and its wire form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.member import MAX_INCARNATION, MAX_ROWS, Member, news_from_wire, news_to_wire
from tests.strategies import MEMBERS

GOOD = Member("abc", "node", ("10.0.0.1:4001", "[fe80::1%eth0]:4001"), "alive", 7, "east", 2.0, "0.1", True, 5, 6)


@given(MEMBERS)
def test_wire_form_and_back(row: Member) -> None:
    assert Member.from_wire(json.loads(json.dumps(row.to_wire()))) == row


@given(MEMBERS, st.lists(MEMBERS, max_size=3))
def test_news_and_back(me: Member, rows: list[Member]) -> None:
    assert news_from_wire(json.loads(json.dumps(news_to_wire(me, rows)))) == (me, rows)


def test_a_row_is_small() -> None:
    assert len(json.dumps(Member("a" * 32, "node", ("10.0.0.1:4001",)).to_wire())) < 150


def test_the_order_is_that_of_swim() -> None:
    rows = [GOOD._replace(incarnation=i, state=state) for i in (1, 2) for state in ("alive", "suspect", "dead", "left")]
    assert sorted(rows, key=lambda row: row.precedence) == rows


def test_space_accuser_and_age_have_no_part_in_the_order() -> None:
    other = GOOD._replace(used_bytes=9, free_bytes=9, accuser="b", dead_s=9)
    assert other.precedence == GOOD.precedence


def test_what_peers_show() -> None:
    assert GOOD.shown_state == "draining"
    assert GOOD._replace(drains=False).shown_state == "alive"
    assert GOOD._replace(state="dead").shown_state == "dead"


BAD: dict[str, list[Any]] = {
    "id": ["", "a b", "x" * 129, 3, None, "ä"],
    "name": ["x" * 65, "a\nb", 3, None],
    "addresses": ["h:1", ["host"], ["h:0"], ["h:65536"], ["h:1"] * 9, [3], [":1"], ["a b:1"], [["h"]], None],
    "state": ["draining", "", 3, None, []],
    "incarnation": [-1, 1.0, True, MAX_INCARNATION + 1, "1", None],
    "zone": ["x" * 65, "\x00", 3],
    "capacity": [-1, float("nan"), float("inf"), 10_000.1, "1", True, None],
    "version": ["\x1b", 3],
    "drains": [0, "yes", None],
    "used_bytes": [-1, 0.5],
    "free_bytes": [-1, 0.5],
    "accuser": ["a b", 3, None],
    "dead_s": [-1, None],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD for value in BAD[field]])
def test_a_bad_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(errors.ProtocolError, match=field):
        Member.from_wire(GOOD.to_wire() | {field: value})


@pytest.mark.parametrize("field", ["id", "name", "addresses", "state", "incarnation"])
def test_a_missing_field_is_refused(field: str) -> None:
    row = GOOD.to_wire()
    del row[field]
    with pytest.raises(errors.ProtocolError, match=field):
        Member.from_wire(row)


FIELDS = st.sampled_from([*Member._fields, "from", "rows"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner),
    max_leaves=12,
)


@given(JSON, st.dictionaries(st.sampled_from(Member._fields), JSON, max_size=3))
def test_anything_parses_or_is_refused(value: object, fields: dict[str, object]) -> None:
    for parse, candidate in (
        (Member.from_wire, value), (Member.from_wire, GOOD.to_wire() | fields), (news_from_wire, value),
        (news_from_wire, {"from": GOOD.to_wire(), "rows": [value]}),
    ):
        try:
            parse(candidate)
        except errors.ProtocolError:
            continue


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(errors.ProtocolError, match="at most"):
        news_from_wire({"from": GOOD.to_wire(), "rows": [None] * (MAX_ROWS + 1)})
