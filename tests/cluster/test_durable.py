"""Acknowledged means durable: the system calls of real nodes, in their order, up to the receipt."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kit.cluster import Cluster, Node, wait_until

CALLS = "fsync,fdatasync,rename,renameat,renameat2,openat,write,pwrite64,sendto,sendmsg"
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. \w+ resumed>|(\w+)\()(.*)")
_TOOK = re.compile(r"<(\d+\.\d+)>$")


class Call(NamedTuple):
    """A system call that has ended; times in seconds, of one clock for all processes."""

    begin: float
    end: float
    name: str
    text: str
    """Arguments and result; `-y` shows a descriptor's path."""


class Trace:
    """What one process calls."""

    def __init__(self, node: Node, path: Path) -> None:
        assert node.process is not None
        self._path = path
        self._tasks = Path(f"/proc/{node.process.pid}/task")
        self._strace = subprocess.Popen(
            ["strace", "-f", "-y", "-ttt", "-T", "-s", "1000", "-e", f"trace={CALLS}", "-o", str(path),
             "-p", str(node.process.pid)], stderr=subprocess.PIPE,
        )
        wait_until(lambda: self._is_attached() or self._strace.poll() is not None, 60, "strace attaches")
        if self._strace.poll() is not None:
            pytest.skip("strace may not attach here")

    def _is_attached(self) -> bool:
        return not any("TracerPid:\t0\n" in (task / "status").read_text() for task in self._tasks.iterdir())

    def end(self) -> None:
        """Let the process go."""
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(60)

    def calls(self) -> list[Call]:
        """By the time of their begin."""
        done: list[Call] = []
        open_calls: dict[str, tuple[float, str, str]] = {}
        for line in self._path.read_text(errors="replace").splitlines():
            if (match := _LINE.fullmatch(line)) is None:
                continue
            thread, at, name, text = match.groups()
            if text.endswith("<unfinished ...>"):
                open_calls[thread] = (float(at), name, text)
                continue
            begin, name, head = (float(at), name, "") if name else open_calls.pop(thread)
            if took := _TOOK.search(text):
                done.append(Call(begin, begin + float(took[1]), name, head + text))
        return sorted(done)


@contextlib.contextmanager
def traced(cluster: Cluster, folder: Path) -> Iterator[list[Trace]]:
    """Every node under strace."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    traces: list[Trace] = []
    try:
        traces.extend(Trace(node, folder / f"{node.name}.strace") for node in cluster)
        yield traces
    finally:
        for trace in traces:
            trace.end()


def only(calls: list[Call], names: str, *parts: str) -> Call:
    """The one call of these names in whose text all parts are."""
    found = [call for call in calls if call.name in names.split() and all(part in call.text for part in parts)]
    assert len(found) == 1, (names, parts, found)
    return found[0]


def durable_at(calls: list[Call], block: str) -> float:
    """When that block was durable: written, synced, named and its name synced, one after the other."""
    rename = only(calls, "rename renameat renameat2", f"/{block}\"", " = 0 ")
    _, temp, _, final, _ = rename.text.split('"')
    written = only(calls, "write pwrite64", f"<{temp}>")
    synced = only(calls, "fsync fdatasync", f"<{temp}>", " = 0 ")
    folder = final.rpartition("/")[0]
    named = [
        call for call in calls
        if call.name == "fsync" and f"<{folder}>" in call.text and " = 0 " in call.text and call.begin > rename.end
    ]
    assert named, f"{folder} was not synced after the rename"
    assert written.end < synced.begin
    assert synced.end < rename.begin
    return named[0].end


def test_block_and_pin_are_synced_on_both_nodes_before_the_receipt(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(random.randbytes(100_000))
    block = hashlib.sha256(path.read_bytes()).hexdigest()
    with Cluster(tmp_path, 2, cluster__replicas="2", cluster__write_quorum="2") as cluster:
        with traced(cluster, tmp_path) as traces:
            cid = cluster[0].json("store", str(path))[0]["cid"]
        ours, theirs = (trace.calls() for trace in traces)
        receipt = only(ours, "sendto sendmsg", "OK ", f'\\"cid\\":\\"{cid}\\"')
        for calls in (ours, theirs):
            stored = durable_at(calls, block)
            assert stored < receipt.begin
            pinned = [
                call for call in calls
                if call.name in ("fsync", "fdatasync") and "/catalog.sqlite-wal>" in call.text and " = 0 " in call.text
                and stored < call.begin and call.end < receipt.begin
            ]
            assert pinned, "the pin was not synced after the block and before the receipt"


def test_every_small_file_is_synced_on_both_nodes_before_the_receipt(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"{number}").write_bytes(random.randbytes(1000))
    with Cluster(tmp_path, 2, cluster__replicas="2", cluster__write_quorum="2") as cluster:
        with traced(cluster, tmp_path) as traces:
            cid = cluster[0].json("store", str(tree))[0]["cid"]
        ours, theirs = (trace.calls() for trace in traces)
        receipt = only(ours, "sendto sendmsg", "OK ", f'\\"cid\\":\\"{cid}\\"')
        for calls in (ours, theirs):
            for path in tree.iterdir():
                assert durable_at(calls, hashlib.sha256(path.read_bytes()).hexdigest()) < receipt.begin
