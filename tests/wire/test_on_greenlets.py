"""What p2pfs/net promises on threads it keeps on greenlets: the same tests in a process patched as a node is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = [
    "tests/unit/test_stream.py", "tests/wire/test_connection.py", "tests/wire/test_server.py",
    "tests/wire/test_crowds.py", "tests/wire/test_joining.py",
]
PROGRAM = """
from gevent import monkey
monkey.patch_all(thread=False)
import sys, pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_streams_and_server_on_greenlets() -> None:
    # A folder of its own: gevent closes the descriptors of directories late, and when pytest removes the old folders of
    # all runs in one go, the process runs out of them. A short one: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, f"--basetemp={folder}/run", *TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
