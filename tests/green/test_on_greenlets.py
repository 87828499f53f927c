"""Runs the `greenlet_*.py` files of this folder in a process patched as `bin/p2pfs-node` patches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAM = """
from gevent import monkey
monkey.patch_all(thread=False)
import sys, pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("greenlet_*.py")))
def test_on_greenlets(file: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    command = [sys.executable, "-c", PROGRAM, f"--basetemp={tmp_path}/run", str(HERE / file)]
    if profile := pytestconfig.getoption("--hypothesis-profile"):
        command.append(f"--hypothesis-profile={profile}")
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
