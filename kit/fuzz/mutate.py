"""Inputs without a guide: seeded mutations of a corpus. What `make test` tries, and what there is without atheris."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from kit.fuzz.harness import Target

NUMBERS = (b"0", b"1", b"-1", b"127", b"128", b"255", b"65536", b"2147483648", b"18446744073709551615", b"1e999",
           b"0x1", b"1_0", b"+1", b" 1", b"99999999999999999999999")
BYTES = (0, 1, 0x0A, 0x0D, 0x20, 0x7F, 0x80, 0xC3, 0xFF)
_NESTS = (b"[", b'{"a":', b"{", b"(", b"/a", b" ", b"%", b"\n")
NEST_MOST = 2000


def _flip(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    byte = chance.choice(BYTES) if chance.random() < 0.5 else chance.randrange(256)
    return data[:at] + bytes([byte]) + data[at + 1 :]


def _insert(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice([*words, *NUMBERS]) + data[at + chance.choice((0, 0, 1, 3)) :]


def _cut(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _double(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 7, 50)) + data[end:]


def _end(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _nest(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_NESTS) * chance.randrange(NEST_MOST) + data[at:]


def _swap(data: bytes, chance: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _span(data, chance)
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 2, 4, 16, 64, 1024)))


_WAYS: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _flip, _insert, _insert, _cut, _double, _swap, _end, _nest,
)


def mutations(target: Target, seeds: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Without end: one to five changes to one of the seeds, now and then two of them spliced."""
    words = [word.encode("latin-1") for word in target.words]
    while True:
        data = chance.choice(seeds)
        if chance.random() < 0.1:
            other = chance.choice(seeds)
            data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
        for _ in range(chance.randrange(1, 6)):
            data = chance.choice(_WAYS)(data, chance, words)
        yield data[: target.max_bytes]


def stretched(data: bytes, size: int, chance: random.Random) -> bytes:
    """An input with some part of it repeated up to that size: what takes time or memory out of proportion shows."""
    start, end = _span(data, chance)
    part = data[start:end] or b"a"
    return (data[:end] + part * (max(0, size - len(data)) // len(part)) + data[end:])[:size]
