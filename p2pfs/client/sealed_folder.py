"""`get` of an encrypted directory: names and keys from its index, sealed files from the node, opened before written."""

from __future__ import annotations

import os

from p2pfs import errors
from p2pfs.client import unsealing
from p2pfs.client.answers import Entry, OnProgress
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.folder import FolderGet, Job
from p2pfs.client.parsing import parse_line
from p2pfs.client.tree_writer import TreeWriter
from p2pfs.core.cid import CID
from p2pfs.crypt import index
from p2pfs.crypt.index import GROUP, Row


class SealedFolderGet(FolderGet):
    """As for a plain directory, but that the listing is the index, and what comes is opened first."""

    def __init__(
        self, calls: Calls, deadline: Deadline, progress: OnProgress | None, about_bytes: int, key: bytes,
        path: tuple[str, ...],
    ) -> None:
        super().__init__(calls, deadline, progress, about_bytes)
        self._key = key
        self._path = path
        """Inside the root, to what is fetched."""
        self._group_number = -1
        self._group: dict[str, Entry] = {}

    def make(self, writer: TreeWriter, root: CID) -> None:
        """Make what the index says, and put its files into the queue."""
        rows = unsealing.read_index(self._calls, root, self._key, self._deadline)
        if self._path:
            index.find(rows, self._path)
        for _, row in index.inside(rows):
            name = os.fsencode(row.name)
            if row.kind == "enter":
                writer.enter(name)
            elif row.kind == "leave":
                writer.sync()
                writer.leave()
            elif row.kind == "symlink":
                writer.symlink(name, os.fsencode(row.target))
            else:
                entry = self._entry(root, row)
                self.want(Job(writer.open_file(name), entry.cid, entry.size, row))
        writer.sync()

    def _entry(self, root: CID, row: Row) -> Entry:
        """What the node holds of a file. Its listing of a group is kept for the next row."""
        folder, _, name = index.place(row.number).rpartition("/")
        if row.number // GROUP != self._group_number:
            self._group, self._group_number = {}, row.number // GROUP
            for part in self._calls.stream(self._deadline, "LIST", f"{root}/{folder}"):
                for line in part.splitlines():
                    entry = parse_line(Entry, line)
                    self._group[entry.name] = entry
                if len(self._group) > GROUP:
                    raise errors.Malformed(f"{root}/{folder}: no encrypted directory has over {GROUP} entries there")
        if name not in self._group:
            raise errors.Malformed(f"{root}/{folder}/{name}: the index names it, and it is not there")
        return self._group[name]

    def content(self, job: Job, data: memoryview) -> memoryview:
        """The plain bytes of a small file."""
        assert job.row is not None
        return unsealing.open_small(data, job.row.key, job.row.size)

    def fetch_one(self, job: Job) -> None:
        """Any other file; here several come at once, so that each gets one thread."""
        assert job.row is not None
        file = unsealing.find_file(self._fetching, str(job.cid), job.row.key, self._deadline, job.row.size)
        advance = self.advance_by_steps()
        unsealing.read_into(self._fetching, file, job.fd, self._deadline, advance, threads=1)
