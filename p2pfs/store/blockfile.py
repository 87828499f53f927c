"""The file of one block: the system calls, and their order. Functions raise OSError, nothing of ours."""

from __future__ import annotations

import contextlib
import os
import time

from p2pfs.store.files import sync_folder, write_all

ABSENT = (FileNotFoundError, NotADirectoryError)
"""There is nothing of that name."""


def make_folder(path: str) -> None:
    """Make a folder for this user alone, unless it is there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def look(path: str) -> os.stat_result | None:
    """What is at the path; None for nothing."""
    try:
        return os.stat(path)
    except ABSENT:
        return None


def renew(path: str) -> None:
    """Make the file as young as can be."""
    # Not "now" as the kernel has it: its clock ticks in milliseconds, and `discard` must see a renewal.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def read(fd: int, into: memoryview) -> int | None:
    """The whole file into the buffer; its length, None when it is longer than the buffer."""
    length = 0
    while count := os.readv(fd, [into[length:]]) if length < len(into) else len(os.read(fd, 1)):
        length += count
        if length > len(into):
            return None
    return length


def write(path: str, temp: str, data: memoryview) -> int:
    """A new file, read-only and durable; its time of change in nanoseconds. An error leaves nothing."""
    folder = os.path.dirname(path)
    where = temp
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
        try:
            write_all(fd, data)
            os.fdatasync(fd)
            changed_ns = os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)
        try:
            os.rename(temp, path)
        except FileNotFoundError:  # somebody removed the folder of the shard
            make_folder(folder)
            sync_folder(os.path.dirname(folder))
            os.rename(temp, path)
        where = path
        sync_folder(folder)
        return changed_ns
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(where)
        raise
