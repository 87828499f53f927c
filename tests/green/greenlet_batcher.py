"""Questions that are answered in batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p2pfs import errors, green
from p2pfs.node.batcher import Batcher


@pytest.fixture
def group() -> Iterator[green.Group]:
    group = green.Group("test")
    yield group
    group.close()


class Slow:
    """Answers with the doubled number, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = green.Event()

    def __call__(self, numbers: list[int]) -> list[int | errors.P2pfsError]:
        self.batches.append(numbers)
        assert self.may_answer.wait(30)
        return [errors.NotFound("three") if number == 3 else 2 * number for number in numbers]


def ask(group: green.Group, batcher: Batcher[int, int], *numbers: int) -> list[object]:
    """Ask all at once; the list fills with answers, and with errors."""
    answers: list[object] = []

    def one(number: int) -> None:
        try:
            answers.append(batcher.ask(number, 10))
        except errors.P2pfsError as error:
            answers.append(error.token)

    for number in numbers:
        group.spawn("ask", one, number)
    green.sleep(0)
    return answers


def test_what_waits_travels_together(group: green.Group) -> None:
    slow = Slow()
    batcher = Batcher(group, "doubled", slow, most=3)
    answers = ask(group, batcher, 1, 2, 3, 4, 5)
    slow.may_answer.set()
    assert group.join(30)
    assert slow.batches == [[1, 2, 3], [4, 5]]
    assert answers == [2, 4, "NOT_FOUND", 8, 10]


def test_several_batches_are_on_their_way_at_once(group: green.Group) -> None:
    slow = Slow()
    batcher = Batcher(group, "doubled", slow, most=2, at_once=2)
    ask(group, batcher, 1, 2, 4, 5, 6)
    green.sleep(0)
    assert slow.batches == [[1, 2], [4, 5]]
    slow.may_answer.set()
    assert group.join(30)
    assert slow.batches[2:] == [[6]]


def test_a_batch_is_limited_by_weight_and_the_heaviest_goes_alone(group: green.Group) -> None:
    slow = Slow()
    slow.may_answer.set()
    batcher = Batcher(group, "doubled", slow, most=10, weigh=lambda number: number)
    ask(group, batcher, 4, 5, 2, 50, 1)
    assert group.join(30)
    assert slow.batches == [[4, 5], [2], [50], [1]]


def test_one_error_is_everybodys(group: green.Group) -> None:
    def refuse(numbers: list[int]) -> list[int]:
        raise errors.Unreachable("gone")

    answers = ask(group, Batcher(group, "doubled", refuse, most=3), 1, 2)
    assert group.join(30)
    assert answers == ["UNREACHABLE", "UNREACHABLE"]


def test_a_bug_ends_no_wait(group: green.Group, caplog: pytest.LogCaptureFixture) -> None:
    answers = ask(group, Batcher(group, "doubled", lambda numbers: [1 // 0], most=3), 1, 2)
    assert group.join(30)
    assert answers == ["INTERNAL", "INTERNAL"]
    assert "greenlet test/doubled failed" in caplog.text


def test_a_bug_is_met_by_its_batch_alone(group: green.Group) -> None:
    def invert(numbers: list[int]) -> list[int]:
        return [6 // number for number in numbers]

    answers = ask(group, Batcher(group, "inverted", invert, most=1), 0, 3, 0, 2)
    assert group.join(30)
    assert answers == ["INTERNAL", 2, "INTERNAL", 3]


def test_who_waits_no_longer_takes_his_question_back(group: green.Group) -> None:
    slow = Slow()
    batcher = Batcher(group, "doubled", slow, most=1)
    ask(group, batcher, 1)
    waiting = group.spawn("waiting", batcher.ask, 7, 10)
    green.sleep(0)
    waiting.kill()
    with pytest.raises(errors.DeadlinePassed):
        batcher.ask(8, 0.01)
    slow.may_answer.set()
    assert group.join(30)
    assert slow.batches == [[1]]


def test_the_end_of_the_group_answers_who_asked() -> None:
    askers, workers = green.Group("askers"), green.Group("workers")
    answers = ask(askers, Batcher(workers, "doubled", Slow(), most=2), 1, 2, 4)
    green.sleep(0)
    workers.close()
    assert askers.join(30)
    assert answers == ["INTERRUPTED"] * 3
