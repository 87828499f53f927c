"""The members that are remembered from one start of a node to the next."""

from __future__ import annotations

import random
from pathlib import Path

from p2pfs.core.member import Member
from p2pfs.core.membership import Membership, Timing
from p2pfs.store.roster import FILE, load_members, save_members

ROWS = [Member(f"id{number}", "node", ("host:1",), "dead", 5, "z", dead_s=9) for number in range(5)]


def test_members_come_back(tmp_path: Path) -> None:
    assert load_members(tmp_path) == []
    save_members(tmp_path, ROWS[:1])
    save_members(tmp_path, ROWS)
    assert load_members(tmp_path) == ROWS


def test_a_line_that_cannot_be_read_costs_that_line_only(tmp_path: Path) -> None:
    save_members(tmp_path, ROWS)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes() + b"{}\n\xff\n" + b"[" * 100_000 + b"\n" + b'{"id": 1')
    assert load_members(tmp_path) == ROWS


def test_what_is_no_file_counts_as_no_members(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert load_members(tmp_path) == []


def test_a_restart_does_not_begin_the_time_of_a_dead_member_anew(tmp_path: Path) -> None:
    other = Member("other", "other", ("host:1",), "dead", 5, dead_s=100)
    me = Member("me", "me", ("host:2",), incarnation=7)
    before = Membership(me, Timing(), random.Random(1))
    before.merge(1000.0, [other], "")
    before.tick(1050.0)
    save_members(tmp_path, before.snapshot()[1:])
    after = Membership(me, Timing(), random.Random(1))
    after.merge(7.0, load_members(tmp_path), "")
    assert [row.id for row in after.owners_candidates(7.0, 151.0)] == ["me", "other"]
    assert [row.id for row in after.owners_candidates(7.0, 150.0)] == ["me"]
