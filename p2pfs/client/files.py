"""Where a `get` puts its files: a hidden part file or folder beside the target, and one step to the final name.

A part carries the CID in its name, so an interrupted get of the same thing finds what is there already, and a get of
something else never mixes with it. It is locked while in use, and it is never followed through a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator

from p2pfs import errors
from p2pfs.core.cid import CID

SUFFIX = ".p2pfs-part"
LOCK_WAIT_S = 3.0
CID_CHARS = 16
"""So many last characters of a CID keep the parts of two roots apart."""
MAX_NAME_BYTES = 255
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


ERRNO_CLASSES: dict[int, type[errors.P2pfsError]] = {
    errno.ENOENT: errors.NotFound, errno.ENOTDIR: errors.NotFound, errno.ENOSPC: errors.NoSpace,
    errno.EDQUOT: errors.NoSpace, errno.EFBIG: errors.NoSpace,
}


def local_error(error: OSError, path: str | None = None) -> errors.P2pfsError:
    """What the system says about a file on this machine, as an error of ours that names the file."""
    name = path or os.fsdecode(error.filename or "")
    text = (error.strerror or str(error)).lower()
    return ERRNO_CLASSES.get(error.errno or 0, errors.Refused)(f"{name}: {text}" if name else text)


def local_path(path: str | os.PathLike[str]) -> str:
    """The path as text. Raises UsageError for what can be a path on no system."""
    text = os.fspath(path)
    with contextlib.suppress(UnicodeEncodeError):
        if b"\0" not in os.fsencode(text):
            return text
    raise errors.UsageError(f"{text!a} is no path")


@contextlib.contextmanager
def local_errors(path: str | None = None, target: str | None = None) -> Iterator[None]:
    """What goes wrong with files on this machine inside the block is raised as an error of ours.

    It is about `path`; without one, about the file that the error names, else about what comes to be, the `target`.
    """
    try:
        yield
    except OSError as error:
        raise local_error(error, path or (None if error.filename else target)) from error


def is_safe_name(name: str) -> bool:
    """True for a name that stays in its folder, whatever a foreign node or an old pin calls a thing."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def name_for(ref: str, cid: CID, pins: list[str]) -> str:
    """The file name for what a REF stands for: its last path segment, its pin's name, or its CID.

    A pin's name that the user did not write is a stranger's: none that is hidden (`.profile`), or looks like an option.
    """
    named = ref.removeprefix("ipfs://").removeprefix("/ipfs/").rstrip("/")
    is_path_or_pin = "/" in named or named in pins
    candidates = [named] if is_path_or_pin else pins
    for candidate in candidates:
        name = candidate.rsplit("/", 1)[-1]
        if not is_path_or_pin and name.startswith((".", "-")):
            continue
        if is_safe_name(name) and len(os.fsencode(name)) <= MAX_NAME_BYTES:
            return name
    return str(cid)


class Sha256:
    """What a REF says that a whole file has: no block proves it, and any member may have told the catalog."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._hash = hashlib.sha256()
        self.update = self._hash.update

    @classmethod
    def named_by(cls, ref: str) -> Sha256 | None:
        """None: the REF says none."""
        return cls(ref) if ref.startswith("sha256:") else None

    def check(self) -> None:
        """Raise Corrupt when other bytes came."""
        found = self._hash.hexdigest()
        if self._ref.removeprefix("sha256:").lower() != found:
            raise errors.Corrupt(
                f"{self._ref}: the catalog gives this SHA-256 to a file that has another one, {found}; "
                "a member that told so is broken, or lies"
            )


def part_path(target: str, key: str) -> str:
    """The part beside a target; the same one each time for the same target and key, which is a CID's text."""
    folder, name = os.path.split(target)
    tail = f".{key[-CID_CHARS:]}{SUFFIX}"
    room = MAX_NAME_BYTES - 1 - len(tail)
    return os.path.join(folder, "." + os.fsdecode(os.fsencode(name)[:room]) + tail)


def check_target(target: str, kind: str, force: bool) -> None:
    """Refuse before anything is transferred what could not be put under its name at the end.

    Raises Refused for an existing target without `force`, for one that is never overwritten, and for a folder that
    cannot be synced; NotFound when the folder that it should lie in is missing.
    """
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise errors.NotFound(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.R_OK):
        raise errors.Refused(f"{folder}: this user may not read it, so no name in it can be made durable")
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if kind != "directory" and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        if not force:
            raise errors.Refused(f"{target} exists; --force overwrites it")
    else:
        raise errors.Refused(f"{target} exists, and --force overwrites files by files only; give another name with -o")


@contextlib.contextmanager
def part_file(path: str) -> Iterator[int]:
    """The descriptor of a part file, locked; it stays for the next try unless nothing came.

    Raises Refused when another process has it, or something else lies there under its name.
    """
    fd = _open_part(path)
    try:
        yield fd
    finally:
        with contextlib.suppress(FileNotFoundError):
            if is_at(fd, path) and not os.fstat(fd).st_size:
                os.unlink(path)
        os.close(fd)


def _open_part(path: str) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise errors.Refused(f"{path} is in the way and no part file; remove it") from None
            raise
        try:
            lock(fd, path)
            what = os.fstat(fd)
            if not stat.S_ISREG(what.st_mode) or what.st_uid != os.geteuid():
                raise errors.Refused(f"{path} is in the way: no regular file of yours; remove it")
            if what.st_nlink == 1 and is_at(fd, path):
                return fd
            if is_at(fd, path):
                # A get was killed between its last two steps: this inode is the finished file as well.
                os.unlink(path)
        except BaseException:
            os.close(fd)
            raise
        # Whoever had the lock before us finished and took the file away under its final name.
        os.close(fd)


def is_at(fd: int, path: str) -> bool:
    """True when a path leads to what a descriptor is of."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def lock(fd: int, path: str) -> None:
    """Lock a part until its descriptor is closed. Raises Refused when another process has it.

    The node has the same descriptor, and with it the lock, until it notices that an interrupted get is gone.
    """
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise errors.Refused(
                    f"{path} is being written by another get; wait for it, or give another name"
                ) from None
        time.sleep(0.05)


def publish(part: str, target: str, force: bool) -> None:
    """Give a complete part its final name, durably. Raises Refused when the name was taken meanwhile."""
    try:
        if force:
            os.replace(part, target)
        else:
            _rename_to_new(part, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise errors.Refused(f"{target} came into being meanwhile; what was fetched waits in {part}") from None
        raise
    sync_folder(os.path.dirname(target) or ".")


def _rename_to_new(part: str, target: str) -> None:
    """A rename that overwrites nothing: link() refuses an existing name, where rename() would replace it."""
    if not os.path.isdir(part) or os.path.islink(part):
        try:
            os.link(part, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
        else:
            os.unlink(part)
            return
    # Folders, and file systems without hard links. rename() of a folder replaces an empty folder at most.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(part, target)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
