"""What is on disk after a process that wrote blocks was killed, and in which order it got there."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import p2pfs
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.wire import MAX_BLOCK
from p2pfs.store import blockfile, files
from p2pfs.store.disk import DiskStore

BUFFER = memoryview(bytearray(MAX_BLOCK))
WRITER = Path(__file__).with_name("crashing_writer.py")
DATA = memoryview(b"a block that is in the middle of being written" * 100)
BLOCK = multihash(SHA2_256, DATA)
CHILD_ENV = {**os.environ, "PYTHONPATH": str(Path(p2pfs.__file__).parents[1])}


def temp_files(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder / "temp") for name in names]


def write_until_killed(folder: Path, seed: int, acknowledged: int) -> list[bytes]:
    """Run the writer, kill it with SIGKILL after that many blocks; all that it said to be durable."""
    command = [sys.executable, str(WRITER), str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=CHILD_ENV) as writer:
        assert writer.stdout
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.kill()
        lines += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL, "it must not have ended by itself"
    return [bytes.fromhex(line.decode("ascii")) for line in lines if line.endswith(b"\n")]


def test_every_acknowledged_block_survives_kill_9(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")  # shown by pytest when the test fails
    chance = random.Random(seed)
    blocks: set[bytes] = set()
    interrupted = 0
    for turn in range(6):
        blocks.update(write_until_killed(tmp_path, seed + turn, chance.randrange(1, 150)))
        interrupted += len(temp_files(tmp_path))
        store = DiskStore(tmp_path)
        assert temp_files(tmp_path) == []
        for block in blocks:
            assert store.has(block)
            store.read(block, BUFFER)
        stored = {block for shard in range(4096) for block in store.iterate(shard)}
        assert stored >= blocks
        for block in stored - blocks:  # those whose acknowledgement was killed with the process
            store.read(block, BUFFER)
        assert store.quarantined() == 0
        assert store.recount().blocks == len(stored)
    assert blocks
    print(f"{len(blocks)} blocks, {interrupted} temp files cleared")


def in_child(run: Callable[[], object]) -> int:
    """Run in a forked process; its status as `os.waitstatus_to_exitcode` has it."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("step", ["write", "fdatasync", "close", "rename", "fsync"])
@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_crash_in_a_batch_leaves_whole_blocks_only(tmp_path: Path, step: str, call: int) -> None:
    store = DiskStore(tmp_path)
    several = [memoryview(b"one of five blocks: %d" % number * 50) for number in range(5)]
    blocks = [(multihash(SHA2_256, data), data) for data in several]

    def die_at_step() -> None:
        real: Callable[..., Any] = getattr(os, step)
        left = call

        def die(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                if step == "write":
                    real(args[0], args[1][:100])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(os, step, die)
        store.put_many(blocks)

    assert in_child(die_at_step) == -signal.SIGKILL
    again = DiskStore(tmp_path)
    assert temp_files(tmp_path) == []
    there = [block for block, _ in blocks if again.has(block)]
    assert len(there) == (5 if step == "fsync" else call - 1 if step == "rename" else 0)
    assert again.recount().blocks == len(there) and again.quarantined() == 0
    for block in there:
        again.read(block, BUFFER)
    assert sum(outcome is None for outcome in again.put_many(blocks)) == len(there)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["open", "write", "fdatasync", "close", "rename", "fsync"])
def test_a_crash_at_each_step_leaves_all_or_nothing(tmp_path: Path, step: str, is_after: bool) -> None:
    store = DiskStore(tmp_path)

    def die_at_step() -> None:
        real: Callable[..., Any] = getattr(os, step)

        def die(*args: Any, **options: Any) -> None:
            if is_after:
                real(*args, **options)
            elif step == "write":
                real(args[0], args[1][:100])
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, step, die)
        store.put(BLOCK, DATA)

    assert in_child(die_at_step) == -signal.SIGKILL
    again = DiskStore(tmp_path)
    assert temp_files(tmp_path) == []
    is_there = step == "fsync" or (step == "rename" and is_after)
    assert again.has(BLOCK) == is_there
    if is_there:
        assert again.read(BLOCK, BUFFER) == len(DATA)
    assert again.recount()[:2] == ((1, len(DATA)) if is_there else (0, 0))
    assert (again.put(BLOCK, DATA) is None) == is_there


def test_a_block_counts_only_after_its_folder_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(tmp_path)
    is_named, may_sync = threading.Event(), threading.Event()
    real = files.sync_folder

    def sync_later(path: str) -> None:
        is_named.set()
        assert may_sync.wait(30)
        real(path)

    monkeypatch.setattr(blockfile, "sync_folder", sync_later)
    results: list[int | None] = []
    first = threading.Thread(target=lambda: results.append(store.put(BLOCK, DATA)))
    first.start()
    assert is_named.wait(30)
    assert not store.has(BLOCK) and not store.has(BLOCK, renew=True)
    second = threading.Thread(target=lambda: results.append(store.put(BLOCK, DATA)))
    second.start()
    assert store.usage().blocks == 0 and results == []
    may_sync.set()
    for thread in (first, second):
        thread.join(30)
    assert len(results) == 2 and results.count(None) == 1
    assert store.has(BLOCK) and store.usage() == (1, len(DATA), True)


def trace_of(tmp_path: Path, program: str) -> str:
    """The system calls of a Python program between its outputs "begins" and "returned"."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    trace, folder = tmp_path / "trace", tmp_path / "data"
    folder.mkdir()
    options = ["-f", "-y", "-s", "20", "-o", str(trace), "-e", "trace=desc,file"]
    command = [strace, *options, sys.executable, "-c", program]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=60, check=False, env=CHILD_ENV
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    text = trace.read_text()
    return text[text.index('"begins"') : text.index('"returned"')]


SOME_PUTS = """
import os, sys
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.store.disk import DiskStore
store = DiskStore(sys.argv[1])
several = [memoryview(b"traced %d" % number) for number in range(5)]
blocks = [(multihash(SHA2_256, data), data) for data in several]
os.write(1, b"begins")
store.put_many(blocks)
os.write(1, b"returned")
"""


def test_each_block_of_a_batch_takes_the_durable_order(tmp_path: Path) -> None:
    calls = trace_of(tmp_path, SOME_PUTS)
    for number in range(5):
        written = re.search(rf"write\(\d+<(\S*/temp/\w/\d+)>, \"traced {number}\", 8\) += 8", calls)
        assert written
        temp = re.escape(written[1])
        synced = re.search(rf"(fdatasync|fsync)\(\d+<{temp}>\) += 0", calls)
        named = re.search(rf"rename\(\"{temp}\", \"(\S*/blocks/\w{{3}})/\w{{64}}\"\) += 0", calls)
        assert synced and named and written.end() < synced.start() and synced.end() < named.start()
        assert re.compile(rf"fsync\(\d+<{named[1]}>\) += 0").search(calls, named.end())


ONE_PUT = """
import os, sys
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.store.disk import DiskStore
store, data = DiskStore(sys.argv[1]), memoryview(b"traced")
block = multihash(SHA2_256, data)
os.write(1, b"begins")
store.put(block, data)
os.write(1, b"returned")
"""


def test_the_system_calls_come_in_the_durable_order(tmp_path: Path) -> None:
    calls = trace_of(tmp_path, ONE_PUT)
    temp, shard = r"\S*/temp/\w/\d+", r"\S*/blocks/\w{3}"
    order = [
        rf"openat\(.*{temp}\", O_WRONLY\|O_CREAT\|O_EXCL\S*, 0440\)",
        rf"write\(\d+<{temp}>, \"traced\", 6\) += 6",
        rf"(fdatasync|fsync)\(\d+<{temp}>\) += 0",
        rf"rename\(\"{temp}\", \"{shard}/\w{{64}}\"\) += 0",
        rf"fsync\(\d+<{shard}>\) += 0",
    ]
    at = 0
    for call in order:
        found = re.compile(call).search(calls, at)
        assert found, f"{call} is missing, or in the wrong place, in\n{calls}"
        at = found.end()
