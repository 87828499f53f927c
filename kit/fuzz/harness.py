"""What a target is, and one try of it: the promises that every parser of foreign bytes has to keep."""

from __future__ import annotations

import resource
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from p2pfs.errors import P2pfsError

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "corpus"
"""A folder for each target, a file for each input."""
TIME_S, TIME_S_PER_BYTE = 2.0, 10e-6
"""CPU time of one try: far above what any takes, far below what a quadratic one takes for a long input."""
MEMORY_BYTES, MEMORY_PER_BYTE = 5 * 1024 * 1024, 80
"""Memory of one try at its peak. A body that is announced has its buffer, of 2 MiB at most, before it comes; lists of
small numbers and JSON cost some 60 bytes for a byte in CPython."""
HEADROOM_BYTES = 512 * 1024 * 1024
"""What a process that fuzzes may grow by, all in all: beyond it the kernel gives no more, and MemoryError is found."""


class Target(NamedTuple):
    """One parser of foreign bytes."""

    name: str
    """Its folder in the corpus is called so."""
    parse: Callable[[bytes], Any]
    """Gives a value, or raises one of `allowed`."""
    allowed: tuple[type[P2pfsError], ...]
    check: Callable[[Any], object] = lambda value: None
    """What holds for a value, such as that it can be written and read again; raises AssertionError if not."""
    words: tuple[str, ...] = ()
    """A dictionary: what inputs are made of, as Latin-1."""
    max_bytes: int = 4096
    """Longest input that is searched."""
    limit_bytes: int = 1024 * 1024
    """Longest input that can reach the parser: `make test` tries some that are longer than what is searched."""

    @property
    def corpus(self) -> Path:
        """Its inputs in the repository."""
        return CORPUS / self.name

    def seeds(self) -> list[bytes]:
        """What is in them, in the order of their names."""
        return [path.read_bytes() for path in sorted(self.corpus.iterdir())]


class _Try:
    """The one that is under way."""

    until = float("inf")
    """CPU time of the process."""


class TooSlow(BaseException):
    """A try took more CPU time than its input's length allows."""


class TooMuch(BaseException):
    """A try took more memory than its input's length allows."""


def try_input(target: Target, data: bytes) -> bool:
    """Was it parsed? False: refused with the allowed error. Raises whatever else happens, TooSlow within `limits`."""
    _Try.until = time.process_time() + TIME_S + len(data) * TIME_S_PER_BYTE
    try:
        value = target.parse(data)
    except target.allowed:
        return False
    target.check(value)
    return True


def try_measured(target: Target, data: bytes) -> int:
    """The bytes of memory that one try took at its peak, beyond what was taken before. Raises TooMuch, too."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        try_input(target, data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    if peak > MEMORY_BYTES + MEMORY_PER_BYTE * len(data):
        raise TooMuch(f"{target.name}: {peak} bytes of memory for an input of {len(data)} bytes")
    return peak


@contextmanager
def limits(seconds: float = 0.25) -> Iterator[None]:
    """Within, a try that takes too long is interrupted; looked at after each so many CPU seconds. Main thread only."""
    def look(number: int, frame: FrameType | None) -> None:
        if time.process_time() > _Try.until:
            _Try.until = float("inf")
            raise TooSlow("too much CPU time for an input of this length")

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        _Try.until = float("inf")


def limit_memory() -> None:
    """From now on this process may grow by HEADROOM_BYTES only."""
    fields = Path("/proc/self/status").read_text(encoding="ascii").split()
    used_bytes = int(fields[fields.index("VmData:") + 1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used_bytes + HEADROOM_BYTES, resource.RLIM_INFINITY))
