"""In which order members are probed: everyone once a round, in an order of chance (SWIM, section 4.3)."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """The part of `random.Random` that is used here."""

    def shuffle(self, x: MutableSequence[Any], /) -> None:
        """Bring into an order of chance."""

    def sample(self, population: Sequence[T], /, k: int) -> list[T]:
        """Choose k different ones."""

    def random(self) -> float:
        """Between 0 and 1."""


class Round:
    """The ids whose turn is still to come in this round."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._ids: list[str] = []

    def next(self, reachable: set[str]) -> str | None:
        """Whose turn it is; after the last one a new round begins. None when nobody is reachable."""
        while self._ids:
            id = self._ids.pop()
            if id in reachable:
                return id
        self._ids = sorted(reachable)
        self._chance.shuffle(self._ids)
        return self._ids.pop() if self._ids else None

    def put_first(self, id: str) -> None:
        """It is next."""
        self._ids.append(id)

    def put_somewhere(self, id: str) -> None:
        """A new member gets a turn in this round, too."""
        if self._ids:
            self._ids.insert(int(self._chance.random() * (len(self._ids) + 1)), id)
