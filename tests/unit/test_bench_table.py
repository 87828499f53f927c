"""The figures of a bench: what a command cost, and whether that is what was wanted."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from kit.bench.table import Row, Series, Wanted, bytes_of_work
from kit.processes import MIB, Cost, measure, measure_call

EAT = "import sys; data = b'x' * (64 << 20)"
BURN = "import time\nwhile time.process_time() < 0.5: pass"
BURN_IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"


@pytest.mark.parametrize(
    ("unit", "value", "reference", "ratio"), [("MB/s", 50.0, 100.0, 2.0), ("s", 50.0, 100.0, 0.5)],
)
def test_a_ratio_is_of_times_whatever_the_unit(unit: str, value: float, reference: float, ratio: float) -> None:
    assert Row("", unit, [value], reference="it", reference_values=[reference]).time_ratio == ratio


def test_a_ratio_is_of_each_run_and_its_reference() -> None:
    row = Row("", "s", [1.0, 20.0, 300.0], reference="it", reference_values=[1.0, 10.0, 100.0])
    assert row.time_ratio == 2.0


@pytest.mark.parametrize(
    ("wanted", "value", "is_met"),
    [
        (Wanted(">=", 250), 250, True), (Wanted(">=", 250), 249.9, False), (Wanted("<", 7), 7, False),
        (Wanted("<=", 2.0, True), 50, True), (Wanted("<=", 2.0, True), 49, False), (None, 1, None),
    ],
)
def test_a_figure_is_judged(wanted: Wanted | None, value: float, is_met: bool | None) -> None:
    row = Row("", "MB/s", [value], wanted, "it", [100.0])
    assert row.is_met is is_met
    assert row.as_json()["is_met"] is is_met


def test_a_series_gives_rates_and_cpu_for_its_amount() -> None:
    series = Series("", bytes_of_work(512 * MIB), "cp")
    for seconds in (1.0, 4.0, 2.0):
        series.add(Cost(seconds, 3.0, 50.0 + seconds, 20.0), 1.0)
    row = series.row()
    assert row.median == pytest.approx(512 * MIB / 2e6)
    assert row.time_ratio == pytest.approx(2.0)
    assert row.cpu_s == [6.0, 6.0, 6.0]
    assert (row.node_mib, row.client_mib) == (54.0, 20.0)


def test_a_command_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="exited 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_memory_of_a_command_is_its_own() -> None:
    mine = bytearray(256 * MIB)
    small = measure([sys.executable, "-c", "import time; time.sleep(0.1)"]).client_mib
    large = measure([sys.executable, "-c", EAT + "; import time; time.sleep(0.1)"]).client_mib
    assert len(mine) / MIB > 200 > large > 64 > small > 1


def test_the_cpu_of_a_command_counts_its_children() -> None:
    assert 0.5 <= measure([sys.executable, "-c", BURN_IN_A_CHILD]).cpu_s < 2


@pytest.mark.parametrize("what_follows", ["print(flush=True); input()", "pass"], ids=["alive", "ended"])
def test_the_cpu_of_a_daemon_counts_its_children(what_follows: str) -> None:
    child = f"{shlex.quote(sys.executable)} -c {shlex.quote(f'{BURN}{chr(10)}{what_follows}')}"
    with subprocess.Popen(
        ["sh", "-c", f"read go; {child}; echo; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdin is not None and daemon.stdout is not None
        begin, end = daemon.stdin, daemon.stdout

        def work() -> None:
            begin.write(b"\n")
            begin.flush()
            end.readline()

        cost = measure_call(work, [daemon.pid])
        daemon.communicate(b"\n\n")
    assert 0.4 <= cost.cpu_s < 2
    assert cost.daemon_mib > 1
