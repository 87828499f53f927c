"""STORE of something that the client encrypts: a file, a stream, or a directory. Nothing plain leaves this process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

from p2pfs import errors
from p2pfs.client import sending
from p2pfs.client.answers import OnProgress, Stored
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.files import local_path
from p2pfs.client.ordered import Job, in_order
from p2pfs.client.outgoing import Outgoing, outgoing
from p2pfs.client.parsing import parse
from p2pfs.client.secrets import Secrets
from p2pfs.core.cid import CID, RAW
from p2pfs.core.directory import show
from p2pfs.crypt import index, keys, segments
from p2pfs.crypt.index import Row
from p2pfs.crypt.links import Link
from p2pfs.crypt.segments import KEY_BYTES, PREFIX_BYTES, SALT_BYTES, Cipher, Segment
from p2pfs.tree import Event, hides_bytes, open_file, reading, scan

CHUNKER = "fixed-1MiB"
"""A segment is a leaf then, whatever the cluster's setting is."""
SPOOL_BYTES = 1024 * 1024
"""So much of an index, or of digests, stays in memory; more goes to a temporary file without a name."""
DIGEST_BYTES = 32
ROOT = b"-"
"""The name that a root has on the wire."""


class Root(NamedTuple):
    """The key of what is stored, and what its link says of it."""

    key: bytes
    kind: str = "link"
    salt: bytes = b""
    log_n: int = 0

    def link(self, cid: CID) -> Link:
        """The link, once the CID is known."""
        return Link(cid, (), self.kind, self.key if self.kind == "link" else self.salt, self.log_n)


def new_root(secrets: Secrets, kind: str) -> Root:
    """A key that nothing else has."""
    if kind in ("link", "convergent"):
        return Root(os.urandom(KEY_BYTES))
    salt, log_n = os.urandom(keys.ROOT_SALT_BYTES), keys.SCRYPT_LOG_N if kind == "passphrase" else 0
    # Any CID does: the key is known before the content's name is.
    return Root(secrets.root_key(Link(CID(RAW, b""), (), kind, salt, log_n)), kind, salt, log_n)


def store(
    calls: Calls, source: str | os.PathLike[str] | IO[bytes], options: dict[str, Any], secrets: Secrets, kind: str,
    deadline: Deadline, progress: OnProgress | None,
) -> Stored:
    """STORE of a path or an open file. Without a name given there is none: it would tell nodes what it is."""
    root = new_root(secrets, kind)
    secret = secrets.key_file() if kind == "convergent" else None
    options = {**options, "name": options["name"] or "", "chunker": options["chunker"] or CHUNKER}
    if not isinstance(source, (str, os.PathLike)):
        with outgoing(calls, "STORE", options, deadline, progress) as out:
            return _stored(out, Sealer(out, secret).open_file(source, root))
    path = local_path(source)
    events = scan(path)
    first = next(events)
    size = sending.size_below(path) if progress is not None else None
    with outgoing(calls, "STORE", options, deadline, progress) as out:
        out.size = size
        sealer = Sealer(out, secret)
        return _stored(out, sealer.path(first.path, root) if first.kind == "file" else sealer.tree(events, root))


def _stored(out: Outgoing, sent: tuple[Root, int]) -> Stored:
    stored = parse(Stored, out.end())
    root, size = sent
    return stored._replace(size=size, sha256=None, link=str(root.link(stored.cid)))


class Sealer:
    """Seals what one store sends. With `secret`, each file's key is of its content."""

    def __init__(self, out: Outgoing, secret: bytes | None) -> None:
        self._out = out
        self._secret = secret

    # --- roots: each returns the root's key and the plain bytes --------------------------------------

    def open_file(self, file: IO[bytes], root: Root) -> tuple[Root, int]:
        """A file object: in threads when it is a whole regular file, else as it comes."""
        fd = sending.whole_file(file)
        if fd is not None:
            self._out.size = os.fstat(fd).st_size
            key, size = self._file(ROOT, fd, root.key, "the file")
            return root._replace(key=key), size
        if self._secret is not None:
            raise errors.UsageError("a convergent key takes two readings of the content: store a file, not a stream")
        pieces = Whole(self._out, file)
        self._send(ROOT, in_order(_stream_jobs(_new_cipher(root.key), pieces.read)))
        return root, pieces.done

    def path(self, path: bytes, root: Root) -> tuple[Root, int]:
        """A regular file."""
        key, size = self._path(ROOT, path, root.key)
        return root._replace(key=key), size

    def tree(self, events: Iterable[Event], root: Root) -> tuple[Root, int]:
        """A directory: its files as numbers, 1024 to a folder, then the index that gives them names."""
        import tempfile

        self._out.gather("DIR", ROOT)
        count = total = 0
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            written = IndexWriter(_new_cipher(root.key, index.CONTEXT), spool)
            depth = 0
            for event in events:
                depth += {"enter": 1, "leave": -1}.get(event.kind, 0)
                if depth < 0:
                    break
                row = Row(event.kind, event.name.decode("utf-8"))
                if event.kind == "symlink":
                    row = row._replace(target=event.target.decode("utf-8", "surrogateescape"))
                elif event.kind == "file":
                    self._enter_group(count)
                    name = index.place(count).rpartition("/")[2].encode("ascii")
                    key, size = self._path(name, event.path, os.urandom(KEY_BYTES))
                    row = row._replace(key=key, size=size)
                    count, total = count + 1, total + size
                written.add(row)
            if count:
                self._out.gather("END")
            written.close()
            spool.seek(0)
            self._send(index.NAME.encode("ascii"), iter(partial(spool.read, segments.SEGMENT_BYTES), b""))
        self._out.gather("END")
        return root, total

    def _enter_group(self, number: int) -> None:
        if number % index.GROUP == 0:
            if number:
                self._out.gather("END")
            self._out.gather("DIR", b"%d" % (number // index.GROUP))

    # --- files ---------------------------------------------------------------------------------------

    def _path(self, name: bytes, path: bytes, key: bytes) -> tuple[bytes, int]:
        fd, shown = open_file(path), show(path)
        try:
            with reading(shown):
                is_of_unknown_size = hides_bytes(fd, os.fstat(fd).st_size)
            if is_of_unknown_size:
                raise errors.Refused(f"{shown}: its size is not known, so give it through a pipe")
            return self._file(name, fd, key, shown)
        finally:
            os.close(fd)

    def _file(self, name: bytes, fd: int, key: bytes, shown: str) -> tuple[bytes, int]:
        """Send a regular file sealed; the key that it got, and its plain bytes. Raises Refused when it changes."""
        import tempfile

        before = os.fstat(fd)
        size = before.st_size
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as digests:
            if self._secret is None:
                cipher = _new_cipher(key)
                known: Iterator[bytes] = iter(bytes, None)  # none, for ever
            else:
                key = self._content_key(fd, shown, size, digests)
                cipher = Cipher(key, keys.header_of_content(key))
                known = iter(partial(digests.read, DIGEST_BYTES), b"")
            pairs = zip(segments.segments(size), known, strict=False)
            sealed = in_order(partial(_seal, cipher, fd, shown, *pair) for pair in pairs)
            if name != ROOT and segments.sealed_size(size) <= sending.SMALL_BYTES:
                self._out.gather("SMALL", name, body=b"".join(sealed))
            else:
                self._send(name, sealed)
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise errors.Refused(f"{shown} was changed while it was read; store it again")
        return key, size

    def _content_key(self, fd: int, shown: str, size: int, digests: IO[bytes]) -> bytes:
        """The first reading. The digest of each segment is kept: the second has to seal just the same bytes."""
        assert self._secret is not None
        whole = hashlib.sha256()
        for digest in in_order(partial(_digest, fd, shown, one) for one in segments.segments(size)):
            whole.update(digest)
            digests.write(digest)
            self._out.stay()
        digests.seek(0)
        return keys.key_of_content(self._secret, whole.digest())

    def _send(self, name: bytes, pieces: Iterable[bytes | memoryview]) -> None:
        self._out.record("FILE", name)
        for piece in pieces:
            self._out.record("PART", body=piece)
        self._out.record("END")


def _new_cipher(key: bytes, context: bytes = b"") -> Cipher:
    return Cipher(key, segments.new_header(os.urandom(SALT_BYTES + PREFIX_BYTES)), context)


def _read(fd: int, shown: str, segment: Segment) -> bytes:
    with reading(shown):
        data = os.pread(fd, segment.length, segment.start)
        while len(data) < segment.length:
            piece = os.pread(fd, segment.length - len(data), segment.start + len(data))
            if not piece:
                raise errors.Refused("the file became shorter while it was read; store it again")
            data += piece
        return data


def _digest(fd: int, shown: str, segment: Segment, out: memoryview) -> memoryview:
    out[:DIGEST_BYTES] = hashlib.sha256(_read(fd, shown, segment)).digest()
    return out[:DIGEST_BYTES]


def _seal(cipher: Cipher, fd: int, shown: str, segment: Segment, digest: bytes, out: memoryview) -> memoryview:
    data = _read(fd, shown, segment)
    # Other bytes under the key and nonce of the first reading would give away both: they are never sealed.
    if digest and hashlib.sha256(data).digest() != digest:
        raise errors.Refused("the file was changed between its two readings; store it again")
    return cipher.seal(segment, data, out)


# --- streams -----------------------------------------------------------------------------------------

def _stream_jobs(cipher: Cipher, read: Callable[[int], bytes]) -> Iterator[Job]:
    """One segment is read ahead: only then is it known whether it is the last."""
    number = start = 0
    data = read(segments.capacity(0))
    while True:
        following = read(segments.capacity(number + 1)) if len(data) == segments.capacity(number) else b""
        segment = Segment(number, start, len(data), not following)
        yield partial(cipher.seal, segment, data)
        if not following:
            return
        number, start, data = number + 1, start + len(data), following


class Whole:
    """Reads a file object in pieces of just the length that is asked for, but for the last."""

    def __init__(self, out: Outgoing, file: IO[bytes]) -> None:
        self._pieces = sending.pieces(out, file)
        self._rest = b""
        self.done = 0

    def read(self, length: int) -> bytes:
        """So many bytes; fewer only at the end."""
        gathered = bytearray(self._rest)
        while len(gathered) < length and (piece := next(self._pieces, b"")):
            gathered += piece
        self._rest = bytes(gathered[length:])
        del gathered[length:]
        self.done += len(gathered)
        return bytes(gathered)


class IndexWriter:
    """Seals rows as they come, so that nothing plain is ever in the temporary file."""

    def __init__(self, cipher: Cipher, file: IO[bytes]) -> None:
        self._cipher = cipher
        self._file = file
        self._number = 0
        self._start = 0
        self._lines = bytearray(index.head_line())
        self._out = memoryview(bytearray(segments.SEGMENT_BYTES))

    def add(self, row: Row) -> None:
        """The next row."""
        self._lines += index.row_line(row)
        # Not when it is just full: something has to be left for the last segment.
        while len(self._lines) > segments.capacity(self._number):
            self._seal(segments.capacity(self._number), is_last=False)

    def close(self) -> None:
        """The last segment."""
        self._seal(len(self._lines), is_last=True)

    def _seal(self, length: int, is_last: bool) -> None:
        segment = Segment(self._number, self._start, length, is_last)
        self._file.write(self._cipher.seal(segment, bytes(self._lines[:length]), self._out))
        del self._lines[:length]
        self._number += 1
        self._start += length
