"""One streaming request, STORE or IMPORT: records go out while progress, or an early refusal, comes in.

Nothing here waits for only one of the two directions for long, so neither end can block the other: before each sending
the answers that are there are read, and while a pipe has nothing to give the connection is watched as well.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from typing import Any

from p2pfs import errors
from p2pfs.client.answers import OnProgress, Progress
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.core import wire
from p2pfs.net.connection import Connection

ALIVE_S = 15.0
"""A source that is silent for so long makes us send a sign of life; the node gives up after 60 s without one."""
GATHER_BYTES = 64 * 1024
"""So many bytes of small records leave at once."""


class Outgoing:
    """One streaming request while its records are sent."""

    def __init__(
        self, connection: Connection, deadline: Deadline, verb: str, options: dict[str, Any],
        progress: OnProgress | None, is_local: bool, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_local = is_local
        """Descriptors can be passed."""
        self.size: int | None = None
        """Bytes in all, for progress, where they are known beforehand."""
        self._connection = connection
        self._deadline = deadline
        self._progress = progress
        given = {key: value for key, value in options.items() if value is not None}
        self._clock = clock
        self._gathered = bytearray()
        self._answer = connection.stream(verb, body=wire.dump_json(given))
        self._sent_s = clock()

    def record(self, name: str, *args: Any, body: bytes | memoryview | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send a record. Raises what the node answered, when it gave up already."""
        self.flush()
        self._send(lambda: self._connection.send_record(name, *args, body=body, fds=fds))

    def gather(self, name: str, *args: Any, body: bytes | None = None) -> None:
        """Send a small record, together with others of its kind: before the next of another, and as a sign of life."""
        self._gathered += wire.format_record(name, *args, body=body)
        if len(self._gathered) >= GATHER_BYTES or self._clock() - self._sent_s >= ALIVE_S:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if self._gathered:
            lines, self._gathered = bytes(self._gathered), bytearray()
            self._send(lambda: self._connection.send_records(lines))

    def _send(self, send: Callable[[], None]) -> None:
        self._hear()
        try:
            send()
        except errors.Unreachable:
            # The node closes when it refuses in the middle; its reason came before that and can still be read.
            if (refusal := self._answer.last_words()) is not None:
                raise refusal from None
            raise
        self._sent_s = self._clock()

    def wait_readable(self, fd: int) -> None:
        """Wait until a source has something for us, with signs of life to the node meanwhile.

        Only what we send counts as one: the node tells its progress all the time, and hears nothing by that.
        """
        while True:
            silence_left_s = self._sent_s + ALIVE_S - self._clock()
            if silence_left_s <= 0:
                self.record("PART", body=b"")
                continue
            ready = self._wait(self._deadline.wait_s(silence_left_s), fd)
            if fd in ready:
                return
            if ready:
                self._hear()

    def stay(self) -> None:
        """A sign of life when it is time for one: for who works for long between two records."""
        if self._clock() - self._sent_s >= ALIVE_S:
            self.record("PART", body=b"")

    def _hear(self) -> None:
        """Read the answers that are there. Raises the node's refusal; a last word before our last record is one."""
        while self._wait(0):
            part = next(self._answer, None)
            if part is None:
                raise errors.ProtocolError("the node answered before it had everything")
            self._heard(part)

    def _wait(self, wait_s: float, *fds: int) -> set[int]:
        poll = select.poll()
        for fd in (self._connection.fileno(), *fds):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(1000 * wait_s)}

    def end(self) -> dict[str, Any]:
        """After the last record: the node's answer."""
        self.flush()
        for part in self._answer:
            self._heard(part)
        return wire.parse_json(self._answer.result, dict)

    def _heard(self, part: bytes) -> None:
        self._deadline.wait_s()
        if self._progress is not None:
            done = wire.parse_json(part, dict).get("bytes")
            if not isinstance(done, int):
                raise errors.ProtocolError("progress says how many bytes are done")
            self._progress(Progress(done, self.size))


@contextlib.contextmanager
def outgoing(
    calls: Calls, verb: str, options: dict[str, Any], deadline: Deadline, progress: OnProgress | None
) -> Iterator[Outgoing]:
    """A streaming request; if it is left by an exception the connection is closed, and nothing becomes visible."""
    with calls.pool.connection(deadline) as connection:
        try:
            yield Outgoing(connection, deadline, verb, options, progress, calls.pool.is_local)
        except BaseException:
            connection.close()
            raise
