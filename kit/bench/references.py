"""Rows about this machine, and about what needs no node."""

from __future__ import annotations

import sys

from kit.bench.bench import Bench
from kit.bench.machine import hash_s, loopback_s
from kit.bench.table import Row, Series
from kit.cluster import CLI
from kit.processes import measure


def loopback(bench: Bench) -> None:
    """Raw bytes between two processes."""
    values = [bench.file_work.amount / loopback_s(bench.size) for _ in range(bench.runs)]
    bench.add(Row("(raw loopback, one connection)", "MB/s", values))


def ids(bench: Bench) -> None:
    """`id` of a file, without a node."""
    series = Series("id of a file", bench.file_work, "openssl")
    with bench.place() as place:
        file = bench.file(place)
        for _ in range(bench.runs):
            reference_s = hash_s(file)
            series.add(measure([sys.executable, str(CLI), "id", str(file)]), reference_s)
    bench.add(series.row())
