"""The list of revoked ids: what merging does to it, what it does to the membership table, and its file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import revocation
from p2pfs.core.member import Member
from p2pfs.core.membership import Membership, Timing
from p2pfs.core.revocation import MAX_IDS, MOST_NEWS, Revocations
from p2pfs.store.revoked import FILE, load_revoked, save_revoked

IDS = st.lists(st.sampled_from([letter * 32 for letter in "abcdefgh234567"]), max_size=20)


def many(count: int, first: int = 0) -> list[str]:
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return [
        "".join(alphabet[number >> shift & 31] for shift in range(0, 160, 5)) for number in range(first, first + count)
    ]


# --- a set that only grows ---------------------------------------------------------------------------

@given(st.lists(IDS, max_size=5), st.randoms(use_true_random=False))
def test_in_whatever_order_and_however_often_the_union_comes_out(
    lists: list[list[str]], chance: random.Random
) -> None:
    union = set().union(*lists)
    again = [*lists, *lists]
    chance.shuffle(again)
    one, other = Revocations(), Revocations(lists[0] if lists else ())
    for ids in lists:
        one.merge(ids)
    for ids in again:
        other.merge(ids)
    assert one.all() == other.all() == sorted(union)
    assert all(id in one for id in union)
    assert one.merge(other.all()) == []


@given(st.lists(st.tuples(st.integers(0, 2 * MAX_IDS), st.integers(0, MAX_IDS)), max_size=4))
def test_it_is_bounded_and_what_is_on_it_stays(floods: list[tuple[int, int]]) -> None:
    revoked = Revocations(many(3, 100_000))
    before = set(revoked.all())
    for first, count in floods:
        new = revoked.merge(many(count, first))
        assert before | set(new) == set(revoked.all())
        before = set(revoked.all())
    assert len(revoked) <= MAX_IDS
    assert set(many(3, 100_000)) <= before


def test_one_too_many_is_refused_and_counted() -> None:
    revoked = Revocations(many(MAX_IDS + 2))
    assert (len(revoked), revoked.refused) == (MAX_IDS, 2)


@given(st.integers(1, 5), st.integers(1, 3 * MOST_NEWS))
def test_each_is_told_as_often_as_wanted(times: int, count: int) -> None:
    revoked = Revocations(many(count))
    told: dict[str, int] = {}
    while news := revoked.news(times):
        assert len(news) <= MOST_NEWS
        for id in news:
            told[id] = told.get(id, 0) + 1
    assert told == dict.fromkeys(many(count), times)
    assert revoked.all() == sorted(many(count))


# --- the field of a message --------------------------------------------------------------------------

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5)


@given(IDS)
def test_what_is_sent_is_what_comes(ids: list[str]) -> None:
    assert revocation.from_wire(revocation.to_wire(ids)) == ids


@pytest.mark.parametrize("value", [
    "a" * 32, {}, None, 1, ["a" * 31], ["A" * 32], ["a" * 31 + "\n"], ["a" * 33], [["a"]], [1], ["1" * 32],
    ["a" * 32] * (MAX_IDS + 1),
])
def test_another_field_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(errors.ProtocolError):
        revocation.from_wire({"revoked": value})


@given(JSON)
def test_any_json_is_a_list_of_ids_or_a_protocol_error(value: Any) -> None:
    try:
        ids = revocation.from_wire({"revoked": value})
    except errors.ProtocolError:
        return
    assert all(revocation.ID.fullmatch(id) for id in ids)


# --- in the table ------------------------------------------------------------------------------------

A, B = "a" * 32, "b" * 32


def row(id: str, state: str = "alive", incarnation: int = 1) -> Member:
    return Member(id, f"name-{id[0]}", ("host:1",), state, incarnation)


def table(*rows: Member) -> Membership:
    made = Membership(row("m" * 32), Timing(), random.Random(1))
    made.merge(0.0, rows, "")
    return made


@pytest.mark.parametrize("state", ["alive", "suspect", "dead"])
def test_who_is_revoked_is_struck_alive_or_not(state: str) -> None:
    membership = table(row(A, state), row(B))
    changes = membership.revoke(1.0, [A])
    assert [(change.member.id, change.new) for change in changes] == [(A, "left")]
    assert [member.id for member in membership.members()] == [membership.me.id, B]
    assert {candidate.id for candidate in membership.owners_candidates(1.0, 600.0)} == {membership.me.id, B}
    assert membership.revoke(2.0, [A]) == []


@given(st.lists(st.tuples(st.sampled_from(["alive", "suspect", "dead", "left"]), st.integers(0, 50)), max_size=10))
def test_no_row_brings_it_back(rows: list[tuple[str, int]]) -> None:
    membership = table(row(A), row(B))
    membership.revoke(1.0, [A])
    for number, (state, incarnation) in enumerate(rows):
        # Its own word and others', before and after its row is gone.
        assert membership.merge(2.0 + 9000.0 * number, [row(A, state, incarnation)], (A, B)[number % 2]) == []
        membership.tick(2.0 + 9000.0 * number)
    assert A not in {member.id for member in membership.members()}
    assert all(target.id == B for target in (membership.next_probe(1e6) for _ in range(5)) if target)


def test_an_id_that_nobody_knows_does_not_get_in_later() -> None:
    membership = table(row(B))
    assert membership.revoke(1.0, [A]) == []
    membership.merge(2.0, [row(A)], B)
    membership.merge(2.0, [row(A)], A)
    assert membership.get(A) is None
    assert membership.next_stranger(3.0) is None, "nor is it called because others tell of it"


def test_whom_others_told_of_is_not_met_once_it_is_revoked() -> None:
    membership = table(row(B))
    membership.merge(1.0, [row(A)], B)
    being_met = membership.next_stranger(2.0)
    assert being_met is not None
    membership.revoke(3.0, [A])
    assert membership.unmet() == [], "no collection waits for it"
    assert membership.indirect_ok(4.0, being_met.id) == [], "a helper that does not know yet reached it"
    assert membership.get(A) is None


def test_it_travels_with_probes_a_bounded_number_of_times() -> None:
    membership = table(row(A), row(B))
    membership.revoke(1.0, [A])
    told = [membership.revoked_updates() for _ in range(20)]
    assert told[0] == [A]
    assert told[-1] == []


# --- on disk -----------------------------------------------------------------------------------------

def test_the_list_comes_back(tmp_path: Path) -> None:
    assert load_revoked(tmp_path) == []
    save_revoked(tmp_path, [A])
    save_revoked(tmp_path, [A, B])
    assert load_revoked(tmp_path) == [A, B]
    assert (tmp_path / FILE).read_text() == f"{A}\n{B}\n"


def test_a_full_list_comes_back_whole(tmp_path: Path) -> None:
    save_revoked(tmp_path, many(MAX_IDS))
    assert load_revoked(tmp_path) == many(MAX_IDS)


@given(st.binary(max_size=200))
def test_any_bytes_in_the_file_cost_the_lines_they_are_in(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("revoked")
    (folder / FILE).write_bytes(f"{A}\n".encode() + data + f"\n{B}\n".encode())
    found = load_revoked(folder)
    assert {A, B} <= set(found)
    assert all(revocation.ID.fullmatch(id) for id in found)


def test_a_list_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(errors.Refused, match="copy it from another node"):
        load_revoked(tmp_path)
