"""What processes cost: seconds, CPU and memory of a command and of the daemons that serve it, children included."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

MIB = 1024 * 1024
LOOK_MS = 10
"""How often a command's memory is looked at; its peak misses at most what grew since the last look."""


class Cost(NamedTuple):
    """What one command cost."""

    seconds: float
    cpu_s: float
    """Of the command and of all daemons."""
    daemon_mib: float
    """Peak resident memory of the daemon that had the most, meanwhile."""
    client_mib: float


def run(*command: str) -> None:
    """A system tool. Raises RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def family(pid: int) -> list[int]:
    """A process and all that descend from it and live."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that some families used so far, with those of children that ended and were waited for."""
    ticks = 0
    for pid in [member for head in pids for member in family(head)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Peak resident memory of a family since `reset_peak`, each process's own added up."""
    return sum(_high_water(each) for each in family(pid)) / 1024


def reset_peak(pid: int) -> None:
    """From now on `peak_mib` counts anew. By proc(5), clear_refs."""
    for each in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def _high_water(pid: int) -> int:
    """VmHWM in KiB; 0 of a process that is over."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def measure(command: list[str], daemons: Iterable[int] = (), out: int | IO[str] = subprocess.DEVNULL) -> Cost:
    """Run a command to its end, its output thrown away by default. Raises RuntimeError when it fails.

    `daemons`: the processes whose CPU seconds and memory belong to it.
    """
    ends: list[tuple[float, float]] = []

    def run() -> None:
        process = subprocess.Popen(command, stdout=out)
        peak = _watch(process.pid)
        # Its own figures, not those of all children so far; not ru_maxrss, which begins with that of the parent.
        _, status, used = os.wait4(process.pid, 0)
        ends.append((used.ru_utime + used.ru_stime, peak / 1024))
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} exited {process.returncode}")

    cost, (spent, peak) = measure_call(run, daemons), ends[0]
    return cost._replace(cpu_s=cost.cpu_s + spent, client_mib=peak)


def measure_call(work: Callable[[], object], daemons: Iterable[int]) -> Cost:
    """What a call costs some daemons; the caller's own CPU and memory are not counted."""
    pids = list(daemons)
    for pid in pids:
        reset_peak(pid)
    before = cpu_s(pids)
    begin = time.monotonic()
    work()
    seconds = time.monotonic() - begin
    return Cost(seconds, cpu_s(pids) - before, max(map(peak_mib, pids), default=0.0), 0.0)


def _watch(pid: int) -> int:
    """The peak in KiB of a child, once it has ended; it is left to be waited for."""
    peak = 0
    over = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(over, select.POLLIN)
        while not poll.poll(LOOK_MS):
            peak = max(peak, _high_water(pid))
    finally:
        os.close(over)
    return peak
