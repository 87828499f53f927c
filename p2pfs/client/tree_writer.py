"""Making a tree of the local disk out of a stranger's directory, which cannot lead elsewhere.

It goes name by name from an open directory (`dir_fd`, O_NOFOLLOW, O_EXCL), so no name and no symbolic link in it writes
anywhere but below the target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import Self

from p2pfs import errors
from p2pfs.core.directory import check_name, show
from p2pfs.tree import FOLDER, MAX_TREE_DEPTH, SPECIAL, cannot

MAX_TREE_ENTRIES = 1 << 24
"""Names in all directories of a tree that is made: a few blocks can stand for any number of files."""
_RESUME = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class TreeWriter:
    """Makes a tree below one directory, which is made if it is not there. A context manager.

    What an earlier, interrupted run made is used again: directories, symbolic links, and files, which are opened with
    what is in them. Each name may come once in a directory, and so may each name that the file system takes for the
    same one (where upper and lower case, or two ways to write an accent, are no difference). All methods raise Refused
    when a name would lead elsewhere, is there as something else, or the system refuses, and NoSpace.
    """

    def __init__(self, target: str | bytes | os.PathLike[str]) -> None:
        path = os.fsencode(target)
        try:
            self._fds = [_enter(path, None)]
        except OSError as error:
            cannot("make the directory", path, error)
        self._paths = [path]
        self._names: list[set[bytes]] = [set()]
        self._inodes: list[dict[int, bytes]] = [{}]
        self._count = 0

    def enter(self, name: bytes) -> None:
        """Make a directory, and go into it."""
        path = self._claim(name)
        if len(self._fds) > MAX_TREE_DEPTH:
            raise errors.Refused(f"{show(path)}: over {MAX_TREE_DEPTH} directories in each other")
        try:
            fd = _enter(name, self._fds[-1])
        except OSError as error:
            cannot("make the directory", path, error)
        self._claim_inode(name, path, fd)
        self._fds.append(fd)
        self._paths.append(path)
        self._names.append(set())
        self._inodes.append({})

    def leave(self) -> None:
        """Check that all is made, and go back to the directory above; not from the target itself."""
        if len(self._fds) == 1:
            raise ValueError("the target itself is left by close")
        self.check()
        os.close(self._fds.pop())
        self._paths.pop()
        self._names.pop()
        self._inodes.pop()

    def sync(self) -> None:
        """Make the names in the directory durable. By its descriptor: its path may be longer than the system takes."""
        os.fsync(self._fds[-1])

    def check(self) -> None:
        """Raise Refused when there is something in the directory that was not made here: nobody verified it."""
        folder = self._fds[-1]
        for name in map(os.fsencode, os.listdir(folder)):
            if name in self._names[-1]:
                continue
            # Some file systems give a name back in another spelling.
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino not in self._inodes[-1]:
                path = os.path.join(self._paths[-1], name)
                raise errors.Refused(f"{show(path)} is there, and no part of what is made; move it away")

    def open_file(self, name: bytes) -> int:
        """A descriptor for reading and writing a file, new or with what was in it; the caller closes it."""
        path = self._claim(name)
        folder = self._fds[-1]
        try:
            fd = os.open(name, _CREATE, 0o666, dir_fd=folder)
        except FileExistsError:
            fd = _resume(name, folder, path)
        except OSError as error:
            cannot("make", path, error)
        self._claim_inode(name, path, fd)
        return fd

    def symlink(self, name: bytes, target: bytes) -> None:
        """Make a symbolic link; it may point anywhere, and nothing here ever follows it."""
        path = self._claim(name)
        folder = self._fds[-1]
        try:
            found = _link_at(name, folder)
            if found is not None:
                self._check_inode(name, path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            if found is not None and found != target:
                os.unlink(name, dir_fd=folder)
            if found != target:
                os.symlink(target, name, dir_fd=folder)
            self._check_inode(name, path, os.stat(name, dir_fd=folder, follow_symlinks=False))
        except OSError as error:
            cannot("make the link", path, error)
        except ValueError:
            raise errors.Refused(f"cannot make the link {show(path)}: a NUL in its target {show(target)}") from None

    def close(self) -> None:
        """Let go of all directories."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self, name: bytes) -> bytes:
        """The path of a new name in the current directory, for messages."""
        try:
            check_name(name)
        except errors.UsageError as error:
            raise errors.Refused(f"nothing is made in {show(self._paths[-1])}: {error}") from None
        path = os.path.join(self._paths[-1], name)
        if name in self._names[-1]:
            raise errors.Refused(f"{show(path)} comes twice in one directory")
        if self._count == MAX_TREE_ENTRIES:
            raise errors.Refused(f"{show(self._paths[0])} would hold over {MAX_TREE_ENTRIES} names")
        self._names[-1].add(name)
        self._count += 1
        return path

    def _claim_inode(self, name: bytes, path: bytes, fd: int) -> None:
        """As `_check_inode`, for what is open; closes it when it is refused."""
        try:
            self._check_inode(name, path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise

    def _check_inode(self, name: bytes, path: bytes, found: os.stat_result) -> None:
        """Each name in a directory stands for something of its own, or the file system takes two of them for one."""
        other = self._inodes[-1].setdefault(found.st_ino, name)
        if other != name:
            raise errors.Refused(
                f"{show(path)} and {show(other)} are two names, and one to this file system, which does not tell upper "
                "from lower case, or accents written in two ways; get it elsewhere, or get its entries one by one"
            )


def _enter(name: bytes, folder: int | None) -> int:
    # What is there is of an earlier run; if it is no directory, opening it fails.
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return os.open(name, FOLDER, dir_fd=folder)


def _resume(name: bytes, folder: int, path: bytes) -> int:
    try:
        fd = os.open(name, _RESUME, dir_fd=folder)
    except OSError as error:
        cannot("go on with", path, error)
    found = os.fstat(fd)
    # A second name of the same file may be anywhere: writing here would write there.
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return fd
    os.close(fd)
    what = SPECIAL.get(stat.S_IFMT(found.st_mode), "a file with several names")
    raise errors.Refused(f"{show(path)} is there already, and is {what}; move it away")


def _link_at(name: bytes, folder: int) -> bytes | None:
    """The target of a symbolic link that is there, None when nothing is. Raises OSError for anything else."""
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        raise
