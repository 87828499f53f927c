"""The bench runs, at a tiny size: what it prints then means nothing, but it prints each figure and judges it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.bench.__main__ import ROWS, main

JUDGED = {
    "loopback": [], "ids": [], "ready": ["< 600"], "overhead": ["< 150"],
    "one": ["<= 1.2 x ref's time", "<= 2 x ref's time", "< 60", "< 160", "< 40"],
    "encrypted": 2 * ["<= 1.43 x ref's time"],
    "three": [">= 250", "< 7"], "far": [">= 400", "< 10"], "small": [">= 3000", ">= 1200", ">= 2500"],
    "crowd": ["<= 1.25 x ref's time", "< 160"], "four": [],
    "audit": [], "workers": [], "doubling": 8 * ["< 2.1"], "sparse": ["< 160", "< 40"],
}
"""What each row's figures are judged by. Not `heal`: it waits for a member to be out, whatever the size."""
LONG = {"far", "small", "crowd", "four", "audit", "workers", "doubling", "sparse"}

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("name", [pytest.param(it, marks=pytest.mark.slow if it in LONG else []) for it in JUDGED])
def test_a_row_prints_its_figures_and_judges_them(name: str, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    assert main(["--runs=1", "--size=4", f"--json={out}", name]) == 0
    rows = json.loads(out.read_text())
    assert [row["wanted"] for row in rows if row["wanted"]] == JUDGED[name]
    for row in rows:
        assert row["median"] > 0, row
        assert (row["is_met"] is None) == (row["wanted"] is None)
        assert len(row["reference_values"]) in (0, len(row["values"]))


def test_every_row_of_a_plain_run_is_tried_here() -> None:
    assert set(ROWS) <= set(JUDGED)
