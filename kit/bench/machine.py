"""What this machine does by itself: the references, and what has to be done before anything is timed."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

from kit.processes import MIB, measure

PART = 4 * MIB
FREE_BYTES = 3072 * MIB
"""What stays free of memory that is warm: enough that nobody has to wait for some."""
BIG_BYTES = MIB
"""What a run leaves that is smaller stays until the bench ends."""


def warm_memory(folder: Path) -> None:
    """Leave little memory free: the rest holds a file without content, which gives way to whoever needs room.

    A virtual machine's host takes back what is free for some seconds, and the next touch of such a page is slow: one or
    two CPU seconds a GiB, for whoever comes first. A machine that has been up for a while has little that is free.
    """
    path = folder / "warm"
    with path.open("ab") as file:
        file.truncate(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    buffer = bytearray(2 * PART)
    with path.open("rb", buffering=0) as file:
        while os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > FREE_BYTES and file.readinto(buffer):
            pass


def random_file(path: Path, size: int) -> Path:
    """New random bytes, on disk and in the page cache: nothing can be deduplicated, and it is written."""
    generator = random.Random()
    with path.open("wb") as file:
        for offset in range(0, size, PART):
            file.write(generator.randbytes(min(PART, size - offset)))
        file.flush()
        os.fsync(file.fileno())
    return path


def small_tree(path: Path, count: int, size: int = 4096) -> Path:
    """A directory of so many files of new random bytes, on disk."""
    path.mkdir()
    for number in range(count):
        (path / f"{number:05}").write_bytes(os.urandom(size))
    os.sync()
    return path


def copy_s(source: Path, *, durable: bool = False) -> float:
    """Seconds of `cp` of a file; `durable`: with `sync` of the copy until it is on disk.

    The copy is removed before the system gets to write it: it is no load for what comes next.
    """
    target = source.with_name(source.name + ".copy")
    seconds = measure(["cp", str(source), str(target)]).seconds
    if durable:
        seconds += measure(["sync", str(target)]).seconds
    target.unlink()
    return seconds


def copy_tree_s(source: Path) -> float:
    """Seconds of `cp -r` of a directory. The copy stays (see `empty_big_files`), and is on disk when this returns."""
    seconds = measure(["cp", "-r", str(source), f"{source}.copy"]).seconds
    os.sync()
    return seconds


def empty_big_files(folder: Path) -> None:
    """Give the room of all files from BIG_BYTES on below a folder back, and remove nothing.

    ext4 without a journal looks for inodes that were not freed in the last five minutes, and finds them the more slowly
    the more files were just removed: one run's thousands would be charged to the next.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.lstat(path).st_size >= BIG_BYTES:
                os.chmod(path, 0o600)
                os.truncate(path, 0)


def hash_s(source: Path) -> float:
    """Seconds of `openssl dgst -sha256`; coreutils' own is several times slower than the CPU."""
    return measure(["openssl", "dgst", "-sha256", str(source)]).seconds


def loopback_s(size: int) -> float:
    """Seconds for raw bytes over a loopback socket between two processes: the ceiling of anything that uses one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {port})); b = bytes({MIB})\n"
            f"for _ in range({size // MIB}): s.sendall(b)"
        )
        sender = subprocess.Popen([sys.executable, "-c", script])
        connection, _ = listener.accept()
    buffer = bytearray(MIB)
    begin = time.monotonic()
    with connection:
        while connection.recv_into(buffer):
            pass
    seconds = time.monotonic() - begin
    sender.wait()
    return seconds
