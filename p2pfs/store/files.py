"""Files and folders of a data directory: durable writes, the lock, the format version."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from p2pfs import errors

FORMAT = 1
"""Version of the layout of a data directory; a change that an older node could not read raises it."""
FORMAT_FILE = "format"
LOCK_FILE = "lock"
TEMP_ENDING = ".temp"
"""Of a small file on its way in, beside the one that it is to replace."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
LIMIT_ADVICE = "raise the limit of open files (LimitNOFILE, ulimit -n)"
_TOO_MANY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def disk_error(what: str, error: OSError) -> errors.P2pfsError:
    """The error of ours for one of the operating system; `what` was attempted ("cannot write /a/b")."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        return errors.NoSpace(f"{text}; make room, or look at the disk and the kernel's log")
    if error.errno in _TOO_MANY:
        return errors.Busy(f"{text}; {LIMIT_ADVICE}")
    return errors.Refused(f"{text}; look at the owner and the permissions of its folder")


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write all of it at the descriptor's position. Raises OSError."""
    view = memoryview(data)
    done = os.write(fd, view)
    while done < len(view):
        done += os.write(fd, view[done:])


def write_atomically(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Replace a file's content, durably: after a crash it is the old or the new one, never a mixture.

    One writer at a time for each path; what a crash left is overwritten by the next. Raises NoSpace, Busy,
    Refused.
    """
    path = os.fspath(path)
    temp = f"{path}{TEMP_ENDING}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temp, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp)
            raise
        sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        raise disk_error(f"cannot write {path}", error) from error


def prepare_data_dir(path: str | os.PathLike[str]) -> None:
    """Create the data directory (mode 0700) or check an existing one.

    Raises ConfigError when it cannot be made or written to, Refused when it is of a newer or unknown format.
    """
    path = os.fspath(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = _read_format(path)
        if found is None:
            if os.path.lexists(os.path.join(path, "blocks")):
                raise errors.Refused(
                    f"{path} has blocks and no file {FORMAT_FILE!r}; is it a p2pfs data directory? "
                    f"If so, write '{FORMAT}' into {FORMAT_FILE!r} there"
                )
            _sync_way(path)
            text = f"{FORMAT}\np2pfs data directory; the number is the version of its format\n"
            write_atomically(os.path.join(path, FORMAT_FILE), text.encode("ascii"), 0o644)
        elif found > FORMAT:
            raise errors.Refused(
                f"{path} was written by a newer p2pfs (format {found}, this one reads up to {FORMAT}); "
                "start that version, or use another data_dir"
            )
        # Whether root may write is not in the mode bits: a read-only mount or an image shows only in the
        # attempt.
        probe = os.path.join(path, LOCK_FILE)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise errors.ConfigError(
            f"data_dir {path} cannot be used: {why}; create it, give it to the user that the node "
            "runs as, or set [node] data_dir to another one"
        ) from error


def _sync_way(path: str) -> None:
    """Before anything is kept in a folder that may be new: make it, and those above it, durable. Raises OSError."""
    for folder in Path(os.path.realpath(path)).parents:
        try:
            sync_folder(str(folder))
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
                raise
            # One that this user may not read, or of a file system that cannot sync folders, is none that was made here.


def _read_format(path: str) -> int | None:
    try:
        with open(os.path.join(path, FORMAT_FILE), "rb") as file:
            first = file.readline(64).strip()
    except FileNotFoundError:
        return None
    if not (first.isdigit() and first.isascii()):
        raise errors.Refused(f"{path}/{FORMAT_FILE} begins with {first!r}, not with a number; "
                             "is it a p2pfs data directory?")
    return int(first)


class DataDirLock:
    """The exclusive use of a data directory; it ends with `close`, or with the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let others use the directory."""
        os.close(self._fd)


def lock_data_dir(path: str | os.PathLike[str]) -> DataDirLock:
    """Take the exclusive use of a prepared data directory; small files that a crash left half-written go.

    Raises Refused when another process has it.
    """
    path = os.fspath(path)
    try:
        fd = os.open(os.path.join(path, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise disk_error(f"cannot lock {path}", error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        for name in os.listdir(path):
            if name.endswith(TEMP_ENDING):
                os.unlink(os.path.join(path, name))
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise errors.Refused(f"{path} is in use by another node, pid {pid or 'unknown'}; stop that one, "
                             "or give this one another data_dir") from None
    except OSError as error:
        os.close(fd)
        raise disk_error(f"cannot lock {path}", error) from error
    return DataDirLock(fd)
