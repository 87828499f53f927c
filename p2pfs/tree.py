"""Walking trees on the local disk, and making them, without being led elsewhere.

Reading never follows a symbolic link (but the one that the user named), never opens anything that is no regular file,
and never waits for a FIFO. Making goes name by name from an open directory (`dir_fd`, O_NOFOLLOW, O_EXCL), so no name
and no symbolic link out of a stranger's directory writes anywhere but below the target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, NamedTuple, NoReturn, Self

from p2pfs import errors
from p2pfs.core.directory import check_name, show

MAX_TREE_DEPTH = 256
"""Directories in each other, read or made. What is read stays far below what core.dag walks."""
MAX_TREE_ENTRIES = 1 << 24
"""Names in all directories of a tree that is made: a few blocks can stand for any number of files."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RESUME = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_SPECIAL = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link",
}

# --- reading -----------------------------------------------------------------------------------------


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


def scan(path: str | bytes | os.PathLike[str], follow_root_symlink: bool = True) -> Iterator[Event]:
    """A file, symbolic link or directory and all that is in it, names sorted as bytes, one directory in memory a level.

    Raises NotFound when the path is not there, Refused for what cannot be read or is neither file, directory nor
    symbolic link, UsageError for a name that no directory may hold. All of them name the path.
    """
    given = os.fsencode(path)
    if not given or b"\0" in given:
        raise errors.UsageError(f"{show(given)} is no path")
    name = os.path.basename(os.path.abspath(given))
    top = os.path.realpath(given) if follow_root_symlink else given
    if follow_root_symlink and not os.path.exists(top) and os.path.exists(given):
        top = given  # /dev/fd/63, which a shell makes of <(...): what it leads to has no name
    # One iterator of names a level; its path and name for the "leave".
    stack: list[tuple[Iterator[bytes], bytes, bytes]] = []
    event = _look(name, top, os.stat if follow_root_symlink else os.lstat)
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
        _cannot("read", path, error)
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
        _cannot("read", path, error)


def _look(name: bytes, path: bytes, look: Callable[[bytes], os.stat_result] = os.lstat) -> Event:
    try:
        found = look(path)
        if stat.S_ISLNK(found.st_mode):
            return Event("symlink", name, path, target=os.readlink(path))
    except OSError as error:
        _cannot("read", path, error)
    if stat.S_ISDIR(found.st_mode):
        return Event("enter", name, path)
    if stat.S_ISREG(found.st_mode):
        return Event("file", name, path, found.st_size)
    what = _SPECIAL.get(stat.S_IFMT(found.st_mode), "a special file")
    hint = "; `-` stores what comes on standard input" if stat.S_ISFIFO(found.st_mode) else ""
    raise errors.Refused(f"{show(path)} is {what}; only files, directories and symbolic links can be stored{hint}")


def _names(path: bytes) -> list[bytes]:
    try:
        fd = os.open(path, _FOLDER)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)
    except OSError as error:
        _cannot("read", path, error)
    for name in names:
        try:
            check_name(name)
        except errors.UsageError as error:
            raise errors.UsageError(f"in {show(path)}: {error}") from None
    return names


def _cannot(verb: str, path: bytes | str, error: OSError) -> NoReturn:
    shown = path if isinstance(path, str) else show(path)
    if verb == "read" and error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise errors.NotFound(f"{shown}: {error.strerror}") from error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise errors.NoSpace(f"cannot {verb} {shown}: {error.strerror}") from error
    raise errors.Refused(f"cannot {verb} {shown}: {error.strerror}") from error


# --- making ------------------------------------------------------------------------------------------


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
            _cannot("make the directory", path, error)
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
            _cannot("make the directory", path, error)
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
            _cannot("make", path, error)
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
            _cannot("make the link", path, error)
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
    return os.open(name, _FOLDER, dir_fd=folder)


def _resume(name: bytes, folder: int, path: bytes) -> int:
    try:
        fd = os.open(name, _RESUME, dir_fd=folder)
    except OSError as error:
        _cannot("go on with", path, error)
    found = os.fstat(fd)
    # A second name of the same file may be anywhere: writing here would write there.
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return fd
    os.close(fd)
    what = _SPECIAL.get(stat.S_IFMT(found.st_mode), "a file with several names")
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
