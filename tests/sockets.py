"""Tasks, connected streams, certificates and servers for the tests of p2pfs/net.

The same tests run on plain threads and, in a process that is patched, on greenlets (tests/wire/test_on_greenlets.py).
"""

from __future__ import annotations

import contextlib
import datetime
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import gevent.lock
import gevent.monkey
from cryptography.hazmat.primitives import serialization

from p2pfs.core.wire import Line
from p2pfs.net import certificates, tls
from p2pfs.net.connection import Connection, connect
from p2pfs.net.server import Server, Session
from p2pfs.net.stream import Limits, Stream

IS_GREEN = gevent.monkey.is_module_patched("socket")
JOIN_S = 60.0
SHORT = Limits(
    handshake_s=0.2, line_s=0.2, progress_s=0.2, body_s=0.2, bytes_per_s=1e9, control_answer_s=0.2, bulk_answer_s=0.2,
    part_s=0.2, idle_s=0.2, record_s=0.2, linger_s=0.2, taking_s=0.2,
)


class Task:
    """A thread or a greenlet, and what came of it."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._fn, self._args = fn, args
        if IS_GREEN:
            self._greenlet = gevent.spawn(self._run)
        else:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.put((self._fn(*self._args), None))
        except BaseException as error:  # noqa: BLE001  # raised again by `result`
            self._outcome.put((None, error))

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        if IS_GREEN:
            self._greenlet.join(JOIN_S)
        else:
            self._thread.join(JOIN_S)
        value, error = self._outcome.get_nowait()
        if error is not None:
            raise error
        return value


def spawn(name: str, fn: Callable[..., Any], *args: Any) -> Task:
    return Task(fn, *args)


semaphore: Callable[[int], Any] = gevent.lock.BoundedSemaphore if IS_GREEN else threading.BoundedSemaphore


class Signal:
    """Something that one task waits for and another one tells."""

    def __init__(self) -> None:
        self._semaphore = semaphore(1)
        self._semaphore.acquire()

    def set(self) -> None:
        self._semaphore.release()

    def wait(self) -> None:
        """Until it was set."""
        assert self._semaphore.acquire(timeout=JOIN_S), "nothing came"


class Material(NamedTuple):
    """The files of somebody with a certificate."""

    ca: str
    cert: str
    key: str
    id: str

    @property
    def files(self) -> tuple[str, str, str]:
        return self.ca, self.cert, self.key


def material(
    folder: Path, secret: str = "one", *, role: str = "", age_days: int = 0, days: int = 30,
    accepts: tuple[str, ...] = (), purpose: certificates.Purpose = certificates.CLUSTER,
) -> Material:
    """A certificate under the secret's authority: a member's, or a client's with a role.

    `accepts` names other secrets whose holders are trusted too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = certificates.derive_authority(secret, purpose)
    key = certificates.load_key(certificates.new_key())
    id = certificates.node_id_of(certificates.public_bytes(key))
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=age_days)
    if role:
        end = now + datetime.timedelta(days=days)
        certificate = certificates.issue_client(authority, key.public_key(), "somebody", role, now, end)
    else:
        certificate = certificates.issue(authority, key, id, now, days)
    others = [certificates.derive_authority(other).pem for other in accepts]
    contents = {
        "ca.pem": b"".join([authority.pem, *others]),
        "cert.pem": certificate,
        "key.pem": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for file, data in contents.items():
        (folder / file).write_bytes(data)
        (folder / file).chmod(0o600)
    return Material(*(str(folder / file) for file in ("ca.pem", "cert.pem", "key.pem")), id)


class Script:
    """A socket that gives its bytes in pieces of the given sizes, over and over."""

    family = socket.AF_UNIX

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        self._data = memoryview(data)
        self._cuts = cuts
        self._next = 0

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv_into(self, view: memoryview) -> int:
        count = min(len(view), self._cuts[self._next % len(self._cuts)], len(self._data))
        self._next += 1
        view[:count], self._data = self._data[:count], self._data[count:]
        return count

    def recv(self, size: int) -> bytes:
        count = min(size, self._cuts[self._next % len(self._cuts)], len(self._data))
        self._next += 1
        data, self._data = bytes(self._data[:count]), self._data[count:]
        return data


@contextlib.contextmanager
def stream_pair(kind: str, folder: Path, limits: Limits | None = None) -> Iterator[tuple[Stream, Stream]]:
    """Two ends of a connection: `tcp`, `unix` or `tls`."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    if kind == "tls":
        files = material(folder).files
        theirs = tls.prepare(theirs, tls.server_context(*files))
        accepted = Task(tls.accept, theirs, "peer", 10.0)
        ours = tls.connect(ours, tls.client_context(*files), "peer", 10.0)
        accepted.result()
    is_unix = kind == "unix"
    with contextlib.closing(Stream(ours, "left", limits, is_unix)) as left, \
            contextlib.closing(Stream(theirs, "right", limits, is_unix)) as right:
        yield left, right


class Tasks:
    """What a server has spawned."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._guard = threading.Lock()

    def spawn(self, name: str, fn: Callable[..., Any], *args: Any) -> Task:
        with self._guard:  # a task that has begun is in the list, for whoever asks
            task = spawn(name, fn, *args)
            if not name.startswith("accept"):
                self._tasks.append(task)
        return task

    def of_connections(self) -> list[Task]:
        with self._guard:
            return list(self._tasks)


class Running(NamedTuple):
    """A server of the tests, and how to reach it."""

    server: Server
    address: str
    control: str
    node: Material
    tasks: Tasks

    def join(self) -> None:
        """Wait until every connection that there was is over."""
        for task in self.tasks.of_connections():
            task.result()

    def member(self, folder: Path) -> Connection:
        """A connection of another member of the same cluster."""
        return connect(self.address, tls.client_context(*material(folder).files), 10.0, self.node.id)

    def local(self, limits: Limits | None = None) -> Connection:
        """A connection to the control socket."""
        return connect(self.control, None, 10.0, None, limits)

    def raw(self) -> socket.socket:
        """A TCP connection without TLS."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10.0)

    def raw_local(self) -> socket.socket:
        """The control socket, bytes by hand."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10.0)
        sock.connect(self.control)
        return sock


@contextlib.contextmanager
def running(
    folder: Path, handlers: dict[str, Callable[[Session, Line], None]], limits: Limits | None = None,
    max_connections: int = 64, node: Material | None = None, invited: tls.ByInvitation | None = None,
    refusal: tls.Refusal = lambda party: None,
) -> Iterator[Running]:
    """A server with these handlers on a TCP port and a control socket."""
    node = node or material(folder / "node")
    context = tls.server_context(*node.files, invited)
    tasks = Tasks()
    server = Server(tasks.spawn, semaphore, limits, max_connections, refusal)
    try:
        address = server.listen_tcp("127.0.0.1:0", lambda: context)
        control = str(folder / "control.sock")
        server.listen_unix(control, 0o600)
        server.start(handlers)
        yield Running(server, address, control, node, tasks)
    finally:
        server.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other end closes, or resets."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
