"""Time, CPU and memory of this process, and the rows that the measurements print."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from kit.cluster import Node
from p2pfs import Client

MIB = 1024 * 1024
_REQUESTS = re.compile(r'^p2pfs_requests_total\{.*verb="(\w+)".*\} (\S+)$', re.MULTILINE)


class Row(NamedTuple):
    """One figure: what of, at which size, and how much."""

    what: str
    size: int
    value: float
    unit: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.what:<52} {self.size:>10,} {self.value:>12.4g} {self.unit:<10} {self.note}".rstrip()


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Span:
    """Seconds, CPU seconds and memory that a `with` block took in this process."""

    def __enter__(self) -> Span:
        self.memory_bytes = -resident_bytes()
        self.seconds, self.cpu_s = -time.monotonic(), -time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.monotonic()
        self.cpu_s += time.process_time()
        self.memory_bytes += resident_bytes()


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def requests(nodes: Iterable[Node]) -> Counter[str]:
    """By verb: how many requests these nodes have answered."""
    found: Counter[str] = Counter()
    for node in nodes:
        with Client(str(node.control)) as client:
            for verb, count in _REQUESTS.findall(client.metrics()):
                found[verb] += int(float(count))
    return found
