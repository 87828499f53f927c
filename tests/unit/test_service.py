"""conf/p2pfs-node.service as systemd itself judges it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "conf/p2pfs-node.service"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments, str(UNIT)], capture_output=True, text=True, timeout=60, check=False
    )


def test_verify_is_clean() -> None:
    done = analyze("verify", "--man=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_nobody_special_and_keeps_what_it_makes_to_itself() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match("[A-Za-z]+=", line))
    assert settings["User"] == settings["Group"] == "p2pfs"
    assert settings["UMask"] == "0077"
    assert settings["ProtectSystem"] == "strict" and "ReadWritePaths" not in settings
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"] == ""


def test_security_score() -> None:
    done = analyze("security", "--no-pager", "--offline=true")
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert float(score[1]) < 1.5
