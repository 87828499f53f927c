"""Where the node is, and the connections to it: a few, each used by one request at a time."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from p2pfs import errors
from p2pfs.client.deadline import Deadline
from p2pfs.core import wire
from p2pfs.net.connection import Connection, connect
from p2pfs.net.stream import Limits

if TYPE_CHECKING:
    import ssl

CONNECT_S = 10.0
PROGRESS_S = 10.0
IDLE_S = 240.0
"""The node closes a connection after 300 s without a request; an older one is not used again."""
AGAIN_S = 0.25
"""Between two attempts to connect to a node that turns connections away (docs/LIMITS.md)."""
AGE_S = 60.0
"""A connection by TLS serves for so long: then a program that runs for months proves itself anew, with what is in the
folder of certificates by then."""
MAX_IDLE = 4
SOCKET_NAME = "control.sock"
SYSTEM_SOCKET = "/run/p2pfs/control.sock"


def default_address() -> str:
    """$P2PFS_NODE, else the control socket of the user's data directory, else that of the system's when it is there."""
    given = os.environ.get("P2PFS_NODE")
    if given:
        return given
    base = os.environ.get("XDG_DATA_HOME", "")
    data_home = base if os.path.isabs(base) else os.path.expanduser("~/.local/share")  # as the node takes it
    own = os.path.join(data_home, "p2pfs", SOCKET_NAME)
    if not os.path.exists(own) and os.path.exists(SYSTEM_SOCKET):
        return SYSTEM_SOCKET
    return own


def is_socket_path(address: str) -> bool:
    """True for the path of a control socket, False for HOST:PORT."""
    if "/" in address:
        return True
    _, colon, port = address.rpartition(":")
    return not (colon and port.isdigit())


class Patience(Limits):
    """The protocol's limits, shortened by the deadline of the operation that uses the connection now."""

    deadline = Deadline(None)

    @property
    def control_answer_s(self) -> float:
        """Until the first byte of an answer to a control verb."""
        return self.deadline.wait_s()

    @property
    def bulk_answer_s(self) -> float:
        """Until the first byte of an answer to another verb."""
        return self.deadline.wait_s()

    @property
    def part_s(self) -> float:
        """Until the first byte of the next part."""
        return self.deadline.wait_s()

    @property
    def line_s(self) -> float:
        """Until the rest of a line that began."""
        return self.deadline.wait_s(PROGRESS_S)

    @property
    def progress_s(self) -> float:
        """Until some progress of a body."""
        return self.deadline.wait_s(PROGRESS_S)

    @property
    def taking_s(self) -> float:
        """Until the node takes some of what we send."""
        return self.deadline.wait_s(PROGRESS_S)

    def whole_body_s(self, length: int) -> float:
        """How long a body of that length may take."""
        return self.deadline.wait_s(super().whole_body_s(length))


class Pooled(NamedTuple):
    """A connection, and the limits that it looks at."""

    connection: Connection
    patience: Patience
    opened_s: float
    since_s: float
    """Idle since then."""
    process: int
    """Which opened it. After a fork the connection is still there, and its end would be the parent's loss."""

    def close(self) -> None:
        """Close the connection, in the process that opened it; in another one just let go of it."""
        if self.process == os.getpid():
            self.connection.close()
        else:
            self.connection.drop()


class Pool:
    """Connections to one node, opened when needed. Safe to use from several threads, and on both sides of a fork."""

    def __init__(self, address: str, tls_dir: str | None) -> None:
        """Raises UsageError when HOST:PORT comes without a folder of certificates."""
        self.address = address
        self.is_local = is_socket_path(address)
        self._tls_dir = tls_dir
        if not self.is_local and tls_dir is None:
            raise errors.UsageError(
                f"{address}: a node by HOST:PORT is reached over TLS; name the certificates' folder with --tls-dir"
            )
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._instance = os.urandom(8).hex()
        self._idle: list[Pooled] = []
        self._guard = threading.Lock()
        self._process = os.getpid()

    def _begin_after_fork(self) -> None:
        # The idle connections are our parent's as well, and each of us would read the other's answers: they are
        # dropped, not closed, which would end them for the parent. A thread of its may have had the lock.
        if self._process != os.getpid():
            idle = self._idle
            self._begin()
            for pooled in idle:
                pooled.close()

    @contextlib.contextmanager
    def connection(self, deadline: Deadline) -> Iterator[Connection]:
        """A connection for one request. One that a failure left out of step is closed, others are used again."""
        pooled = self._take() or self._open(deadline)
        pooled.patience.deadline = deadline
        try:
            yield pooled.connection
        except errors.P2pfsError as error:
            if error.is_fatal or pooled.connection.is_broken:
                pooled.close()
            else:
                self._give(pooled)
            if isinstance(error, errors.DeadlinePassed):
                deadline.wait_s()  # If it is the whole operation's time that is over, say that.
            raise
        except BaseException:
            # Ctrl-C, or a caller who stopped reading in the middle: what is still to come is unknown.
            pooled.close()
            raise
        self._give(pooled)

    def _take(self) -> Pooled | None:
        self._begin_after_fork()
        while True:
            with self._guard:
                if self._is_closed:
                    raise errors.UsageError("the client is closed")
                if not self._idle:
                    return None
                pooled = self._idle.pop()
            if self._is_young(pooled) and not _has_something_to_say(pooled.connection):
                return pooled
            pooled.close()

    def _is_young(self, pooled: Pooled) -> bool:
        now = time.monotonic()
        return now - pooled.since_s < IDLE_S and (self.is_local or now - pooled.opened_s < AGE_S)

    def _give(self, pooled: Pooled) -> None:
        if not pooled.connection.is_broken and pooled.process == self._process == os.getpid():
            with self._guard:
                if not self._is_closed and len(self._idle) < MAX_IDLE:
                    self._idle.append(pooled._replace(since_s=time.monotonic()))
                    return
        pooled.close()

    def _open(self, deadline: Deadline) -> Pooled:
        patience = Patience()
        patience.deadline = deadline
        try:
            connection = self._connect(deadline, patience)
        except errors.Unreachable as error:
            raise errors.Unreachable(f"no node answers at {self.address} ({error}); {self._advice(error)}") from None
        try:
            connection.request("HELLO", wire.VERSION, "client", self._instance, int(time.time() * 1000))
        except BaseException:
            connection.close()
            raise
        now = time.monotonic()
        return Pooled(connection, patience, now, now, os.getpid())

    def _advice(self, error: errors.Unreachable) -> str:
        if isinstance(error.__cause__, PermissionError):
            return "this user may not open it: join the group that it belongs to (ls -l), or ask as the node's user"
        if self.is_local and "/" not in self.address:
            return "a control socket is named by its path, and a node on another machine is HOST:PORT"
        return "start one with `p2pfs-node -c FILE` (--help tells more), or say where it is with --node or P2PFS_NODE"

    def _connect(self, deadline: Deadline, patience: Patience) -> Connection:
        """A connection. A crowd of clients behind one address may have to wait: a node takes so many a second."""
        end = time.monotonic() + CONNECT_S
        while True:
            try:
                return connect(self.address, self._tls(), deadline.wait_s(CONNECT_S), None, patience)
            except errors.TurnedAway:
                if time.monotonic() > end:
                    raise
                time.sleep(deadline.wait_s(AGAIN_S))

    def _tls(self) -> ssl.SSLContext | None:
        if self._tls_dir is None or self.is_local:
            return None
        # Loaded on demand: `ssl` takes longer to import than a local command takes to run. And for each connection: the
        # certificate may have been replaced since the last one.
        from p2pfs.net.tls import client_context_from_dir

        return client_context_from_dir(self._tls_dir)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their request ends."""
        self._begin_after_fork()
        with self._guard:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for pooled in idle:
            pooled.close()


class Branch(Pool):
    """What threads use of another pool for work that may have to be cut. All its connections are those of the other."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.address, pool._tls_dir)
        self._pool = pool
        self._in_use: set[Connection] = set()
        self._is_cut = False

    @contextlib.contextmanager
    def connection(self, deadline: Deadline) -> Iterator[Connection]:
        """As of the other pool. Raises Unreachable after `cut`."""
        with self._pool.connection(deadline) as connection:
            with self._guard:
                if self._is_cut:
                    raise errors.Unreachable("it was given up")
                self._in_use.add(connection)
            try:
                yield connection
            finally:
                with self._guard:  # or it might be cut when somebody else has it already
                    self._in_use.discard(connection)

    def cut(self) -> None:
        """Have every thread that waits for an answer get an Unreachable instead, now."""
        with self._guard:
            self._is_cut = True
            for connection in self._in_use:
                connection.cut()


def _has_something_to_say(connection: Connection) -> bool:
    """True for an idle connection with bytes to read: that is its end, or nothing that we asked for."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
