"""Runs the command line as a process, with pipes or a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.client.fake_node import FakeNode

CLI = [sys.executable, "-c", "import sys; from p2pfs.cli import main; sys.exit(main())"]
ROOT = Path(__file__).parents[3]
WAIT_S = 60.0


class Runner:
    """Runs the CLI in a folder of its own, against a node."""

    def __init__(self, node: FakeNode, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.environment["P2PFS_NODE"] = node.address

    def __call__(self, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*CLI, *args], cwd=self.folder, env=self.environment, capture_output=True, timeout=WAIT_S, **kwargs
        )

    def start(self, *args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*CLI, *args], cwd=self.folder, env=self.environment, **kwargs)

    def json(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        done = self("--json", *args)
        assert done.returncode == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def on_terminal(run: Runner, *args: str) -> tuple[int, str, bytes]:
    """Run with standard error on a terminal: (exit code, what the terminal saw, standard output)."""
    ours, theirs = pty.openpty()
    with run.start(*args, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], WAIT_S)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                break
        assert process.stdout is not None
        output = process.stdout.read()
        code = process.wait(WAIT_S)
    os.close(ours)
    return code, seen.decode(), output
