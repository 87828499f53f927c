"""EXPORT from the client's side: a CAR into a file."""

from __future__ import annotations

import os
from typing import IO

from p2pfs import errors
from p2pfs.client import files
from p2pfs.client.answers import ExportEnd, OnProgress, Progress
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline


def export_car(
    calls: Calls, ref: str, file: str | os.PathLike[str] | IO[bytes], force: bool, deadline: Deadline,
    progress: OnProgress | None,
) -> int:
    """Write a CARv1 to a path or a binary file object; the number of blocks."""
    if not isinstance(file, (str, os.PathLike)):
        return _write(calls, ref, file, deadline, progress)
    target = files.local_path(file)
    if not target:
        raise errors.UsageError("an empty path to put it; - is standard output")
    if os.path.isdir(target):
        raise errors.Refused(f"{target} is a folder; name a file")
    part = files.part_path(target, "car")
    with files.local_errors():
        files.check_target(target, "file", force)
    with files.local_errors(target=target), files.part_file(part) as fd:
        os.ftruncate(fd, 0)
        try:
            with open(fd, "wb", closefd=False) as car:
                blocks = _write(calls, ref, car, deadline, progress)
            os.fsync(fd)
        except BaseException:
            # There is no way to go on with half a CAR.
            os.ftruncate(fd, 0)
            raise
        files.publish(part, target, force)
    return blocks


def _write(calls: Calls, ref: str, file: IO[bytes], deadline: Deadline, progress: OnProgress | None) -> int:
    parts = calls.parts(deadline, ExportEnd, "EXPORT", ref)
    done = 0
    for part in parts:
        view = memoryview(part)
        while view:
            # An unbuffered file may take only some of it.
            view = view[file.write(view) :]
        done += len(part)
        if progress is not None:
            progress(Progress(done, None))
    file.flush()
    return parts.end.blocks
