"""Rows of encryption in the client: what it costs beside the same without, on one node and in the same minute."""

from __future__ import annotations

import statistics
from pathlib import Path

from kit.bench.bench import Bench, cli
from kit.bench.table import Series, Wanted
from kit.cluster import Cluster

WANTED = Wanted("<=", 1.43, True)
"""70 % of the plain speed."""


def encrypted(bench: Bench) -> None:
    """A file of fresh random bytes, stored and fetched in clear and encrypted; which goes first changes by run."""
    plain = [Series("plain store", bench.file_work), Series("plain get", bench.file_work)]
    sealed = [
        Series("one node: encrypted durable store", bench.file_work, "plain store", WANTED),
        Series("one node: encrypted verified get", bench.file_work, "plain get", WANTED),
    ]
    for run in range(bench.runs):
        with bench.place() as place, Cluster(place, 1) as cluster:
            file = bench.file(place)
            for series, options in [(plain, ["--plain"]), (sealed, ["--encrypt"])][:: 1 if run % 2 else -1]:
                _store_and_get(bench, cluster, series, file, options)
    for clear, hidden in zip(plain, sealed, strict=True):
        hidden.reference_s = [cost.seconds for cost in clear.costs]
        bench.add(hidden.row(f"{clear.what}: {statistics.median(clear.cpu_s):.3g} CPU s / {clear.work.cpu_per}"))


def _store_and_get(bench: Bench, cluster: Cluster, series: list[Series], file: Path, options: list[str]) -> None:
    printed, back = file.with_name("printed"), file.with_name("back")
    bench.warm()
    with printed.open("w") as out:
        series[0].add(cli(cluster, 0, "store", *options, str(file), out=out))
    ref = printed.read_text().split()[0]
    bench.warm()
    series[1].add(cli(cluster, 0, "get", ref, "-o", str(back)))
    back.unlink()
