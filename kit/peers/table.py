"""The table of the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kit.peers.peer import Peer
from kit.processes import Cost

HEAD = ["", "version", "copies", "store MB/s", "fetch MB/s", "CPU s/GiB store · fetch", "4 KiB files/s put · get",
        "encrypted", "verified", "synced", "deduplicated", ""]


@dataclass
class Result:
    """What one system did, run by run. A job that it does not have has no costs."""

    peer: type[Peer]
    version: str
    size: int
    files: int
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def add(self, job: str, cost: Cost | None) -> None:
        """One run of a job."""
        if cost is not None:
            self.costs.setdefault(job, []).append(cost)

    def _rates(self, job: str) -> list[float]:
        amount = self.size / 1e6 if job in ("store", "fetch") else self.files
        return [amount / cost.seconds for cost in self.costs.get(job, [])]

    def _cpu_s(self, job: str) -> list[float]:
        """For a GiB, or 1000 files."""
        amount = self.size / 2**30 if job in ("store", "fetch") else self.files / 1000
        return [cost.cpu_s / amount for cost in self.costs.get(job, [])]

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "name": self.peer.name, "version": self.version, "files": self.files, **self.peer.does._asdict(),
            **{job: {"rates": self._rates(job), "cpu_s": self._cpu_s(job)} for job in self.costs},
        }

    def cells(self) -> list[str]:
        """One text for each column of `HEAD`."""
        def both(one: str, other: str) -> str:
            return f"{one} · {other}".strip()

        return [
            self.peer.name, self.version, self.peer.does.copies,
            _spread(self._rates("store")), _spread(self._rates("fetch")),
            both(_middle(self._cpu_s("store")), _middle(self._cpu_s("fetch"))),
            both(_middle(self._rates("put")), _middle(self._rates("get"))),
            *self.peer.does[1:], self.peer.note,
        ]


def _middle(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    return f"{middle:,.0f}" if middle >= 20 else f"{middle:.1f}"


def _spread(values: Sequence[float]) -> str:
    spread = f" ({min(values):.0f}..{max(values):.0f})" if len(values) > 1 else ""
    return _middle(values) + spread


def markdown(results: Sequence[Result]) -> str:
    """The table as docs/COMPARISON.md has it."""
    rows = [HEAD, ["---"] * len(HEAD), *(result.cells() for result in results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
