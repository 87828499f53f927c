"""Python code that runs on a small disk of its own: a tmpfs in a mount namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import p2pfs

CHILD_ENV = {**os.environ, "PYTHONPATH": str(Path(p2pfs.__file__).parents[1])}


def run_on_small_disk(folder: Path, size: str, code: str, *args: object) -> str:
    """What the code printed. Its arguments are the folder, which is the disk, and `args`."""
    unshare = [shutil.which("unshare") or "", "-m"] + ([] if os.geteuid() == 0 else ["-r"])
    if not unshare[0] or subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a tmpfs cannot be mounted here (unshare -m)")
    run = f'mount -t tmpfs -o size={size},nr_inodes=20k none "$1" && exec "$0" -c "$CODE" "$@"'
    done = subprocess.run(
        [*unshare, "sh", "-c", run, sys.executable, str(folder), *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False, env={**CHILD_ENV, "CODE": code},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
