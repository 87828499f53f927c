"""Small questions answered together: to a disk or to a peer the second one of a batch costs next to nothing."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from p2pfs import errors, green

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(eq=False)
class _Question(Generic[Q, A]):
    """Something that waits for its answer."""

    item: Q
    done: green.Event
    answer: A | errors.P2pfsError | None = None


class Batcher(Generic[Q, A]):
    """Questions that are answered in batches: what waits while others are on their way travels together in the next.

    So batches grow with the load, and nobody waits for one to fill. How many wait is up to those who ask: each waits
    for its answer, and takes its question back when it is ended.
    """

    def __init__(
        self, group: green.Group, name: str, answer: Callable[[list[Q]], Sequence[A | errors.P2pfsError]],
        most: int, at_once: int = 1, weigh: Callable[[Q], int] = lambda item: 1,
    ) -> None:
        """`answer` gets a batch and gives as many answers, or raises a P2pfsError for all of them.

        A batch weighs at most `most` (a single heavier question goes alone); `at_once` of them are on their way.
        """
        self._group = group
        self._name = name
        self._answer = answer
        self._most = most
        self._at_once = at_once
        self._weigh = weigh
        self._waiting: collections.deque[_Question[Q, A]] = collections.deque()
        self._running = 0

    def ask(self, item: Q, wait_s: float) -> A:
        """The answer to one question. Raises what it came to, DeadlinePassed when it took longer than `wait_s`."""
        question = _Question[Q, A](item, green.Event())
        self._waiting.append(question)
        if self._running < self._at_once:
            self._begin()
        try:
            question.done.wait(wait_s)
        finally:
            if not question.done.is_set():
                with contextlib.suppress(ValueError):  # it may be on its way
                    self._waiting.remove(question)
        if not question.done.is_set():
            raise errors.DeadlinePassed(f"{self._name}: no answer within {wait_s:g} s")
        if isinstance(question.answer, errors.P2pfsError):
            raise question.answer
        return cast(A, question.answer)

    def _begin(self) -> None:
        self._running += 1
        self._group.spawn(self._name, self._work)

    def _work(self) -> None:
        try:
            while self._waiting:
                self._answer_batch(self._next())
        except green.GreenletExit:
            while self._waiting:  # nobody comes any more
                batch = self._next()
                self._settle(batch, [self._interrupted()] * len(batch))
            raise
        finally:
            self._running -= 1
            if self._waiting:  # a bug ended this one: it is that of its batch alone
                self._begin()

    def _next(self) -> list[_Question[Q, A]]:
        batch: list[_Question[Q, A]] = []
        weight = 0
        while self._waiting:
            weight += self._weigh(self._waiting[0].item)
            if batch and weight > self._most:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _answer_batch(self, batch: list[_Question[Q, A]]) -> None:
        answers: Sequence[A | errors.P2pfsError] = [self._interrupted()] * len(batch)
        try:
            answers = self._answer([question.item for question in batch])
        except errors.P2pfsError as error:
            answers = [error] * len(batch)
        except Exception as error:
            answers = [errors.InternalError(f"{self._name}: {error!r}")] * len(batch)
            raise
        finally:
            self._settle(batch, answers)

    def _interrupted(self) -> errors.P2pfsError:
        return errors.Interrupted(f"{self._name} was ended")

    @staticmethod
    def _settle(batch: list[_Question[Q, A]], answers: Sequence[A | errors.P2pfsError]) -> None:
        for question, answer in zip(batch, answers, strict=True):
            question.answer = answer
            question.done.set()
