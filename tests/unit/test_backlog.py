"""What is missing: counted right, fetched once, and not asked for in vain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.core.audit import Live
from p2pfs.core.multihash import SHA2_256, Multihash, multihash
from p2pfs.node import backlog
from p2pfs.node.backlog import NOTHING, PARTS, Amount, Backlog, part_of


def live(number: int, size: int = 10) -> Live:
    return Live(multihash(SHA2_256, b"%d" % number), 2, size, False)


def test_each_block_is_handed_out_once_and_counts_until_it_is_here() -> None:
    work = Backlog()
    work.add([live(1), live(2), live(1)])
    assert work.missing == Amount(2, 20)
    first, second = work.take(), work.take()
    assert {first, second} == {live(1), live(2)}
    assert work.take() is None
    assert not work.is_idle, "both are being fetched"
    assert first
    assert second
    work.done(first)
    work.set_aside(second, "failed")
    assert work.is_idle
    assert work.missing == Amount(1, 10)
    assert work.displaced == NOTHING
    assert work.is_missing_in(part_of(second.block))
    assert not work.is_missing_in(part_of(first.block))


def test_what_failed_is_tried_again_after_the_next_comparison() -> None:
    work = Backlog()
    work.add([live(1)])
    work.set_aside(work.take() or live(0), "failed")
    work.add([live(1)])
    assert work.take() is None
    work.replace(part_of(live(1).block), [live(1)])
    assert work.take() == live(1)
    assert work.missing == Amount(1, 10)


def test_what_is_displaced_leaves_nothing_to_do_in_its_part() -> None:
    work = Backlog()
    part = part_of(live(1).block)
    work.add([live(1)])
    work.set_aside(work.take() or live(0), "displaced")
    assert (work.missing, work.displaced) == (Amount(1, 10), Amount(1, 10))
    assert not work.is_missing_in(part)
    work.replace(part, [live(1)])
    assert (work.missing, work.displaced) == (Amount(1, 10), NOTHING)
    assert work.is_missing_in(part)


def test_a_block_in_work_is_not_handed_out_again_by_a_comparison() -> None:
    work = Backlog()
    work.add([live(1)])
    taken = work.take()
    assert taken
    work.replace(part_of(taken.block), [live(1)])
    assert work.take() is None
    work.done(taken)
    assert work.missing == NOTHING


def test_what_is_more_than_can_be_remembered_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST", 3)
    work = Backlog()
    lives = [live(number) for number in range(10)]
    work.add(lives)
    assert work.missing == Amount(10, 100)
    handed = 0
    while taken := work.take():
        work.done(taken)
        handed += 1
    assert handed == 3
    assert work.missing == Amount(7, 70)
    assert any(work.is_missing_in(part) for part in range(PARTS))
    for part in range(PARTS):
        work.replace(part, [one for one in lives[3:] if part_of(one.block) == part])
    assert work.missing == Amount(7, 70)
    assert work.take()


def in_part(part: int, number: int = 0) -> Live:
    return Live(Multihash(bytes([0x12, 32, part]) + bytes(27) + number.to_bytes(4, "big")), 2, 10, False)


def compare(work: Backlog, missing: list[Live]) -> None:
    """What a comparison of all parts does."""
    for part in work.in_turn(range(PARTS)):
        work.replace(part, [Live(*one) for one in missing if part_of(one.block) == part])
    assert work.missing == Amount(len(missing), 10 * len(missing))
    assert work.displaced == NOTHING


def handed_out(work: Backlog, why: str, most: int) -> Iterator[Live]:
    """What is tried in vain between two comparisons."""
    for _ in range(most):
        taken = work.take()
        if taken is None:
            break
        work.set_aside(taken, why)
        yield taken


@pytest.mark.parametrize("why", ["failed", "displaced"])
@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("parts", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6], [0] * 10, [0, 9, 9, 9, 9, 9], [*range(11)] * 3])
def test_what_cannot_be_had_keeps_nothing_else_from_being_tried(
    monkeypatch: pytest.MonkeyPatch, parts: list[int], most: int, why: str
) -> None:
    """`most`: blocks that can be tried until the next comparison, which comes soon."""
    monkeypatch.setattr(backlog, "MOST", 3)
    work = Backlog()
    missing = [in_part(part, number) for number, part in enumerate(parts)]
    tried: set[Live] = set()
    for _ in range(3 * len(missing)):
        compare(work, missing)
        tried.update(handed_out(work, why, most))
    assert tried == set(missing)


def test_without_much_missing_what_fails_slowly_keeps_its_turn_over_comparisons() -> None:
    work = Backlog()
    missing = [in_part(part) for part in range(10)]
    tried: list[Live] = []
    for _ in range(10):
        compare(work, missing)
        tried += handed_out(work, "failed", 1)
    assert tried == missing


def test_what_was_set_aside_is_forgotten_first_and_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST", 2)
    work = Backlog()
    work.add([in_part(0), in_part(1)])
    work.set_aside(work.take() or live(0), "failed")
    work.set_aside(work.take() or live(0), "displaced")
    work.add([in_part(2), in_part(3), in_part(4)])
    assert {work.take(), work.take()} == {in_part(2), in_part(3)}
    assert (work.missing, work.displaced) == (Amount(5, 50), Amount(1, 10))
    assert [part for part in range(PARTS) if work.is_missing_in(part)] == [0, 2, 3, 4], "there is no room for that of 1"
    work.replace(1, [])
    assert (work.missing, work.displaced) == (Amount(4, 40), NOTHING)


STEPS = st.lists(st.tuples(
    st.sampled_from(["add", "replace", "take", "done", "failed", "displaced"]), st.integers(0, 12)
), max_size=60)


@given(STEPS)
def test_whatever_happens_the_sums_are_right(steps: list[tuple[str, int]]) -> None:
    work = Backlog()
    missing: set[int] = set()
    in_work: list[Live] = []
    number_of = {live(number).block: number for number in range(13)}
    for what, number in steps:
        part = part_of(live(number).block)
        if what == "add":
            work.add([live(number)])
            missing.add(number)
        elif what == "replace":
            work.replace(part, [live(number)])
            missing = {one for one in missing if part_of(live(one).block) != part} | {number}
        elif what == "take":
            taken = work.take()
            if taken:
                assert taken not in in_work, "nothing is fetched twice at once"
                in_work.append(taken)
        elif in_work:
            one = in_work.pop()
            if what == "done":
                work.done(one)
                missing.discard(number_of[one.block])
            else:
                work.set_aside(one, what)
        assert work.missing == Amount(len(missing), 10 * len(missing))
        assert 0 <= work.displaced.blocks <= work.missing.blocks
    assert {part for part in range(PARTS) if work.is_missing_in(part)} <= {part_of(live(one).block) for one in missing}
