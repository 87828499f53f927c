"""What a link means: its root's key, and what its path leads to. The one place that knows links and nodes both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from typing import NamedTuple

from p2pfs import errors
from p2pfs.client import files, getting, unsealing
from p2pfs.client.answers import Entry, OnProgress, Stat
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.parsing import parse
from p2pfs.client.secrets import Secrets
from p2pfs.client.unsealing import SealedFile
from p2pfs.crypt import index
from p2pfs.crypt.index import Row
from p2pfs.crypt.links import Link


class Target(NamedTuple):
    """What a link leads to."""

    link: Link
    type: str
    held: str
    """What nodes call it: of a file its own sealed stream, of others the root."""
    key: bytes
    """Of a file's stream; of others the root's."""
    size: int | None = None
    """Plain bytes of a file, where a directory says so."""
    symlink: str | None = None
    """Where a symbolic link points."""


class Sealed:
    """Answers for links what `Client` answers for other REFs."""

    def __init__(self, calls: Calls, secrets: Secrets, ref: str, deadline: Deadline) -> None:
        """Raises UsageError for a REF that is no link."""
        self.link = Link.parse(ref)
        self._calls = calls
        self._secrets = secrets
        self._deadline = deadline

    def held(self) -> str:
        """What nodes call it. Raises UsageError for what they do not know: a directory or link inside another."""
        if not self.link.path:
            return str(self.link.cid)
        target = self._target()
        if target.type != "file":
            raise errors.UsageError(
                f"{self.link.public} is a {target.type}: nodes only know the whole directory, and its files"
            )
        return target.held

    def file(self) -> SealedFile:
        """The file that it is. Raises UsageError for what is none."""
        target = self._target()
        if target.type != "file":
            raise errors.UsageError(f"{self.link.public} is a {target.type}, not a file")
        return self._file(target)

    def open_file(self) -> SealedFile:
        """The same, with its size proved."""
        file = self.file()
        for _ in unsealing.read(self._calls, file, file.size, 0, self._deadline):
            pass
        return file

    def _file(self, target: Target) -> SealedFile:
        return unsealing.find_file(self._calls, target.held, target.key, self._deadline, target.size)

    def stat(self) -> Stat:
        """Figures: blocks and bytes are those that the nodes hold, of the whole directory where it has none."""
        target = self._target()
        found = self._stat(target.held)._replace(
            type=target.type, size=None, entries=None, target=target.symlink, sha256=None
        )
        if target.type == "file":
            return found._replace(size=self.open_file().size)
        if target.type == "directory":
            return found._replace(entries=sum(depth == 0 and row.kind != "leave" for depth, row in self._inside()))
        return found

    def ls(self) -> Generator[Entry, None, bytes]:
        """The entries of a directory. Raises UsageError when it is none."""
        target = self._target()
        if target.type != "directory":
            raise errors.UsageError(f"{self.link.public} is a {target.type}, not a directory")
        for depth, row in self._inside():
            if depth == 0 and row.kind != "leave":
                link = self.link._replace(path=(*self.link.path, row.name))
                yield Entry(row.name, self.link.cid, row.type, row.size if row.kind == "file" else None, str(link))
        return b""

    def get(self, path: str | None, force: bool, progress: OnProgress | None) -> str:
        """Fetch it under a name on this machine, complete or not at all; the path where it is now."""
        target = self._target()
        found = self._stat(str(self.link.cid))
        named = "/".join((str(self.link.cid), *self.link.path))
        where = getting.choose_target(named, found, path)
        with files.local_errors(target=where):
            files.check_target(where, target.type, force)
            # What is inside a root has no CID of its own: its place is what keeps parts of two things apart.
            part_key = hashlib.sha256(os.fsencode(named)).hexdigest()
            if target.type == "directory":
                from p2pfs.client.sealed_folder import SealedFolderGet

                getter = SealedFolderGet(self._calls, self._deadline, progress, found.bytes, target.key, self.link.path)
                getter.put(self.link.cid, where, part_key)
            elif target.type == "symlink":
                getting.get_symlink(found._replace(target=target.symlink), where, force)
            else:
                self._get_file(self._file(target), files.part_path(where, part_key), where, force, progress)
        return where

    def _get_file(self, file: SealedFile, part: str, where: str, force: bool, progress: OnProgress | None) -> None:
        with files.part_file(part) as fd:
            unsealing.read_into(self._calls, file, fd, self._deadline, progress)
            os.fsync(fd)
            files.publish(part, where, force)

    # --- what a link leads to ------------------------------------------------------------------------

    def _stat(self, held: str) -> Stat:
        return parse(Stat, self._calls.object(self._deadline, "STAT", held))

    def _target(self) -> Target:
        link, root = self.link, str(self.link.cid)
        key = self._secrets.root_key(link)
        if self._stat(root).type == "file":
            if link.path:
                raise errors.NotFound(f"{link.public}: the root is a file; there is nothing in it")
            return Target(link, "file", root, key)
        if not link.path:
            return Target(link, "directory", root, key)
        row = index.find(self._rows(), link.path)
        if row is None:
            raise errors.NotFound(f"{link.public}: there is nothing of this name in the directory")
        if row.kind == "file":
            return Target(link, "file", f"{root}/{index.place(row.number)}", row.key, row.size)
        return Target(link, row.type, root, key, symlink=row.target or None)

    def _rows(self) -> Iterator[Row]:
        key = self._secrets.root_key(self.link)
        return unsealing.read_index(self._calls, self.link.cid, key, self._deadline)

    def _inside(self) -> Iterator[tuple[int, Row]]:
        """The rows in the directory that the link leads to."""
        rows = self._rows()
        if self.link.path:
            index.find(rows, self.link.path)
        return index.inside(rows)
