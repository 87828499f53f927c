"""The file of one block: the system calls, and their order. Functions raise OSError, nothing of ours."""

from __future__ import annotations

import contextlib
import os
import time

from p2pfs.store.ages import stamp_ns
from p2pfs.store.files import sync_folder, write_all

_SECOND_NS = 1_000_000_000
_ROUNDED_NS = 2 * _SECOND_NS

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


def renew(path: str) -> int:
    """Make the file as young as can be; its time of change in nanoseconds, before the file system rounds it."""
    # Not "now" as the kernel has it: its clock ticks in milliseconds, and `discard` must see a renewal.
    now = stamp_ns()
    os.utime(path, ns=(now, now))
    return now


def token(changed_ns: int) -> int:
    """The age token of a file of this time of change, read now. Equal to it, or one that no file ever has.

    A file system that keeps whole seconds (FAT: even ones) gives a renewal in the same second the same time. So only
    what is older than that when it is looked at gets a token that can match.
    """
    is_rounded = changed_ns % _SECOND_NS == 0
    return changed_ns + 1 if is_rounded and time.time_ns() - changed_ns < _ROUNDED_NS else changed_ns


def read(fd: int, into: memoryview) -> int | None:
    """The whole file into the buffer; its length, None when it is longer than the buffer."""
    length = 0
    while count := os.readv(fd, [into[length:]]) if length < len(into) else len(os.read(fd, 1)):
        length += count
        if length > len(into):
            return None
    return length


def write(path: str, temp: str, data: memoryview) -> int:
    """A new file, read-only and durable; its age token. An error leaves nothing."""
    folder = os.path.dirname(path)
    where = temp
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
        try:
            write_all(fd, data)
            now = stamp_ns()
            os.utime(fd, ns=(now, now))
            os.fdatasync(fd)
            age = token(os.fstat(fd).st_mtime_ns)
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
        return age
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(where)
        raise
