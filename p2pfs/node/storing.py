"""Handlers of STORE and IMPORT: a request that streams in, progress out, a receipt at the end."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from p2pfs import errors
from p2pfs.core import car, wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.layout import Link
from p2pfs.core.multihash import SHA2_256, code_of, digest_of
from p2pfs.core.pins import MAX_COUNT, Pin, check_name
from p2pfs.core.profile import profile
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.buffers import Buffers
from p2pfs.node.cutting import add_descriptor, add_stream
from p2pfs.node.ingest import Folder, Ingest
from p2pfs.node.leaves import FileIngest
from p2pfs.node.progress import reporting
from p2pfs.node.renewing import interval_s
from p2pfs.node.securing import make_pins, renew, secure
from p2pfs.node.services import Services

MAX_DEPTH = 512
MAX_REPLICAS = 64
OPTIONS: dict[str, type] = {"name": str, "replicas": int, "chunker": str, "hash": str, "dry_run": bool}


def read_options(body: bytes) -> dict[str, Any]:
    """The JSON options of STORE and IMPORT; null counts as absent. Raises UsageError, ProtocolError."""
    options = {key: value for key, value in wire.parse_json(body, dict).items() if value is not None}
    for key, value in options.items():
        if key not in OPTIONS or type(value) is not OPTIONS[key]:
            raise errors.UsageError(f"option {key!r} = {value!r}: known are {', '.join(OPTIONS)}")
    try:
        check_name(options.get("name", ""))
    except errors.ProtocolError as error:
        raise errors.UsageError(str(error)) from None
    if not 1 <= options.get("replicas", 1) <= MAX_REPLICAS:
        raise errors.UsageError(f"replicas = {options['replicas']}: give a number from 1 to {MAX_REPLICAS}")
    return options


def new_ingest(services: Services, options: dict[str, Any]) -> Ingest:
    """An ingest with the wanted durability, limited by the number of members."""
    config, cluster = services.config, services.cluster
    copies: int = options.get("replicas", config.cluster.replicas)

    def quorum() -> int:
        return min(copies, cluster.quorum(services.config.cluster.write_quorum))

    return Ingest(
        services.local, services.placer, services.own_buffers,
        profile(options.get("chunker", config.storage.chunker), options.get("hash", config.storage.hash)),
        cluster.limited(copies), quorum, options.get("dry_run", False),
        lambda: interval_s(services.config.storage.gc_grace),
    )


@contextlib.contextmanager
def running(session: Session, ingest: Ingest) -> Iterator[None]:
    """Send progress while the body runs; a client that went away ends it. Want of room takes back what was written."""
    with reporting(session, lambda: {"bytes": ingest.bytes, "new_bytes": ingest.new_bytes}, ingest.fail):
        try:
            ingest.local.await_count()  # before it holds buffers, for which those who read wait
            yield
            ingest.join()
        except errors.NoSpace:
            ingest.take_back()
            raise
        finally:
            ingest.close()


def store(services: Services, session: Session, line: Line) -> None:
    """STORE: build and place the tree, then pin its root."""
    options = read_options(session.body())
    services.pinning.check_room()
    ingest = new_ingest(services, options)
    with running(session, ingest):
        link, sha256 = Tree(session, ingest, services.paced_buffers.of(session.whose)).read()
        ingest.join()
        renew(services, ingest)
        # A directory is as big as the files in it.
        link = link._replace(size=ingest.bytes)
        receipt = {
            "cid": str(link.cid), "name": options.get("name", ""), "size": link.size, "sha256": sha256,
            "blocks": ingest.blocks, "new_blocks": ingest.new_blocks, "new_bytes": ingest.new_bytes,
            "replicas": ingest.fewest_copies, "nodes": [],
        }
        if not options.get("dry_run"):
            pin = new_pin(services, link, ingest.blocks, options, sha256)
            make_pins(services, ingest, [pin], session.party.rights)
            receipt["nodes"] = sorted(services.cluster.name_of(id) for id in ingest.nodes)
    session.reply(wire.dump_json(receipt))


def new_pin(services: Services, link: Link, blocks: int, options: dict[str, Any], sha256: str | None) -> Pin:
    """The record for a root; it gets its stamp when it is made."""
    return Pin(
        cid=link.cid, name=options.get("name", ""), size=link.size, sha256=sha256,
        replicas=options.get("replicas", services.config.cluster.replicas), blocks=blocks,
        created=int(time.time()), stamp=0, origin=services.cluster.id, removed=False,
    )


class Tree:
    """Reads the node record of a STORE: a file, a directory with all below it, or a link."""

    def __init__(self, session: Session, ingest: Ingest, paced: Buffers) -> None:
        self._session = session
        self._ingest = ingest
        self._paced = paced
        self._root: list[tuple[Link, str | None]] = []
        self._folders: list[Folder] = []
        self._names: list[bytes] = []  # of the folders, for messages

    def read(self) -> tuple[Link, str | None]:
        """The root's link, and the plain SHA-256 of a file. Raises whatever a part of it met."""
        while True:
            record = self._session.next_record()
            self._ingest.check()
            self._take(record)
            if not self._folders and record.verb.name != "PART":
                break
        self._ingest.join()
        return self._root[0]

    def _take(self, record: Line) -> None:
        kind = record.verb.name
        if kind == "FILE":
            self._file(record.args[0])
        elif kind == "SMALL":
            self._small(record.args[0], self._session.record_body(record))
        elif kind == "FD":
            self._descriptor(record.args[0])
        elif kind == "LINK":
            target = self._session.record_body(record)
            self._done(record.args[0])(self._ingest.symlink(target))
        elif kind == "DIR":
            if len(self._folders) >= MAX_DEPTH:
                raise errors.Refused(f"directories nest deeper than {MAX_DEPTH}")
            self._folders.append(Folder(self._ingest, self._done(record.args[0])))
            self._names.append(record.args[0])
        elif kind == "END" and self._folders:
            self._names.pop()
            self._folders.pop().close()
        elif kind != "PART" or record.length:
            raise errors.ProtocolError(f"{kind} may not stand here")

    def _done(self, name: bytes) -> Callable[[Link], None]:
        if self._folders:
            return self._folders[-1].expect(name)
        return lambda link: self._root.append((link, None))

    def _file(self, name: bytes) -> None:
        file = FileIngest(self._ingest, wants_sha256=not self._folders)
        add_stream(file, Parts(self._session).read_into, self._paced)
        self._finish(name, file)

    def _small(self, name: bytes, data: bytes) -> None:
        if self._folders:
            self._ingest.small_file(data, self._done(name))
            return
        file = FileIngest(self._ingest, wants_sha256=True)
        add_stream(file, io.BytesIO(data).readinto, self._paced)
        self._finish(name, file)

    def _descriptor(self, name: bytes) -> None:
        fd = self._session.take_descriptor()
        file = FileIngest(self._ingest, wants_sha256=not self._folders)
        try:
            add_descriptor(file, fd, b"/".join([*self._names, name]))
        finally:
            file.settle()
            os.close(fd)
        self._finish(name, file)

    def _finish(self, name: bytes, file: FileIngest) -> None:
        link, sha256 = file.finish()
        if self._folders:
            self._done(name)(link)
        else:
            self._root.append((link, sha256))


class Parts:
    """The PARTs of a file up to its END, read piece by piece."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._left = 0
        self._is_over = False

    def read_into(self, view: memoryview) -> int:
        """Some bytes into the view; their number, 0 at the end."""
        if not self._left and not self._next():
            return 0
        count = min(len(view), self._left)
        self._session.record_into(view[:count])
        self._left -= count
        return count

    def _next(self) -> bool:
        while not self._is_over and not self._left:
            record = self._session.next_record()
            if record.verb.name == "END":
                self._is_over = True
            elif record.verb.name == "PART":
                self._left = record.length
            else:
                raise errors.ProtocolError(f"{record.verb.name} may not stand inside a file")
        return not self._is_over


def import_car(services: Services, session: Session, line: Line) -> None:
    """IMPORT: every verified block to its owners, then a pin for each root whose whole DAG is there."""
    options = read_options(session.body())
    services.pinning.check_room()
    ingest = new_ingest(services, options)
    with running(session, ingest):
        parts = Parts(session)
        reader = car.CarReader(lambda count: _read_exactly(parts, count))
        for cid, data in reader:
            ingest.check()
            _place_copy(ingest, cid, data)
        ingest.join()
        came = ingest.blocks
        found = [_root(services, ingest, root, options) for root in reader.roots]
        renew(services, ingest)
        make_pins(services, ingest, [pin for pin, _ in found], session.party.rights)
    session.reply(wire.dump_json({
        "roots": [row for _, row in found], "blocks": came, "new_blocks": ingest.new_blocks,
        "new_bytes": ingest.new_bytes, "replicas": ingest.fewest_copies,
    }))


def _read_exactly(parts: Parts, count: int) -> bytes:
    data = bytearray(count)
    done = 0
    while done < count:
        got = parts.read_into(memoryview(data)[done:])
        if not got:
            break
        done += got
    return bytes(data[:done])


def _place_copy(ingest: Ingest, cid: CID, data: bytes) -> None:
    view = ingest.buffers.take()
    view[: len(data)] = data

    def place() -> None:
        try:
            with view[: len(data)] as block:
                ingest.place(cid, block)
            ingest.bytes += len(data)
        finally:
            ingest.buffers.give(view)

    ingest.spawn(f"import-{cid}", place)


def _root(services: Services, ingest: Ingest, root: CID, options: dict[str, Any]) -> tuple[Pin, dict[str, Any]]:
    """The pin of an imported root, and the row that tells of it.

    Raises NotFound when its DAG is not whole, Malformed when it claims more bytes than a pin can tell of.
    """
    blocks = secure(services, ingest, root)
    entry = services.reader.entry(root)
    size = entry["size"] if entry["size"] is not None else services.reader.leaf_bytes(root)
    if size > MAX_COUNT:
        raise errors.Malformed(f"{root} claims to hold {size} bytes, which nothing does")
    sha256 = None
    if entry["type"] == "file" and root.codec == RAW and code_of(root.multihash) == SHA2_256:
        sha256 = digest_of(root.multihash).hex()
    pin = new_pin(services, Link(root, size, size), blocks, options, sha256)
    return pin, {"cid": str(root), "name": options.get("name", ""), **entry, "pinned": True}
