"""`get` of a directory: listed by one thread, its files fetched by a few, all renamed into place at the end.

The part folder is ours alone (mode 0700), so nobody else puts anything in the way while it fills; what the directory's
own author may have put in the way is refused by TreeWriter.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import stat
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from p2pfs import errors
from p2pfs.client import files
from p2pfs.client.answers import Entry, OnProgress, Progress, Stat
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.getting import fetch_into, link_text, read_into
from p2pfs.client.parsing import parse, parse_line
from p2pfs.client.pool import Branch
from p2pfs.client.tree_writer import TreeWriter
from p2pfs.core import batches, wire
from p2pfs.core.cid import CID, RAW

if TYPE_CHECKING:
    from p2pfs.crypt.index import Row

AT_ONCE = 4
"""Files fetched at the same time, each over a connection of its own."""
WAITING = 4
"""Batches of open files that wait for their turn, at most."""
BATCH = 64
"""Small files that are asked for together: so many are open at once."""
SPOOL_BYTES = 256 * 1024
"""A listing up to this size is kept in memory, a longer one in a file; there is one for each level of folders."""
TREE = "tree"


def get_directory(
    calls: Calls, found: Stat, target: str, deadline: Deadline, progress: OnProgress | None
) -> None:
    """Fetch a directory with all below it. What is there from an earlier try is verified and kept."""
    FolderGet(calls, deadline, progress, found.bytes).put(found.cid, target, str(found.cid))


@contextlib.contextmanager
def part_folder(path: str) -> Iterator[None]:
    """A folder that only we can enter, locked. It stays for the next try unless nothing was put into it.

    Raises Refused when it is somebody else's, or in use.
    """
    fd = _open_part(path)
    try:
        yield
    finally:
        for empty in (os.path.join(path, TREE), path):
            with contextlib.suppress(OSError):
                os.rmdir(empty)
        os.close(fd)


def _open_part(path: str) -> int:
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise errors.Refused(f"{path} is in the way and no folder; remove it") from None
            raise
        try:
            files.lock(fd, path)
            what = os.fstat(fd)
            if what.st_uid != os.geteuid() or stat.S_IMODE(what.st_mode) & 0o077:
                raise errors.Refused(f"{path} is in the way: not a private folder of yours; remove it")
            if files.is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Whoever had the lock before us was done and took it away; at its place may be that of a third.
        os.close(fd)


class Job(NamedTuple):
    """A file that is still to be fetched."""

    fd: int
    cid: CID
    size: int | None
    """As the directory says."""
    row: Row | None = None
    """What the index of an encrypted directory says of it."""

    @property
    def is_small(self) -> bool:
        """It is one leaf that travels with others."""
        return self.cid.codec == RAW and self.size is not None and self.size <= wire.MAX_SMALL


Batch = list[Job]
"""Small files, or a single one of any size."""


class FolderGet:
    """One directory on its way: the caller's thread lists and makes, a few others fetch."""

    def __init__(self, calls: Calls, deadline: Deadline, progress: OnProgress | None, about_bytes: int) -> None:
        self._calls = calls
        self._branch = Branch(calls.pool)
        self._fetching = Calls(self._branch)
        """What the threads ask by: it ends with the get."""
        self._deadline = deadline
        self._progress = progress
        self._about_bytes = about_bytes
        self._jobs: queue.Queue[Batch | None] = queue.Queue(WAITING)
        self._small: Batch = []
        """Small files that wait for more of their kind."""
        self._small_bytes = 0
        self._guard = threading.Lock()
        self._done_bytes = 0
        self._error: BaseException | None = None
        self._target = ""

    def put(self, root: CID, target: str, part_key: str) -> None:
        """Give the directory its name, once all of it is there; `part_key` tells its part from others'."""
        self._target = target
        part = files.part_path(target, part_key)
        with part_folder(part):
            # Another get may have had the part until now.
            files.check_target(target, "directory", force=False)
            tree = os.path.join(part, TREE)
            self.run(root, tree)
            files.publish(tree, target, force=False)

    def run(self, root: CID, path: str) -> None:
        """Put the directory's content under a path, durably. Raises the first error that anything met."""
        threads = [threading.Thread(target=self._work, name=f"get-{i}", daemon=True) for i in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            with TreeWriter(path) as writer:
                self.make(writer, root)
                writer.check()
            self._put_small()
            for _ in threads:
                self._put(None)
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    self._check()
            self._check()
        except BaseException as error:
            self._error = self._error or error
            self._abandon()
            # None is left behind: what it writes or empties later may have got its name by the next try.
            for thread in threads:
                thread.join()
            raise

    def _check(self) -> None:
        self._deadline.wait_s()
        if self._error is not None:
            raise self._error

    # --- listing -------------------------------------------------------------------------------------

    def make(self, writer: TreeWriter, cid: CID) -> None:
        """Make what a directory holds, and put its files into the queue."""
        for entry in self._entries(cid):
            name = os.fsencode(entry.name)
            if entry.type == "directory":
                writer.enter(name)
                self.make(writer, entry.cid)
                writer.leave()
            elif entry.type == "symlink":
                found = parse(Stat, self._calls.object(self._deadline, "STAT", str(entry.cid)))
                writer.symlink(name, os.fsencode(link_text(found)))
            else:
                self.want(Job(writer.open_file(name), entry.cid, entry.size))
        writer.sync()

    def _entries(self, cid: CID) -> Iterator[Entry]:
        # The listing is taken at once: the node would not wait while the files of a long one are fetched.
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as listing:
            for part in self._calls.stream(self._deadline, "LIST", str(cid)):
                listing.write(part)
            listing.seek(0)
            for line in listing:
                yield parse_line(Entry, line)

    def want(self, job: Job) -> None:
        """Put a file into the queue."""
        if not job.is_small:
            self._put([job])
            return
        self._small.append(job)
        self._small_bytes += job.size or 0
        if len(self._small) >= BATCH or self._small_bytes > batches.BYTES - wire.MAX_SMALL:
            self._put_small()

    def _put_small(self) -> None:
        if self._small:
            batch, self._small, self._small_bytes = self._small, [], 0
            self._put(batch)

    def _put(self, batch: Batch | None) -> None:
        try:
            while True:
                self._check()
                with contextlib.suppress(queue.Full):
                    return self._jobs.put(batch, timeout=1.0)
        except BaseException:
            _close(batch or [])
            raise

    # --- fetching ------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Forget what waits, and wake whoever waits for more, or for the node."""
        _close(self._small)
        with contextlib.suppress(queue.Empty):
            while True:
                _close(self._jobs.get_nowait() or [])
        for _ in range(AT_ONCE):
            self._jobs.put_nowait(None)
        self._branch.cut()

    def _work(self) -> None:
        while self._error is None:
            try:
                batch = self._jobs.get()
                if batch is None:
                    return
                try:
                    with files.local_errors(target=self._target):
                        self._fetch(batch)
                finally:
                    _close(batch)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._error = self._error or error

    def _fetch(self, batch: Batch) -> None:
        found = self._ask_small(batch) if batch[0].is_small else {}
        for job in batch:
            if (data := found.get(job.cid)) is not None:
                fill(job.fd, self.content(job, data))
                self._advance(len(data))
            else:
                self.fetch_one(job)
        for job in batch:
            os.fsync(job.fd)

    def _ask_small(self, batch: Batch) -> dict[CID, memoryview]:
        """The bytes of small files; the node leaves out what is not as small as the directory says, or hard to find."""
        body = batches.pack_cids(dict.fromkeys(job.cid for job in batch))
        return dict(batches.unpack(memoryview(self._fetching.body(self._deadline, "READS", body))))

    def content(self, job: Job, data: memoryview) -> memoryview:
        """What a small file holds when this came for it."""
        return data

    def fetch_one(self, job: Job) -> None:
        """A file that did not come with others."""
        advanced = self.advance_by_steps()
        if self._fetching.pool.is_local:
            fetch_into(self._fetching, job.fd, job.cid, self._target, self._deadline, advanced)
        else:
            read_into(self._fetching, job.fd, job.cid, job.size, self._deadline, advanced)
        advanced(Progress(os.fstat(job.fd).st_size, None))

    def advance_by_steps(self) -> OnProgress:
        """What is to be told how far one file is. It raises Interrupted once another one failed."""
        last = 0

        def advanced(progress: Progress) -> None:
            nonlocal last
            if self._error is not None:
                raise errors.Interrupted("another file of the directory failed")
            self._advance(progress.bytes - last)
            last = progress.bytes

        return advanced

    def _advance(self, count: int) -> None:
        with self._guard:
            self._done_bytes += count
            if self._progress is not None:
                # Equal blocks count once in what STAT says, but are written each time.
                self._progress(Progress(self._done_bytes, max(self._about_bytes, self._done_bytes)))


def fill(fd: int, data: memoryview) -> None:
    """Make a small file hold just these bytes; what is there already, and right, stays."""
    size = os.fstat(fd).st_size
    if size:
        if os.pread(fd, len(data) + 1, 0) == data:
            return
        os.ftruncate(fd, 0)
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)
    # The kernel begins to write it now, with all others of the batch, and not only when it is synced.
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _close(batch: Batch) -> None:
    for job in batch:
        os.close(job.fd)
