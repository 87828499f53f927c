"""A node for the client's tests: a thread behind a unix socket that speaks docs/PROTOCOL.md and keeps all in memory."""

from __future__ import annotations

import array
import base64
import contextlib
import copy
import hashlib
import json
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from p2pfs import errors
from p2pfs.core import batches, wire
from tests.unit.client import fake_upkeep

WAIT_S = 60.0


class Link(NamedTuple):
    """A symbolic link in a stored tree."""

    target: bytes


Tree = bytes | Link | dict[bytes, Any]


def cid_of(tree: Tree) -> str:
    """A name for a tree: of the right form, from its content; not what real content would have."""
    if isinstance(tree, bytes):
        codec, digest = 0x55, hashlib.sha256(tree).digest()
    else:
        codec, digest = 0x70, hashlib.sha256(repr(tree).encode()).digest()
    return "b" + base64.b32encode(bytes([1, codec, 0x12, 0x20]) + digest).decode().lower().rstrip("=")


def text(name: bytes) -> str:
    """A name as JSON carries it."""
    return name.decode("utf-8", "surrogateescape")


def size_of(tree: Tree) -> int | None:
    """What LIST and STAT say."""
    return None if isinstance(tree, dict) else len(tree if isinstance(tree, bytes) else tree.target)


def type_of(tree: Tree) -> str:
    """What LIST and STAT say."""
    return "directory" if isinstance(tree, dict) else "symlink" if isinstance(tree, Link) else "file"


class Gone(Exception):
    """The client closed the connection."""


class Talk:
    """One connection, seen from the node."""

    def __init__(self, node: FakeNode, sock: socket.socket) -> None:
        self.node = node
        self.sock = sock
        self._buffer = b""
        self._fds: list[int] = []

    def _more(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            data, ancillary = self.sock.recv(65536), []
        else:
            data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(4 * 16))
        for level, kind, payload in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i")
            fds.frombytes(payload)
            self._fds += fds
        if not data:
            raise Gone
        self._buffer += data

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def body(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body

    def record(self) -> wire.Line:
        """The next record that is no sign of life."""
        while True:
            line = wire.parse_record(self.line())
            self.node.records.append(line.verb.name)
            if line.verb.name == "PART" and not line.length:
                self.node.alive.set()
                continue
            return line

    def fd(self) -> int:
        return self._fds.pop(0)

    def part(self, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"
        self.sock.sendall(wire.format_part(len(body)) + body)

    def ok(self, value: Any = None) -> None:
        body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        self.sock.sendall(wire.format_ok(len(body)) + body)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self.sock.close()


class FakeNode:
    """Start it with `with`; `address` is its control socket, or with a TLS context its HOST:PORT."""

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None) -> None:
        self.address = str(folder / "control.sock")
        self._context = context
        self.trees: dict[str, Tree] = {}
        """By CID."""
        self.pinned: dict[str, str] = {}
        """Name to CID, oldest first."""
        self.requests: list[tuple[str, ...]] = []
        self.records: list[str] = []
        self.options: dict[str, Any] = {}
        self.removed: list[tuple[str, str]] = []
        """Name and CID, oldest first."""
        self.status: dict[str, Any] = copy.deepcopy(fake_upkeep.STATUS | fake_upkeep.AUDITED)
        self.ends = copy.deepcopy(fake_upkeep.ENDS)
        """What the verbs of upkeep answer."""
        self.hooks: dict[str, Callable[[Talk, wire.Line], None]] = {}
        """Verb to what is done instead of the usual."""
        self.alive = threading.Event()
        self.connections = 0
        self.refuse_store_after: int | None = None
        """Bytes of a STORE after which it is refused for want of room."""
        self.fetch_limit: int | None = None
        """Bytes that one FETCH writes before it fails."""
        self.kept_bytes = 0
        self._talks: list[Talk] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> FakeNode:
        if self._context is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.address)
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.listen(16)
        self._thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)

    def hang_up(self) -> None:
        """Close every connection, as a node that stops does."""
        for talk in self._talks:
            with contextlib.suppress(OSError):
                talk.sock.shutdown(socket.SHUT_RDWR)

    def keep(self, tree: Tree, name: str | None = None) -> str:
        """Have a tree, pinned under a name or not; its CID."""
        cid = cid_of(tree)
        self.trees[cid] = tree
        if isinstance(tree, dict):
            for child in tree.values():
                self.keep(child)
        if name is not None:
            self.pinned[name] = cid
        return cid

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            self.connections += 1
            talk = Talk(self, sock)
            self._talks.append(talk)
            self._thread(self._serve, talk)

    def _serve(self, talk: Talk) -> None:
        try:
            while True:
                line = wire.parse_request(talk.line())
                self.requests.append((line.verb.name, *map(str, line.args)))
                handler = self.hooks.get(line.verb.name) or getattr(self, "_" + line.verb.name.lower())
                try:
                    handler(talk, line)
                except errors.P2pfsError as error:
                    talk.sock.sendall(wire.format_error(error))
                    if error.is_fatal or line.verb.streams_in:
                        return
        except (Gone, OSError):
            pass
        finally:
            talk.close()

    # --- verbs ---------------------------------------------------------------------------------------

    def resolve(self, ref: str) -> tuple[str, Tree]:
        head, *rest = ref.removeprefix("ipfs://").split("/")
        cid = self.pinned.get(ref) or self.pinned.get(head, head)
        if ref in self.pinned:
            rest = []
        tree = self.trees.get(cid)
        for name in rest:
            tree = tree.get(name.encode()) if isinstance(tree, dict) else None
        if tree is None:
            raise errors.NotFound(f"nobody of 3 members that were asked has {ref}")
        return cid_of(tree), tree

    def _file(self, ref: str) -> tuple[str, bytes]:
        cid, tree = self.resolve(ref)
        if not isinstance(tree, bytes):
            raise errors.UsageError(f"{ref} is a {type_of(tree)}")
        return cid, tree

    def _hello(self, talk: Talk, line: wire.Line) -> None:
        talk.ok({"version": wire.VERSION, "id": "n", "instance": "0" * 16, "time_ms": 0, "name": "fake"})

    def _store(self, talk: Talk, line: wire.Line) -> None:
        self.options = json.loads(talk.body(line.length))
        self._count = 0
        tree = self._node(talk, talk.record())
        cid = self.keep(tree) if self.options.get("dry_run") else self.keep(tree, self.options.get("name", ""))
        talk.ok({
            "cid": cid, "name": self.options.get("name", ""), "size": self._count,
            "sha256": hashlib.sha256(tree).hexdigest() if isinstance(tree, bytes) else None, "blocks": 3,
            "new_blocks": 2, "new_bytes": 100, "replicas": 2, "nodes": ["a", "b"], "of a later version": 1,
        })

    def _node(self, talk: Talk, record: wire.Line) -> Tree:
        kind = record.verb.name
        if kind == "LINK":
            return Link(talk.body(record.length))
        if kind == "FD":
            return self._descriptor(talk)
        if kind in ("FILE", "SMALL"):
            data = talk.body(record.length) if kind == "SMALL" else b"".join(self._parts(talk))
            # A real node tells its progress by the clock: a word for each small file would fill a socket nobody reads.
            self._advance(talk, len(data), is_told=kind == "FILE")
            return data
        assert kind == "DIR", kind
        found: dict[bytes, Any] = {}
        while (record := talk.record()).verb.name != "END":
            found[record.args[0]] = self._node(talk, record)
        self._advance(talk, 0)
        return found

    def _descriptor(self, talk: Talk) -> bytes:
        with open(talk.fd(), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), size, 0)
        self._advance(talk, len(data))
        return data

    def _parts(self, talk: Talk) -> Iterator[bytes]:
        while (record := talk.record()).verb.name != "END":
            assert record.verb.name == "PART"
            yield talk.body(record.length)
            if self.refuse_store_after is not None:
                self._advance(talk, record.length)

    def _advance(self, talk: Talk, count: int, is_told: bool = True) -> None:
        self._count += count
        if self.refuse_store_after is not None and self._count > self.refuse_store_after:
            raise errors.NoSpace("max_size leaves no room")
        if is_told:
            talk.part({"bytes": self._count, "new_bytes": self._count})

    def _read(self, talk: Talk, line: wire.Line) -> None:
        ref, offset, length = line.args
        cid, data = self._file(ref)
        wanted = data[offset:] if length is None else data[offset : offset + length]
        for start in range(0, len(wanted), wire.MAX_PART):
            talk.part(wanted[start : start + wire.MAX_PART])
        talk.ok({"cid": cid, "size": len(data), "sent": len(wanted)})

    def _reads(self, talk: Talk, line: wire.Line) -> None:
        cids = batches.unpack_cids(talk.body(line.length), batches.MOST)
        files = {cid: self._file(str(cid))[1] for cid in cids}
        talk.ok(batches.pack((cid, data) for cid, data in files.items() if len(data) <= wire.MAX_SMALL))

    def _fetch(self, talk: Talk, line: wire.Line) -> None:
        fd = talk.fd()
        try:
            cid, data = self._file(line.args[0])
            there = os.pread(fd, len(data), 0)
            self.kept_bytes = sum(1 for ours, theirs in zip(data, there, strict=False) if ours == theirs)
            os.ftruncate(fd, len(data))
            os.pwrite(fd, data[: self.fetch_limit], 0)
            talk.part({"bytes": len(data), "size": len(data)})
            if self.fetch_limit is not None:
                raise errors.Unreachable("the last holder went away")
        finally:
            os.close(fd)
        talk.ok({"cid": cid, "size": len(data), "kept_bytes": self.kept_bytes})

    def _list(self, talk: Talk, line: wire.Line) -> None:
        _, tree = self.resolve(line.args[0])
        if not isinstance(tree, dict):
            raise errors.UsageError("no directory")
        for name, child in tree.items():
            talk.part({"name": text(name), "cid": cid_of(child), "type": type_of(child), "size": size_of(child)})
        talk.ok()

    def _pins(self, talk: Talk, line: wire.Line) -> None:
        for name, cid in reversed(self.pinned.items()):
            talk.part({
                "cid": cid, "name": name, "size": size_of(self.trees[cid]) or 0, "sha256": None, "replicas": 2,
                "blocks": 3, "created": 1700000000,
            })
        talk.ok()

    def _stat(self, talk: Talk, line: wire.Line) -> None:
        cid, tree = self.resolve(line.args[0])
        talk.ok({
            "cid": cid, "type": type_of(tree), "size": size_of(tree), "blocks": 3, "bytes": 100,
            "entries": len(tree) if isinstance(tree, dict) else None,
            "target": text(tree.target) if isinstance(tree, Link) else None, "sha256": None,
            "pins": [name for name, pinned in reversed(self.pinned.items()) if pinned == cid],
        })

    def _explain(self, talk: Talk, line: wire.Line) -> None:
        cid, _ = self.resolve(line.args[0])
        talk.part({"cid": cid, "kind": "leaf", "bytes": 5, "owners": ["a", "b"], "holders": ["a"], "missing": 1})
        talk.ok({
            "cid": cid, "blocks": 1, "bytes": 5, "wanted": 2, "fewest": 1, "below_wanted": 1, "lost": 0, "asked": 3,
            "unreachable": ["b"], "advice": "bring back b",
        })

    def _unpin(self, talk: Talk, line: wire.Line) -> None:
        cid, _ = self.resolve(line.args[0])
        names = [name for name, pinned in self.pinned.items() if line.args[0] == name or pinned == cid]
        for name in names:
            self.removed.append((name, self.pinned.pop(name)))
        talk.ok({"removed": [{"cid": cid, "name": name} for name in names]})

    def _restore(self, talk: Talk, line: wire.Line) -> None:
        found = [(name, cid) for name, cid in self.removed if line.args[0] in (name, cid)]
        if not found:
            raise errors.NotFound(f"no pin was removed that {line.args[0]} means")
        for name, cid in found:
            self.removed.remove((name, cid))
            self.pinned[name] = cid
        talk.ok({"restored": [{"cid": cid, "name": name} for name, cid in found]})

    def _import(self, talk: Talk, line: wire.Line) -> None:
        self.options = json.loads(talk.body(line.length))
        data = b"".join(self._parts(talk))
        cid = self.keep(data, "imported")
        talk.ok({
            "roots": [{"cid": cid, "name": "imported", "size": len(data), "type": "file", "pinned": True}],
            "blocks": 1, "new_blocks": 1, "new_bytes": len(data), "replicas": 1,
        })

    def _export(self, talk: Talk, line: wire.Line) -> None:
        cid, data = self._file(line.args[0])
        talk.part(b"CAR of ")
        for start in range(0, len(data), wire.MAX_PART):
            talk.part(data[start : start + wire.MAX_PART])
        talk.ok({"cid": cid, "blocks": 1})

    def _peers(self, talk: Talk, line: wire.Line) -> None:
        for name in ("a", "b"):
            talk.part({
                "name": name, "id": name * 32, "address": "127.0.0.1:4640", "state": "alive", "self": name == "a",
                "zone": "", "capacity": 1, "used": 12345, "incarnation": 3, "version": "0.1.0",
                "last_seen": 1700000000.5, "rtt_ms": None if name == "a" else 0.3, "clock_ahead_s": 0.0, "error": "",
            })
        talk.ok()

    def _status(self, talk: Talk, line: wire.Line) -> None:
        talk.ok(self.status)

    def _upkeep(self, talk: Talk, line: wire.Line) -> None:
        self.options = json.loads(talk.body(line.length))
        verb = line.verb.name
        if not self.options.get("wait", True):
            talk.ok(self.ends[verb] | ({"is_done": False} if "is_done" in self.ends[verb] else {}))
            return
        for step in fake_upkeep.STEPS[verb]:
            talk.part(step)
        talk.ok(self.ends[verb] | {name: value for name, value in self.options.items() if name == "dry_run"})

    _audit = _scrub = _gc = _drain = _upkeep

    def _revoke(self, talk: Talk, line: wire.Line) -> None:
        talk.ok(self.ends["REVOKE"])

    def _grant(self, talk: Talk, line: wire.Line) -> None:
        self.options = json.loads(talk.body(line.length))
        talk.ok(self.ends["GRANT"] | {name: self.options[name] for name in ("name", "role")})

    def _invite(self, talk: Talk, line: wire.Line) -> None:
        self.options = json.loads(talk.body(line.length))
        talk.ok(self.ends["INVITE"])

    def _forget(self, talk: Talk, line: wire.Line) -> None:
        talk.ok(self.ends["FORGET"])


def data_of(size: int) -> bytes:
    """Bytes that look random, the same ones for the same size."""
    return random.Random(size).randbytes(size)


def read_tree(path: bytes) -> Any:
    """A tree on disk as a FakeNode keeps it."""
    if os.path.islink(path):
        return Link(os.readlink(path))
    if os.path.isdir(path):
        return {name: read_tree(os.path.join(path, name)) for name in os.listdir(path)}
    return Path(os.fsdecode(path)).read_bytes()
