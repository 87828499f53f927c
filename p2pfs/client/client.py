"""The blocking client: what the command line does, for anyone's Python program."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Self

from p2pfs import errors
from p2pfs.client.answers import (
    Entry,
    Explanation,
    Imported,
    OnProgress,
    Peer,
    PinRow,
    Placement,
    ReadEnd,
    Removed,
    Repinned,
    Restored,
    Stat,
    Stored,
    Unpinned,
)
from p2pfs.client.calls import Answers, Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.files import Sha256, local_path
from p2pfs.client.parsing import parse, parse_line
from p2pfs.client.pool import Pool, default_address
from p2pfs.client.reports import (
    Audited,
    AuditStep,
    Collected,
    Drained,
    DrainStep,
    Forgotten,
    Granted,
    Invited,
    Revoked,
    Scrubbed,
    ScrubStep,
    Status,
)
from p2pfs.client.secrets import Passphrase, Secrets
from p2pfs.core import wire
from p2pfs.core.cid import CID
from p2pfs.crypt import is_link

if TYPE_CHECKING:
    from pathlib import Path

    from p2pfs.client.sealed import Sealed

Ref = str | CID
BUFFER_BYTES = 128 * 1024


class Client:
    """A p2pfs node, reached over its control socket or by HOST:PORT.

    Every method raises children of `p2pfs.errors.P2pfsError` only. A REF is a CID (object or text), CID/path, a pin's
    name, `sha256:HEX`, `ipfs://CID`, or the link of something encrypted, whose key never leaves this process. Safe to
    use from several threads, and by a process that forks; importing it loads neither gevent nor ssl.

        with Client() as client:
            stored = client.store("model.bin")
            with client.open(stored.cid) as file:
                header = file.read(4096)
    """

    def __init__(
        self, address: str | None = None, *, tls_dir: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None, key_file: str | os.PathLike[str] | None = None,
        passphrase: Passphrase | None = None,
    ) -> None:
        """`address`: path of a control socket or HOST:PORT (with `tls_dir`); by default $P2PFS_NODE, else the default
        data directory's socket. `timeout_s` limits each operation as a whole; without it one may last as long as it
        advances, and ends after 60 s of silence. `key_file` and `passphrase` (text, bytes, or what gives it when it is
        needed) are for encrypted content whose key is not in its link. Nothing is connected yet.
        """
        self.timeout_s = timeout_s
        self._calls = Calls(Pool(address or default_address(), None if tls_dir is None else local_path(tls_dir)))
        self._secrets = Secrets(key_file, passphrase)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        self._calls.pool.close()

    @property
    def address(self) -> str:
        """Where the node is."""
        return self._calls.pool.address

    # --- keep ----------------------------------------------------------------------------------------

    def store(
        self, source: str | os.PathLike[str] | IO[bytes], *, name: str | None = None, replicas: int | None = None,
        chunker: str | None = None, hash: str | None = None, dry_run: bool = False, encrypt: bool | str | None = None,
        progress: OnProgress | None = None,
    ) -> Stored:
        """Keep a file, a directory with all below it, or what a binary file object still gives, and pin it.

        Returns once every block and the pin are durable on as many nodes as the cluster's write_quorum. `name` is the
        path's last part by default. A file object without a descriptor has to give something at least once a minute.
        With `dry_run` the receipt says what would be new.

        `encrypt`: before anything leaves this process (docs/ENCRYPTION.md). True, or where the key comes from: "link"
        (it is in the link), "key-file", "passphrase", "convergent"; None: as client.ini says, False: not. What to call
        the content afterwards is `Stored.link`; its pin has no name unless one is given.
        Raises NotFound, Refused (special file, file that changes meanwhile), NoSpace, TooFewNodes and others.
        """
        from p2pfs.client import sending

        options = {
            "name": name, "replicas": replicas, "chunker": chunker, "hash": hash, "dry_run": dry_run or None,
        }
        kind = self._secrets.kind(encrypt)
        if kind is not None:
            from p2pfs.client import sealing

            return sealing.store(self._calls, source, options, self._secrets, kind, self._deadline(), progress)
        return sending.store(self._calls, source, options, self._deadline(), progress)

    def import_car(
        self, file: str | os.PathLike[str] | IO[bytes], *, name: str | None = None, replicas: int | None = None,
        progress: OnProgress | None = None,
    ) -> Imported:
        """Take in the blocks of a CARv1 and pin its roots. Raises Malformed, Corrupt and what `store` raises."""
        from p2pfs.client import sending

        return sending.import_car(self._calls, file, {"name": name, "replicas": replicas}, self._deadline(), progress)

    def remove(self, ref: Ref) -> list[Removed]:
        """Remove the pin of a name, or all pins of a CID. Raises NotFound."""
        return parse(Unpinned, self._calls.object(self._deadline(), "UNPIN", self._held(ref))).removed

    def restore(self, ref: Ref) -> list[Restored]:
        """Undo `remove`, as long as the blocks are kept; what has too few copies is copied.

        Raises NotFound when they are not, or nothing was removed, and TooFewNodes.
        """
        return self._calls.parts(self._deadline(), Repinned, "RESTORE", self._held(ref)).end.restored

    # --- read ----------------------------------------------------------------------------------------

    def get(
        self, ref: Ref, path: str | os.PathLike[str] | None = None, *, force: bool = False,
        progress: OnProgress | None = None,
    ) -> Path:
        """Fetch a file or directory, verified; returns where it is now.

        It appears under its name complete or not at all. An interrupted get by the control socket leaves a hidden part
        beside it, and the next one continues from that; by HOST:PORT it begins anew. `path`: the new name, or an
        existing folder to put it into; by default the current folder. Raises Refused when the target exists (`force`
        overwrites a file), before anything is fetched.
        """
        from pathlib import Path

        if is_link(ref):
            return Path(self._sealed(ref).get(None if path is None else local_path(path), force, progress))
        from p2pfs.client import getting

        return Path(getting.get(self._calls, str(ref), None if path is None else local_path(path), force,
                                self._deadline(), progress))

    def open(self, ref: Ref) -> io.BufferedReader:
        """A stored file as a seekable binary file object; only the ranges that are read are fetched.

        A name is resolved once: what it means later does not matter to an open file. A `sha256:HEX` is believed to be
        what the catalog says; `get` and `read` look.
        """
        from p2pfs.client.remote_file import RemoteFile

        if is_link(ref):
            from p2pfs.client import unsealing

            file = self._sealed(ref).open_file()
            read = partial(unsealing.read, self._calls, file)
            plain = RemoteFile(file.cid, file.size, lambda offset, length: read(offset, length, self._deadline()))
            return io.BufferedReader(plain, BUFFER_BYTES)
        found = self._calls.parts(self._deadline(), ReadEnd, "READ", str(ref), 0, 0).end
        raw = RemoteFile(found.cid, found.size, lambda offset, length: self.read(found.cid, offset, length))
        return io.BufferedReader(raw, BUFFER_BYTES)

    def read(self, ref: Ref, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `offset` on, `length` of them or all, in pieces of at most 1 MiB, verified.

        All of a `sha256:HEX` has that hash, or Corrupt is raised at the end; of a part of it, nobody can know. Nothing
        is asked before the first piece is. A reader who stops early costs a connection, no more. Raises
        UsageError for a range that begins before the file, or has less than no bytes.
        """
        if offset < 0 or (length is not None and length < 0):
            raise errors.UsageError(f"offset {offset}, length {length}: both are 0 or more; no length is all the rest")
        if is_link(ref):
            from p2pfs.client import unsealing

            file = self._sealed(ref).file()
            yield from map(bytes, unsealing.read(self._calls, file, offset, length, self._deadline()))
            return
        parts = self._calls.parts(self._deadline(), ReadEnd, "READ", str(ref), offset, length)
        sha256 = Sha256.named_by(str(ref)) if not offset and length is None else None
        sent = 0
        for part in parts:
            sent += len(part)
            if sha256 is not None:
                sha256.update(part)
            yield part
        if sent != parts.end.sent:
            raise errors.ProtocolError(f"{ref}: the node says that it sent {parts.end.sent} bytes, {sent} came")
        if sha256 is not None:
            sha256.check()

    def export_car(
        self, ref: Ref, file: str | os.PathLike[str] | IO[bytes], *, force: bool = False,
        progress: OnProgress | None = None,
    ) -> int:
        """Write a REF and all below it as a CARv1 to a path or a binary file object; returns the number of blocks.

        A path appears complete or not at all. Raises Refused when it exists (`force` overwrites a file), before
        anything is transferred.
        """
        from p2pfs.client import exporting

        return exporting.export_car(self._calls, self._held(ref), file, force, self._deadline(), progress)

    # --- look ----------------------------------------------------------------------------------------

    def ls(self, ref: Ref) -> Answers[Entry, bytes]:
        """The entries of a directory, as they come. Raises UsageError when it is none."""
        if is_link(ref):
            return Answers(self._sealed(ref).ls())
        return self._calls.rows(self._deadline(), Entry, "LIST", str(ref))

    def pins(self) -> Answers[PinRow, bytes]:
        """All pins, newest first, as they come."""
        return self._calls.rows(self._deadline(), PinRow, "PINS")

    def stat(self, ref: Ref) -> Stat:
        """Figures of a root, or of something inside it."""
        if is_link(ref):
            return self._sealed(ref).stat()
        return parse(Stat, self._calls.object(self._deadline(), "STAT", str(ref)))

    def explain(self, ref: Ref) -> Answers[Placement, Explanation]:
        """Where each block should be and is: iterate over the placements; `.end` is what they add up to."""
        return self._calls.explain(self._deadline(), self._held(ref))

    def peers(self) -> list[Peer]:
        """Every member of the cluster, this node among them."""
        return list(self._calls.rows(self._deadline(), Peer, "PEERS"))

    def status(self) -> Status:
        """Health of node and cluster as docs/OPERATIONS.md explains it."""
        return parse(Status, self._calls.object(self._deadline(), "STATUS"))

    def metrics(self) -> str:
        """The node's metrics in Prometheus text format; docs/OPERATIONS.md explains each."""
        with self._calls.pool.connection(self._deadline()) as connection:
            return connection.request("METRICS").decode("utf-8")

    # --- look after the cluster ----------------------------------------------------------------------
    # The work is the node's: it goes on when who waits for it does not.

    def audit(self, *, wait: bool = False, progress: Callable[[AuditStep], None] | None = None) -> Audited:
        """Have the node compare the catalog with its disk now: fetch what is missing, give up what is others'.

        Returns at once, or with `wait` when a pass that began after the request is through.
        """
        return self._calls.work(self._deadline(), "AUDIT", {"wait": wait}, AuditStep, progress, Audited)

    def scrub(self, *, wait: bool = False, progress: Callable[[ScrubStep], None] | None = None) -> Scrubbed:
        """Have the node re-read and re-hash all its blocks now. Returns at once, or with `wait` when all are."""
        return self._calls.work(self._deadline(), "SCRUB", {"wait": wait}, ScrubStep, progress, Scrubbed)

    def gc(self, *, dry_run: bool = False, progress: Callable[[AuditStep], None] | None = None) -> Collected:
        """Have the node drop the blocks that no pin wants and whose grace is over; with `dry_run` only count them."""
        return self._calls.work(self._deadline(), "GC", {"dry_run": dry_run}, AuditStep, progress, Collected)

    def drain(
        self, *, wait: bool = False, cancel: bool = False, progress: Callable[[DrainStep], None] | None = None
    ) -> Drained:
        """Have the node give its shards to the others, for good; `cancel` takes them back.

        Returns at once, or with `wait` when nothing is left here that the others lack. Raises TooFewNodes or Refused
        when the others cannot hold it.
        """
        return self._calls.work(
            self._deadline(), "DRAIN", {"wait": wait, "cancel": cancel}, DrainStep, progress, Drained
        )

    def forget(self, member: str) -> Forgotten:
        """Strike a dead member, by name or id, for good. Raises NotFound, and Refused for one that lives."""
        return parse(Forgotten, self._calls.object(self._deadline(), "FORGET", _no_link(member)))

    def revoke(self, who: str) -> Revoked:
        """Refuse a member, by name or id and alive or not, or a client by its id: on every node, and for good.

        Who knows the cluster's secret can come back under another id: replace it. Raises NotFound, Refused.
        """
        return parse(Revoked, self._calls.object(self._deadline(), "REVOKE", _no_link(who)))

    def grant(self, name: str, path: str | os.PathLike[str], *, role: str, expires_s: float) -> Granted:
        """Make a folder for `tls_dir`: a key of a client with a role (read, store or admin), and a certificate.

        The key is made here and does not leave `path`. Raises Refused when that exists, and when the authority is the
        operator's own; UsageError; Forbidden.
        """
        from p2pfs.client import granting

        seconds = int(_finite(expires_s))
        return granting.grant(self._calls, self._deadline(), name, role, seconds, local_path(path))

    def invite(self, *, lasts_s: float = 3600.0, once: bool = False) -> Invited:
        """Have the node open an invitation, for as many machines as come in that time, or for `once` only.

        Raises Refused when the node has no cluster secret.
        """
        options = wire.dump_json({"lasts_s": _finite(lasts_s), "once": once})
        return parse_line(Invited, self._calls.body(self._deadline(), "INVITE", options))

    def _sealed(self, link: Ref) -> Sealed:
        from p2pfs.client.sealed import Sealed

        return Sealed(self._calls, self._secrets, str(link), self._deadline())

    def _held(self, ref: Ref) -> str:
        """What nodes call what a REF means: of a link they get no more than that."""
        return self._sealed(ref).held() if is_link(ref) else str(ref)

    def _deadline(self) -> Deadline:
        return Deadline(self.timeout_s)


def _no_link(member: str) -> str:
    if is_link(member):
        raise errors.UsageError("that is a link, and no member; what forgets the content of a link is rm")
    return member


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise errors.UsageError(f"{seconds} s are no time that ends")
    return seconds
