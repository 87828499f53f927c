"""Walking trees on the local disk without being led elsewhere. Making them is the client's (`client/tree_writer.py`).

Reading never follows a symbolic link (but the one that the user named), never opens anything that is no regular file,
and never waits for a FIFO.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, NoReturn

from p2pfs import errors
from p2pfs.core.directory import check_name, show

MAX_TREE_DEPTH = 256
"""Directories in each other, read or made. What is read stays far below what core.dag walks."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
SPECIAL = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link",
}


class Event(NamedTuple):
    """What a scan comes to: "enter" and "leave" stand around what is in a directory."""

    kind: Literal["enter", "file", "symlink", "leave"]
    name: bytes
    """The entry's own name; of the first event, the name under which the user gave it."""
    path: bytes
    """Where it is."""
    size: int = 0
    """Bytes of a file at the time of the scan."""
    target: bytes = b""
    """Of a symbolic link."""


def scan(path: str | bytes | os.PathLike[str]) -> Iterator[Event]:
    """A file, symbolic link or directory and all that is in it, names sorted as bytes, one directory in memory a level.

    Raises NotFound when the path is not there, Refused for what cannot be read or is neither file, directory nor
    symbolic link, UsageError for a name that no directory may hold. All of them name the path.
    """
    given = os.fsencode(path)
    if not given or b"\0" in given:
        raise errors.UsageError(f"{show(given)} is no path")
    name = os.path.basename(os.path.abspath(given))
    top = os.path.realpath(given)
    if not os.path.exists(top) and os.path.exists(given):
        top = given  # /dev/fd/63, which a shell makes of <(...): what it leads to has no name
    # One iterator of names a level; its path and name for the "leave".
    stack: list[tuple[Iterator[bytes], bytes, bytes]] = []
    event = _look(name, top, os.stat)
    while True:
        yield event
        if event.kind == "enter":
            if len(stack) == MAX_TREE_DEPTH:
                raise errors.Refused(f"{show(event.path)}: over {MAX_TREE_DEPTH} directories in each other")
            stack.append((iter(_names(event.path)), event.name, event.path))
        while stack:
            names, folder_name, folder = stack[-1]
            child = next(names, None)
            if child is not None:
                event = _look(child, os.path.join(folder, child))
                break
            stack.pop()
            yield Event("leave", folder_name, folder)
        else:
            return


def open_file(path: bytes) -> int:
    """An open descriptor of a regular file that a scan named. Raises NotFound, Refused."""
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        cannot("read", path, error)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise errors.Refused(f"{show(path)} was a file and is none any more")


def hides_bytes(fd: int, size: int) -> bool:
    """True for a regular file of which the system says that it is empty, and it is not (/proc, some of FUSE).

    `size` is what it said just now. What was written to since then has a size: it hides nothing, it changed.
    """
    return not size and bool(os.pread(fd, 1, 0)) and not os.fstat(fd).st_size


@contextlib.contextmanager
def reading(path: bytes | str) -> Iterator[None]:
    """What the system refuses inside the block is raised as NotFound or Refused that names the path (text: as it is).

    For reading alone: whatever else failed inside, in a callback say, would be blamed on the file.
    """
    try:
        yield
    except OSError as error:
        cannot("read", path, error)


def _look(name: bytes, path: bytes, look: Callable[[bytes], os.stat_result] = os.lstat) -> Event:
    try:
        found = look(path)
        if stat.S_ISLNK(found.st_mode):
            return Event("symlink", name, path, target=os.readlink(path))
    except OSError as error:
        cannot("read", path, error)
    if stat.S_ISDIR(found.st_mode):
        return Event("enter", name, path)
    if stat.S_ISREG(found.st_mode):
        return Event("file", name, path, found.st_size)
    what = SPECIAL.get(stat.S_IFMT(found.st_mode), "a special file")
    hint = "; `-` stores what comes on standard input" if stat.S_ISFIFO(found.st_mode) else ""
    raise errors.Refused(f"{show(path)} is {what}; only files, directories and symbolic links can be stored{hint}")


def _names(path: bytes) -> list[bytes]:
    try:
        fd = os.open(path, FOLDER)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)
    except OSError as error:
        cannot("read", path, error)
    for name in names:
        try:
            check_name(name)
        except errors.UsageError as error:
            raise errors.UsageError(f"in {show(path)}: {error}") from None
    return names


def cannot(verb: str, path: bytes | str, error: OSError) -> NoReturn:
    """Raise what the system refused as NotFound (there is nothing to read), NoSpace or Refused that names the path."""
    shown = path if isinstance(path, str) else show(path)
    if verb == "read" and error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise errors.NotFound(f"{shown}: {error.strerror}") from error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise errors.NoSpace(f"cannot {verb} {shown}: {error.strerror}") from error
    raise errors.Refused(f"cannot {verb} {shown}: {error.strerror}") from error
