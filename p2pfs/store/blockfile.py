"""The file of one block: the system calls, and their order. Functions raise OSError, nothing of ours."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence

from p2pfs.store.ages import stamp_ns
from p2pfs.store.files import sync_folder, write_all

_SECOND_NS = 1_000_000_000
_ROUNDED_NS = 2 * _SECOND_NS

SHARE = 32
"""One call may have one in so many of the files open that this process may: some eight threads call at once."""

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


class NewFile:
    """A read-only file on its way to its name; each step may raise OSError (see `write_files`)."""

    def __init__(self, path: str, temp: str, data: memoryview) -> None:
        self.path = path
        self.folder = os.path.dirname(path)
        self.size = len(data)
        self.error: OSError | None = None
        self.token = 0
        """Its age token, once it was synced."""
        self._where = temp
        self._data = data
        self._fd = -1

    def write(self) -> None:
        """Its bytes, under the temporary name."""
        self._fd = os.open(self._where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
        write_all(self._fd, self._data)
        now = stamp_ns()
        os.utime(self._fd, ns=(now, now))

    def hurry(self) -> None:
        """Have the kernel begin to write it: what the journal has to know of it is then part of the next commit."""
        with contextlib.suppress(OSError):  # an advice
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Wait until its bytes are on the disk."""
        os.fdatasync(self._fd)
        self.token = token(os.fstat(self._fd).st_mtime_ns)
        self._close()

    def rename(self) -> None:
        """Its final name, which is not durable yet."""
        try:
            os.rename(self._where, self.path)
        except FileNotFoundError:  # somebody removed the folder of the shard
            make_folder(self.folder)
            sync_folder(os.path.dirname(self.folder))
            os.rename(self._where, self.path)
        self._where = self.path

    def fail(self, error: OSError) -> None:
        """It could not be made."""
        self.error = error
        self.undo()

    def undo(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._where)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def write_files(files: Sequence[NewFile]) -> None:
    """Make files durable, or set the `error` of those that could not be made; nothing is left of these.

    Each step is taken by all of them before the next: the commit of the file system's journal that the first one waits
    for carries what the others need, and a folder that got several names is synced once. Where few files may be open,
    it is some of them after the other, so that there is enough for other threads and for connections.
    """
    at_once = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE)
    try:
        for first in range(0, len(files), at_once):
            _write_together(files[first : first + at_once])
    except BaseException:
        for file in files:
            file.undo()
        raise


def _write_together(files: Sequence[NewFile]) -> None:
    _step(files, NewFile.write)
    if len(files) > 1:
        _step(files, NewFile.hurry)
    _step(files, NewFile.sync)
    _step(files, NewFile.rename)
    folders: dict[str, list[NewFile]] = {}
    for file in files:
        if file.error is None:
            folders.setdefault(file.folder, []).append(file)
    for folder, named in folders.items():
        _sync_names(folder, named)


def _step(files: Sequence[NewFile], step: Callable[[NewFile], None]) -> None:
    for file in files:
        if file.error is None:
            try:
                step(file)
            except OSError as error:
                file.fail(error)


def _sync_names(folder: str, files: list[NewFile]) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        for file in files:
            file.fail(error)
