"""Node and command with every warning an error, and Python's development mode: nothing is deprecated, nothing leaks.

`ResourceWarning` is among them: a file or socket that nobody closed. What a destructor raises is only printed, so that
the output is looked at as well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit.cluster import CLI, Cluster, wait_until

STRICT = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
"""As `python -W error -X dev`, for the processes that a process starts, too."""
BAD = re.compile(r"(?i)warning:|exception ignored|traceback|never retrieved|unclosed")


def test_start_work_and_stop_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STRICT.items():
        monkeypatch.setenv(name, value)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(3 * 1024 * 1024))
    (tree / "small").write_bytes(b"small")
    said = []
    with Cluster(tmp_path / "nodes", 2) as cluster:
        a, b = cluster
        for words in (
            ["store", str(tree)], ["store", "--chunker=fastcdc-1MiB", "--hash=blake3", str(tree / "big")], ["ls"],
            ["ls", "tree"], ["stat", "tree"], ["explain", "tree"], ["cat", "tree/small"], ["id", str(tree)],
            ["get", "tree", "-o", str(tmp_path / "back")],
            ["export", "tree", "-o", str(tmp_path / "tree.car")], ["import", str(tmp_path / "tree.car")], ["rm", "big"],
            ["restore", "big"], ["audit", "--wait"], ["scrub", "--wait"], ["gc", "--dry-run"], ["peers"],
        ):
            said += [a.cli(*words).stderr]
        said += [a.cli(*words, check=False).stderr for words in (["status"], ["get", "no-such-name"])]
        door = [f"--node={b.address}", f"--tls-dir={a.data_dir / 'client'}"]
        remote = [sys.executable, str(CLI), *door, "get", "tree", "-o", str(tmp_path / "remote")]
        said += [subprocess.run(remote, capture_output=True, text=True, check=True, timeout=60).stderr]
        a.signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in a.log(), 60, "it reads its configuration again")
        assert [node.stop() for node in cluster] == [0, 0]
        said += [node.log() for node in cluster]
    assert (tmp_path / "remote" / "big").read_bytes() == (tree / "big").read_bytes()
    assert [text for text in said if BAD.search(text)] == []
