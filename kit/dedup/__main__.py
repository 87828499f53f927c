"""`make bench-dedup`: series of versions kept by each tool; bytes stored, time and CPU seconds.

    python -m kit.dedup [--seed=N] [--releases=FOLDER] [--tools=NAME,...] [--json=FILE] [SERIES...]

Every version of a series goes to all tools before the next one is made; nobody compresses. `stored` and `files` are
what the tool's folder grew by. A busy machine slows all of them: trust bytes, CPU seconds and ratios. Downloaded
releases can be kept for a next run in a folder of yours (--releases).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kit.dedup.series import ALL, Series, Unavailable
from kit.dedup.tools import Cost, Holdings, Tool, holdings_of, tools
from p2pfs.core.profile import CHUNKERS

MIB = 1024 * 1024
NAMES = [*CHUNKERS, "restic", "borg"]


class Row(NamedTuple):
    """What one tool made of one series."""

    series: str
    tool: str
    versions: int
    logical_bytes: int
    stored_bytes: int
    stored_files: int
    seconds: float
    cpu_s: float

    def __str__(self) -> str:
        gib = self.logical_bytes / 2**30
        return (f"{self.series:<11} {self.tool:<14} {self.versions:>2} {self.logical_bytes / MIB:>7.0f} "
                f"{self.stored_bytes / MIB:>7.1f} {self.logical_bytes / self.stored_bytes:>6.2f} "
                f"{self.stored_files:>6} {self.seconds:>6.1f} {self.cpu_s:>6.1f} {self.cpu_s / gib:>6.2f}")


HEAD = (f"{'series':<11} {'tool':<14} {'n':>2} {'MiB':>7} {'stored':>7} {'ratio':>6} {'files':>6} {'s':>6} "
        f"{'CPU s':>6} {'a GiB':>6}")


def measure(series: Series, names: list[str], folder: Path, releases: Path, seed: int) -> list[Row]:
    """All tools on one series, in a folder that exists. Raises Unavailable when there are no versions to be had."""
    versions = folder / "versions"
    versions.mkdir()
    count, logical = 0, 0
    with contextlib.ExitStack() as stack:
        ready = _enter(tools(names, folder), stack)
        empty = {name: tool.holdings() for name, tool in ready.items()}
        costs: dict[str, list[Cost]] = {name: [] for name in ready}
        for path in series.make(releases if series.is_download else versions, random.Random(seed)):
            count, logical = count + 1, logical + size_of(path)
            for name, tool in ready.items():
                costs[name].append(tool.keep(path))
        return [
            Row(series.name, name, count, logical, *_grown(empty[name], tool.holdings()),
                sum(cost.seconds for cost in costs[name]), sum(cost.cpu_s for cost in costs[name]))
            for name, tool in ready.items()
        ]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    return holdings_of(path).bytes if path.is_dir() else path.stat().st_size


def _grown(before: Holdings, after: Holdings) -> tuple[int, int]:
    return after.bytes - before.bytes, after.files - before.files


def _enter(wanted: dict[str, Tool], stack: contextlib.ExitStack) -> dict[str, Tool]:
    """Those that are installed, made ready; the others are named."""
    ready = {}
    for name, tool in wanted.items():
        try:
            ready[name] = stack.enter_context(tool)
        except Unavailable as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    return ready


def main() -> int:
    """Measure the series that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of what is generated (1)")
    parser.add_argument("--releases", type=Path, help="where downloaded releases are, and stay; else they are removed")
    parser.add_argument("--tools", default=",".join(NAMES), help=f"of {', '.join(NAMES)}; default all")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("series", nargs="*", choices=[[], *ALL], help=f"of {', '.join(ALL)}; default all")
    wanted = parser.parse_args()
    names = wanted.tools.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="p2pfs-dedup-", ignore_cleanup_errors=True) as base:
        releases = wanted.releases or Path(base, "releases")
        releases.mkdir(exist_ok=True)
        for name in wanted.series or ALL:
            folder = Path(base, name)
            folder.mkdir()
            try:
                for row in measure(ALL[name], names, folder, releases, wanted.seed):
                    print(row, flush=True)
                    rows.append(row)
            except Unavailable as error:
                print(f"left out: {name}: {error}", file=sys.stderr)
            shutil.rmtree(folder)
    if wanted.json:
        wanted.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
