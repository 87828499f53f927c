"""`get`: a stored file, directory or link under a name on this machine, complete or not at all."""

from __future__ import annotations

import os

from p2pfs import errors
from p2pfs.client import files
from p2pfs.client.answers import FetchEnd, OnProgress, Progress, ReadEnd, Stat
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.parsing import parse
from p2pfs.core import wire
from p2pfs.core.cid import CID


def get(
    calls: Calls, ref: str, path: str | None, force: bool, deadline: Deadline, progress: OnProgress | None
) -> str:
    """Fetch what a REF stands for; the path where it is now."""
    found = parse(Stat, calls.object(deadline, "STAT", ref))
    sha256 = files.Sha256.named_by(ref)
    if sha256 is not None and found.type != "file":
        raise errors.Corrupt(f"{ref}: the catalog gives a {found.type} this SHA-256, and only a file has one")
    target = choose_target(ref, found, path)
    with files.local_errors(target=target):
        files.check_target(target, found.type, force)
        if found.type == "directory":
            # Loaded on demand: threads and queues are for directories only.
            from p2pfs.client.folder import get_directory

            get_directory(calls, found, target, deadline, progress)
        elif found.type == "symlink":
            get_symlink(found, target, force)
        else:
            get_file(calls, found, target, force, deadline, progress, sha256)
    return target


def choose_target(ref: str, found: Stat, path: str | None) -> str:
    """The path that was wanted; inside it when it is a folder; without one the name of what is fetched, right here."""
    if path is None:
        return files.name_for(ref, found.cid, found.pins)
    if not path:
        raise errors.UsageError("an empty path to put it; leave it out for the current folder")
    if os.path.isdir(path) or path.endswith("/"):
        return os.path.join(path, files.name_for(ref, found.cid, found.pins))
    return path


def get_file(
    calls: Calls, found: Stat, target: str, force: bool, deadline: Deadline, progress: OnProgress | None,
    sha256: files.Sha256 | None = None,
) -> None:
    """Fetch a file into its part, then give it its name."""
    part = files.part_path(target, str(found.cid))
    with files.part_file(part) as fd:
        if calls.pool.is_local:
            fetch_into(calls, fd, found.cid, target, deadline, progress)
        else:
            read_into(calls, fd, found.cid, found.size, deadline, progress)
        if sha256 is not None:
            check_file(fd, sha256, deadline)
        os.fsync(fd)
        files.publish(part, target, force)


def check_file(fd: int, sha256: files.Sha256, deadline: Deadline) -> None:
    """Read what came. Raises Corrupt, and nothing stays."""
    done = 0
    while piece := os.pread(fd, wire.MAX_PART, done):
        deadline.wait_s()
        sha256.update(piece)
        done += len(piece)
    try:
        sha256.check()
    except errors.Corrupt:
        os.ftruncate(fd, 0)
        raise


def fetch_into(
    calls: Calls, fd: int, cid: CID, target: str, deadline: Deadline, progress: OnProgress | None
) -> None:
    """Have the local node make a descriptor's file equal to a stored one; it keeps what is there and right.

    After a failure, calling again completes the file. `target`: what to call it when there is no room for it.
    """
    parts = calls.parts(deadline, FetchEnd, "FETCH", str(cid), fds=(fd,))
    try:
        for part in parts:
            row = wire.parse_json(part, dict)
            if progress is not None:
                progress(parse(Progress, row))
    except errors.NoSpace as error:  # of the node, which knows no name
        raise errors.NoSpace(f"{target}: {error}") from None
    check_cid(parts.end.cid, cid)
    size = os.fstat(fd).st_size
    if size != parts.end.size:
        raise errors.Refused(f"{cid}: the file has {size} bytes now, not {parts.end.size}; somebody else writes to it")


def read_into(
    calls: Calls, fd: int, cid: CID, size: int | None, deadline: Deadline, progress: OnProgress | None
) -> None:
    """Write a stored file's bytes as they come, from the start: here nobody could prove what is there already.

    So after a failure nothing stays.
    """
    os.ftruncate(fd, 0)
    try:
        parts = calls.parts(deadline, ReadEnd, "READ", str(cid), 0, None)
        done = 0
        for part in parts:
            view = memoryview(part)
            while view:
                count = os.pwrite(fd, view, done)
                view = view[count:]
                done += count
            if progress is not None:
                progress(Progress(done, size))
        check_cid(parts.end.cid, cid)
        if done != parts.end.size:
            raise errors.ProtocolError(f"{cid}: {parts.end.size} bytes were announced, {done} came")
    except BaseException:
        os.ftruncate(fd, 0)
        raise


def check_cid(sent: CID, wanted: CID) -> None:
    """Raises ProtocolError when a node sent something else than what it was asked for."""
    if sent != wanted:
        raise errors.ProtocolError(f"the node sent {sent} for {wanted}")


def get_symlink(found: Stat, target: str, force: bool) -> None:
    """Make a symbolic link under its name; it is never followed."""
    part = files.part_path(target, str(found.cid))
    if os.path.lexists(part):
        os.unlink(part)
    os.symlink(link_text(found), part)
    try:
        files.publish(part, target, force)
    except BaseException:
        os.unlink(part)
        raise


def link_text(found: Stat) -> str:
    """Where a symbolic link points. Raises Malformed for what no link can hold."""
    if not found.target or "\0" in found.target:
        raise errors.Malformed(f"{found.cid}: a symbolic link to {found.target!r} cannot exist")
    return found.target
