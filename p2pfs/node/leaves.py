"""The leaves of one file on their way in, from an open file or a stream (`node/cutting.py` says where each begins).

Each leaf has a greenlet of its own, which waits for native threads and peers; how many run at once is bounded by the
buffers they hold. A leaf is read once: hashed for its name, written to this disk, sent to the others and hashed into
the file's plain SHA-256 from one buffer. That last hash goes in order, so leaves of one file form a chain.
"""

from __future__ import annotations

import hashlib

from p2pfs import errors, green
from p2pfs.core.cid import CID, RAW
from p2pfs.core.layout import BalancedLayout, Link
from p2pfs.node.ingest import Ingest

LEAF_WAIT_S = 300.0


class FileIngest:
    """The leaves of one file, in order, from any source."""

    def __init__(self, ingest: Ingest, wants_sha256: bool) -> None:
        self.ingest = ingest
        self._layout = BalancedLayout(ingest.profile)
        self._sha256 = hashlib.sha256() if wants_sha256 else None
        self._previous = green.Event()
        self._previous.set()
        self._running = 0
        self._idle = green.Event()
        self._idle.set()
        self.size = 0

    def add(self, view: memoryview, length: int, source: tuple[int, int] | None = None) -> None:
        """The next leaf: `length` bytes of a buffer of the pool, which is taken over.

        With `source` = (descriptor, offset) the bytes are still to be read from there.
        """
        turn, mine = self._previous, green.Event()
        self._previous = mine
        self.size += length
        self._running += 1
        self._idle.clear()
        self.ingest.spawn("leaf", self._leaf, view, length, source, turn, mine)

    def _leaf(
        self, view: memoryview, length: int, source: tuple[int, int] | None, turn: green.Event, mine: green.Event
    ) -> None:
        ingest = self.ingest
        try:
            ingest.check()
            with view[:length] as data:
                if source:
                    taken = ingest.local.take_from(*source, data, ingest.profile.hash_code, ingest.is_mine)
                else:
                    taken = ingest.local.take(data, ingest.profile.hash_code, ingest.is_mine)
                cid = CID(RAW, taken.block)
                ingest.place(cid, data, taken)
                if not turn.wait(LEAF_WAIT_S):
                    raise errors.DeadlinePassed("the leaf before did not get done")
                ingest.check()
                if self._sha256 is not None:
                    ingest.local.run(self._sha256.update, data)
            ingest.bytes += length
            ingest.place_branches(self._layout.add(Link(cid, length, length)))
        finally:
            mine.set()
            ingest.buffers.give(view)
            self._running -= 1
            if not self._running:
                self._idle.set()

    def settle(self) -> None:
        """Wait until no leaf is at work any more, whatever became of it: only then may its source be closed."""
        self._idle.wait()

    def wait(self) -> None:
        """Wait until every leaf so far is placed. Raises the first error."""
        while not self._previous.wait(1.0):
            self.ingest.check()
        self.ingest.check()

    def finish(self) -> tuple[Link, str | None]:
        """The whole file's link, and its plain SHA-256 in hex when it was wanted."""
        self.wait()
        link, blocks = self._layout.finish()
        self.ingest.place_branches(blocks)
        return link, self._sha256.hexdigest() if self._sha256 else None
