"""What a verb's handler sees of a connection: who asks, the request's body and records, and how to answer."""

from __future__ import annotations

import os
import stat

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net import doorman
from p2pfs.net.stream import Stream
from p2pfs.net.tls import Party


class Session:
    """One connection from somebody: what a handler sees of it."""

    def __init__(self, stream: Stream, party: Party) -> None:
        self._stream = stream
        self.party = party
        self.unread_bytes = 0
        """Of the request's body."""
        self.has_replied = False
        self.is_busy = False
        """A request is being answered."""
        self.sent_bytes = 0
        """Of the answer, so far."""

    @property
    def whose(self) -> str | None:
        """Whom its share of the node's room counts for; None: who may open the control socket has no limit."""
        return None if self.party.kind == "local" else doorman.who(self.party)

    def begin(self) -> None:
        """Before the next request; for the server."""
        self.unread_bytes = 0
        self.has_replied = False
        self.sent_bytes = 0

    def body(self) -> bytes:
        """The request's message body."""
        length, self.unread_bytes = self.unread_bytes, 0
        return self._stream.read_body(length)

    def body_into(self, view: memoryview) -> None:
        """The request's body into a buffer of just its length."""
        self.unread_bytes -= len(view)
        self._stream.read_into(view)

    def next_record(self) -> Line:
        """The next record of a streaming request; read its body with `record_into` or `record_body`."""
        line = self._stream.read_line(self._stream.limits.record_s)
        if not line:
            raise errors.Unreachable(f"{self._stream.peer_name} went away in the middle of a request")
        return wire.parse_record(line)

    def record_into(self, view: memoryview) -> None:
        """Bytes of the last record's body."""
        self._stream.read_into(view)

    def record_body(self, record: Line) -> bytes:
        """The last record's whole body."""
        return self._stream.read_body(record.length)

    def take_descriptor(self) -> int:
        """The open regular file that came with the line; the caller closes it. Raises Refused, ProtocolError."""
        if self.party.kind != "local":
            raise errors.ProtocolError("descriptors can only be passed over the control socket")
        fd = self._stream.take_descriptor()
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise errors.Refused("the descriptor that came is not one of a regular file; send its bytes instead")
        return fd

    def part(self, *pieces: bytes | memoryview) -> None:
        """Send one PART made of these pieces."""
        size = sum(map(len, pieces))
        self.sent_bytes += size
        self._stream.send(wire.format_part(size), *pieces)

    def reply(self, data: bytes | memoryview = b"") -> None:
        """Send the last line: the request was done."""
        # Before the sending: a failure in the middle must not be followed by an ERR line.
        self.has_replied = True
        self.sent_bytes += len(data)
        self._stream.send(wire.format_ok(len(data)), data)
