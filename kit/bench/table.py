"""A table of figures, each judged against the wanted one and put beside a reference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from kit.processes import Cost

WANTED = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}


class Wanted(NamedTuple):
    """What a figure should come to."""

    sign: str
    bound: float
    times_reference: bool = False
    """The bound is for the time, in times of the reference's."""

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}" + (" x ref's time" if self.times_reference else "")


@dataclass(frozen=True)
class Row:
    """A line of the table: a value and, where there is a reference, a reference value for each run."""

    what: str
    unit: str
    values: Sequence[float]
    wanted: Wanted | None = None
    reference: str = ""
    reference_values: Sequence[float] = ()
    cpu_s: Sequence[float] = ()
    """Of all processes, for each run."""
    cpu_per: str = ""
    """What `cpu_s` is spent on: a GiB, or 1000 files."""
    node_mib: float | None = None
    """The most that a node had in any run."""
    client_mib: float | None = None
    note: str = field(default="")

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)

    @property
    def time_ratio(self) -> float | None:
        """Median of the runs' times in times of their references': of rates the other way round."""
        if not self.reference_values:
            return None
        pairs = list(zip(self.values, self.reference_values, strict=True))
        return statistics.median(other / mine if self.unit.endswith("/s") else mine / other for mine, other in pairs)

    @property
    def is_met(self) -> bool | None:
        """Whether the wanted figure is reached; None where none is wanted."""
        if self.wanted is None:
            return None
        figure = self.time_ratio if self.wanted.times_reference else self.median
        return figure is not None and bool(WANTED[self.wanted.sign](float(figure), float(self.wanted.bound)))

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {**asdict(self), "wanted": str(self.wanted) if self.wanted else None,
                "median": self.median, "time_ratio": self.time_ratio, "is_met": self.is_met}

    def cells(self) -> list[str]:
        """One text for each column of `HEAD`."""
        cpu = f"{statistics.median(self.cpu_s):.3g} / {self.cpu_per}" if self.cpu_s else ""
        return [
            self.what, f"{self.median:.4g}", self.unit, f"{min(self.values):.4g}..{max(self.values):.4g}",
            str(self.wanted or ""), {True: "met", False: "MISSED", None: ""}[self.is_met],
            cpu, _mib(self.node_mib), _mib(self.client_mib), self._beside(), self.note,
        ]

    def _beside(self) -> str:
        if self.time_ratio is None:
            return ""
        other = statistics.median(self.reference_values)
        return f"{self.reference} {other:.4g}: {self.time_ratio:.2f} x its {'MiB' if self.unit == 'MiB' else 'time'}"

    def __str__(self) -> str:
        return line(self.cells())


HEAD = ["what", "median", "unit", "min..max", "wanted", "", "CPU s", "node", "client", "reference", ""]
WIDTHS = [-50, 7, -8, -15, -18, -6, -17, 6, 6, -40, 0]
"""Of the columns; negative ones stand at the left. Memory is in MiB."""


def line(cells: list[str]) -> str:
    """The columns beneath each other."""
    texts = [cell.rjust(width) if width > 0 else cell.ljust(-width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return "  ".join(texts).rstrip()


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


class Work(NamedTuple):
    """How much one run does, and what its figures are counted in."""

    amount: float
    unit: str
    cpu_amount: float
    cpu_per: str


def bytes_of_work(count: int) -> Work:
    """Megabytes a second, and CPU seconds for a GiB."""
    return Work(count / 1e6, "MB/s", count / 2**30, "GiB")


def files_of_work(count: int) -> Work:
    """Files a second, and CPU seconds for 1000 files."""
    return Work(count, "files/s", count / 1000, "1000 files")


class Series:
    """The runs of one job, as they come, and the row that they give."""

    def __init__(self, what: str, work: Work, reference: str = "", wanted: Wanted | None = None) -> None:
        self.what = what
        self.work = work
        self.reference = reference
        self.wanted = wanted
        self.costs: list[Cost] = []
        self.reference_s: list[float] = []

    def add(self, cost: Cost, reference_s: float | None = None) -> None:
        """One run, and the seconds that the reference took just before."""
        self.costs.append(cost)
        if reference_s is not None:
            self.reference_s.append(reference_s)

    @property
    def cpu_s(self) -> list[float]:
        """Of all processes, for each GiB or 1000 files."""
        return [cost.cpu_s / self.work.cpu_amount for cost in self.costs]

    @property
    def node_mib(self) -> list[float]:
        """The peak of the node that had the most, for each run."""
        return [cost.daemon_mib for cost in self.costs]

    def row(self, note: str = "") -> Row:
        """The line of the table."""
        amount, unit, _, cpu_per = self.work
        return Row(
            self.what, unit, [amount / cost.seconds for cost in self.costs], self.wanted, self.reference,
            [amount / seconds for seconds in self.reference_s], self.cpu_s, cpu_per,
            max(self.node_mib), max(cost.client_mib for cost in self.costs), note,
        )
