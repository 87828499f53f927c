"""Who may come in, by numbers alone: how many connections, from where, how fast. Whom to trust is TLS's to say.

A *stranger* is a connection that is not authenticated yet; one that is has a *seat*. Strangers never wait for each
other: when there are too many, the one goes that has had the most time, so that slow ones cannot keep others out.
Nobody's seat is taken: who finds none is told so. docs/LIMITS.md lists the numbers.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from p2pfs import errors, metrics
from p2pfs.core.pace import Pace
from p2pfs.net.tls import Party

log = logging.getLogger(__name__)

S = TypeVar("S", bound=socket.socket)

STRANGERS = 256
"""Connections that are not authenticated yet."""
STRANGERS_PER_HOST = 64
"""Of them, those from one address: as many friends behind one router may begin at the same moment."""
HANDSHAKES_PER_S = 20.0
"""New connections from one address a second; more are closed at once. A handshake costs some 3 ms of CPU."""
HANDSHAKES_AT_ONCE = 250
"""New connections from one address that may come at once after a rest."""
CONNECTIONS_PER_MEMBER = 32
"""Of one member, or of all clients at one address; a member that is well has 7, one that is far away up to 15."""
SHARE_OF_ADDRESS = 2
"""One address has at most one part in so many of `[node] max_connections`."""
HOSTS = 4096
"""Addresses that are remembered at once."""
MESSAGES_PER_S = 512 * 1024
"""Bytes of messages a second that one member may have worked at: some percent of a core. What comes faster waits in its
connection; blocks do not count."""
MESSAGES_AT_ONCE = 2 * 1024 * 1024
"""Bytes of messages that go at once after a rest."""
REQUEST_BYTES = 4096
"""What a request counts for, beside its body."""
LOG_S = 10.0
"""Between two log lines about one address."""
V6_NETWORK = 64
"""Bits of an IPv6 address that somebody is given as a whole: strangers from below them are from one address."""


class Stranger:
    """A connection that is not authenticated yet."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self.host = host
        self._is_over = False

    def put_in(self, change: Callable[[socket.socket], S]) -> S:
        """Have what TLS makes of the plain socket in its place."""
        self.sock = changed = change(self.sock)
        if self._is_over:  # it came in the middle, when there was no socket to end
            self.end()
        return changed

    def end(self) -> None:
        """Wake whoever waits for it: the connection is over."""
        self._is_over = True
        with contextlib.suppress(OSError):
            # That of the plain socket: see Stream.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class _Host:
    """What is known of an address: how many connections it may begin now, and what was refused since the last line."""

    __slots__ = ("logged_at", "refused", "seen_at", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = float(HANDSHAKES_AT_ONCE)
        self.seen_at = now
        self.refused = 0
        self.logged_at = -LOG_S


class Doorman:
    """Counts connections. Safe for threads and greenlets: its lock is held for a moment and over no wait."""

    def __init__(self, max_seats: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_seats = max_seats
        self._clock = clock
        self._guard = threading.Lock()
        self._strangers: dict[Stranger, None] = {}  # the one that came first stands first
        self._hosts: collections.OrderedDict[str, _Host] = collections.OrderedDict()
        self._seats: collections.Counter[str] = collections.Counter()
        self._paces: collections.OrderedDict[str, Pace] = collections.OrderedDict()

    # --- strangers -----------------------------------------------------------------------------------

    def admit(self, sock: socket.socket, address: str) -> Stranger | None:
        """One more connection from an IP address; None when it comes too fast after others, and is to be closed."""
        stranger = Stranger(sock, host_of(address))
        with self._guard:
            is_too_fast = not self._take_token(stranger.host)
            late = None if is_too_fast else self._too_many(stranger.host)
            if late is not None:
                del self._strangers[late]
            if not is_too_fast:
                self._strangers[stranger] = None
        if late is not None:
            late.end()
            self.refuse("crowd", late.host, "others came, and it had had the most time to authenticate itself")
        if is_too_fast:
            self.refuse("rate", address, f"it begins over {HANDSHAKES_PER_S:g} connections a second")
            return None
        return stranger

    def _take_token(self, host: str) -> bool:
        known, now = self._host(host), self._clock()
        known.tokens = min(float(HANDSHAKES_AT_ONCE), known.tokens + (now - known.seen_at) * HANDSHAKES_PER_S)
        known.seen_at = now
        if known.tokens < 1:
            return False
        known.tokens -= 1
        return True

    def _host(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host(self._clock())
            if len(self._hosts) > HOSTS:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(host)
        return known

    def _too_many(self, host: str) -> Stranger | None:
        """Who has to go for one more from that address."""
        of_host = [stranger for stranger in self._strangers if stranger.host == host]
        if len(of_host) >= STRANGERS_PER_HOST:
            return of_host[0]
        return next(iter(self._strangers)) if len(self._strangers) >= STRANGERS else None

    def forget(self, stranger: Stranger) -> None:
        """It was authenticated, or refused."""
        with self._guard:
            self._strangers.pop(stranger, None)

    # --- seats ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def seat(self, party: Party) -> Iterator[None]:
        """Room for an authenticated connection while it is served. Raises Busy when there is none."""
        host = party.address.rpartition(":")[0]
        rooms = [
            _Room("full", "this node", self._max_seats),
            _Room("address", host, max(1, self._max_seats // SHARE_OF_ADDRESS)),
            *(_Room("member", whose, CONNECTIONS_PER_MEMBER) for whose in _names(party, host)),
        ]
        with self._guard:
            full = next((room for room in rooms if self._seats[room.whose] >= room.most), None)
            if full is None:
                self._seats.update(room.whose for room in rooms)
        if full is not None:
            why = f"{full.whose} has {full.most} connections, which is all it may have; see [node] max_connections"
            self.refuse(full.kind, host.strip("[]"), why)
            raise errors.Busy(why)
        try:
            yield
        finally:
            with self._guard:
                for room in rooms:
                    self._seats[room.whose] -= 1
                    if not self._seats[room.whose]:
                        del self._seats[room.whose]

    def charge(self, party: Party, kind: str, size: float) -> float:
        """One more message of that many bytes; how many seconds it has to wait. Each kind is paced for itself."""
        whose, now = f"{kind} of {who(party)}", self._clock()
        with self._guard:
            pace = self._paces.get(whose)
            if pace is None:
                pace = self._paces[whose] = Pace(MESSAGES_PER_S, MESSAGES_AT_ONCE)
                if len(self._paces) > HOSTS:
                    self._paces.popitem(last=False)
            self._paces.move_to_end(whose)
            return pace.reserve(now, int(size))

    # --- telling -------------------------------------------------------------------------------------

    def refuse(self, kind: str, address: str, why: str) -> None:
        """Count a connection that was closed, and log it: the first one of an address, then a line each LOG_S."""
        metrics.CONNECTIONS_REFUSED.labels(kind).inc()
        with self._guard:
            known, now = self._host(host_of(address)), self._clock()
            known.refused += 1
            if now - known.logged_at < LOG_S:
                return
            count, known.refused, known.logged_at = known.refused, 0, now
        more = f" ({count} since the last such line)" if count > 1 else ""
        log.warning("closed a connection from %s: %s%s", address, why, more)


class _Room(NamedTuple):
    """How many seats somebody may have."""

    kind: str
    whose: str
    most: int


def who(party: Party) -> str:
    """Whose work it is: a member's wherever it is, or that of all clients from what counts as one address."""
    if party.kind == "member":
        return f"member {party.id}"
    return f"a client in {host_of(party.address.rpartition(':')[0].strip('[]'))}"


def _names(party: Party, host: str) -> list[str]:
    """Whose seats these are: a member's; or of all clients at an address, and of one with all addresses of its network.

    Not of all clients in that network: it may be a large office.
    """
    if party.kind == "member":
        return [who(party)]
    return [f"a client at {host}", f"the client {party.id} in {host_of(host.strip('[]'))}"]


def host_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the network that an IPv6 address is in."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, V6_NETWORK), strict=False))
