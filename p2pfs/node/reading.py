"""READ, FETCH, LIST, STAT, EXPORT: roots go out, each block verified before a byte of it is delivered.

Blocks are fetched ahead in a window. Whoever delivers in order takes buffers without waiting while it holds others,
so that many readers share the buffers without waiting for each other in a circle.
"""

from __future__ import annotations

import collections
import math
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from p2pfs import errors, green
from p2pfs.core import car, dag
from p2pfs.core.cid import CID, RAW
from p2pfs.node.buffers import BufferPool, Buffers
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore
from p2pfs.node.progress import Work
from p2pfs.store.jobs import is_there, write_range

AHEAD = 8
"""Blocks fetched ahead by one reader that delivers in order."""
PAUSE_S = 1.0
"""A reader that does not ask for the next block for so long lets go of what was fetched ahead, if others want room."""
FLUSH_BYTES = 64 * 1024 * 1024
"""A file that is fetched is written to disk as it grows: the client syncs it at the end and need not wait for all."""
AT_ONCE = 12
"""Blocks fetched at once into a file."""


class Fetched(NamedTuple):
    """A block on its way: wait for `done`, then look for the error."""

    view: memoryview
    done: green.Event
    outcome: list[int | BaseException]


class Ahead:
    """What one reader, who takes its blocks in order, has fetched ahead of it."""

    def __init__(self, cids: Iterable[CID], buffers: Buffers) -> None:
        self.buffers = buffers
        self._source = iter(cids)
        self._again: list[CID] = []
        self.waiting: collections.deque[tuple[CID, Fetched]] = collections.deque()
        self.paused_at = math.inf
        """Since when the reader is busy with the block that it was given last."""

    def next(self) -> CID | None:
        """What to fetch next."""
        return self._again.pop() if self._again else next(self._source, None)

    def shed(self, now: float) -> list[Fetched]:
        """If the reader pauses: all but the block that it holds, to be fetched again later."""
        if now - self.paused_at < PAUSE_S:
            return []
        shed = []
        while len(self.waiting) > 1:
            cid, fetched = self.waiting.pop()
            self._again.append(cid)
            shed.append(fetched)
        return shed


class Transfer(Work):
    """How far a file is that is fetched; a failure ends it early."""

    def __init__(self) -> None:
        super().__init__()
        self.size: int | None = None
        self.bytes = 0
        self.kept_bytes = 0
        """Bytes that were there already, and right."""


class Reader:
    """Reads roots through a fetcher."""

    def __init__(self, local: LocalStore, fetcher: Fetcher, buffers: BufferPool, paced: BufferPool) -> None:
        self._local = local
        self._fetcher = fetcher
        self._buffers = buffers
        self._paced = paced
        self._group = green.Group("read")
        self._readers: set[Ahead] = set()
        paced.on_want = self._shed

    # --- in order ------------------------------------------------------------------------------------

    def in_order(self, cids: Iterable[CID], whose: str | None = None) -> Iterator[tuple[CID, memoryview]]:
        """The verified blocks of these CIDs, in their order. A view is valid until the next one is asked for.

        `whose` is for `BufferPool.of`.
        """
        ahead = Ahead(cids, self._paced.of(whose))
        self._readers.add(ahead)
        try:
            while True:
                self._fill(ahead)
                if not ahead.waiting:
                    return
                cid, fetched = ahead.waiting[0]
                fetched.done.wait()
                outcome = fetched.outcome[0]
                if isinstance(outcome, BaseException):
                    raise outcome
                with fetched.view[:outcome] as data:
                    ahead.paused_at = time.monotonic()
                    yield cid, data
                    ahead.paused_at = math.inf
                ahead.waiting.popleft()
                ahead.buffers.give(fetched.view)
        finally:
            self._readers.discard(ahead)
            self._give_back(ahead.buffers, [fetched for _, fetched in ahead.waiting])

    def _fill(self, ahead: Ahead) -> None:
        while len(ahead.waiting) < AHEAD:
            view = ahead.buffers.try_take() if ahead.waiting else ahead.buffers.take()
            if view is None:
                return
            try:
                cid = ahead.next()
            except BaseException:
                ahead.buffers.give(view)
                raise
            if cid is None:
                ahead.buffers.give(view)
                return
            fetched = Fetched(view, green.Event(), [])
            self._group.spawn("ahead", self._fetch, cid, fetched)
            ahead.waiting.append((cid, fetched))

    def _shed(self, wanted: Buffers) -> None:
        """Somebody waits for a buffer of these: readers that have some of them and pause keep one each."""
        for ahead in self._readers:
            if wanted is ahead.buffers or wanted is self._paced:
                self._give_back(ahead.buffers, ahead.shed(time.monotonic()))

    def _give_back(self, buffers: Buffers, blocks: list[Fetched]) -> None:
        for fetched in blocks:
            # The greenlet still writes into the buffer until it is done: only then may it be used again.
            self._group.spawn("give-back", self._give_one_back, buffers, fetched)

    def _fetch(self, cid: CID, fetched: Fetched) -> None:
        try:
            fetched.outcome.append(self._fetcher.block(cid, fetched.view))
        except errors.P2pfsError as error:
            fetched.outcome.append(error)
        finally:
            if not fetched.outcome:
                fetched.outcome.append(errors.Interrupted(f"{cid}: reading was ended"))
            fetched.done.set()

    @staticmethod
    def _give_one_back(buffers: Buffers, fetched: Fetched) -> None:
        fetched.done.wait()
        buffers.give(fetched.view)

    # --- files ---------------------------------------------------------------------------------------

    def file_size(self, cid: CID) -> int:
        """Bytes of a file. Raises UsageError for a directory, Malformed for what is no UnixFS."""
        if cid.codec == RAW:
            with self._buffers.buffer() as view:
                return self._fetcher.block(cid, view)
        block = self._fetcher.branch(cid)
        if dag.kind(cid, block) == "directory":
            raise errors.UsageError(f"{cid} is a directory; name a file inside it, or get the whole of it")
        return dag.file_size(cid, block)

    def stream(self, cid: CID, start: int, stop: int, whose: str | None = None) -> Iterator[memoryview]:
        """The bytes of a file from `start` to before `stop`, in pieces; only the blocks that they are in are read."""
        spans: collections.deque[dag.Span] = collections.deque()

        def leaves() -> Iterator[CID]:
            for span in dag.spans(self._fetcher.branch, cid, start, stop):
                spans.append(span)
                yield span.cid

        for _, block in self.in_order(leaves(), whose):
            yield dag.span_payload(spans.popleft(), block)

    def fetch_into(self, cid: CID, fd: int, transfer: Transfer) -> None:
        """Make a descriptor's file equal to a file of the store.

        Raises what reading raises; the file is then incomplete, and calling again completes it.
        """
        if cid.codec == RAW:
            self._fetch_leaf_into(cid, fd, transfer)
            return
        transfer.size = self.file_size(cid)
        was = os.fstat(fd).st_size
        self._local.run(os.ftruncate, fd, transfer.size)
        slots = green.Semaphore(AT_ONCE)
        group = green.Group("fetch-into", transfer.fail)
        flushed = 0

        def leaf(span: dag.Span, view: memoryview) -> None:
            try:
                self._fetch_span_into(span, fd, span.offset + span.length <= was, view, transfer)
            except errors.P2pfsError as error:
                transfer.fail("leaf", error)
            finally:
                slots.release()
                self._buffers.give(view)

        try:
            for span in dag.spans(self._fetcher.branch, cid, 0, transfer.size):
                slots.acquire()
                transfer.check()
                if transfer.bytes - flushed >= FLUSH_BYTES:
                    flushed = transfer.bytes
                    group.spawn("flush", self._local.run, os.fdatasync, fd)
                group.spawn("leaf", leaf, span, self._buffers.take())
            while len(group):
                group.join(60.0)
        finally:
            group.close()
        transfer.check()

    def _fetch_span_into(
        self, span: dag.Span, fd: int, may_be_there: bool, view: memoryview, transfer: Transfer
    ) -> None:
        # Only whole raw leaves can be compared where they lie; anything else is fetched again.
        if may_be_there and span.cid.codec == RAW and not span.cid.is_identity:
            with view[: span.length] as scratch:
                if self._local.run(is_there, fd, span.offset, scratch, span.cid.multihash):
                    transfer.kept_bytes += span.length
                    transfer.bytes += span.length
                    return
        length = self._fetcher.block(span.cid, view)
        with view[:length] as block, dag.span_payload(span, block) as data:
            self._local.run(write_range, fd, span.offset, data)
        transfer.bytes += span.length

    def _fetch_leaf_into(self, cid: CID, fd: int, transfer: Transfer) -> None:
        with self._buffers.buffer() as view:
            length = self._fetcher.block(cid, view)
            with view[:length] as data:
                self._local.run(write_range, fd, 0, data)
        self._local.run(os.ftruncate, fd, length)
        transfer.size = transfer.bytes = length

    # --- directories and figures ---------------------------------------------------------------------

    def entry(self, cid: CID) -> dict[str, Any]:
        """`type` and `size` of what a CID stands for; a directory's size is null."""
        if cid.codec == RAW:
            return {"type": "file", "size": self.file_size(cid)}
        block = self._fetcher.branch(cid)
        kind = dag.kind(cid, block)
        if kind == "symlink":
            return {"type": kind, "size": len(dag.symlink_target(cid, block))}
        return {"type": kind, "size": dag.file_size(cid, block) if kind == "file" else None}

    def entries(self, cid: CID) -> Iterator[dict[str, Any]]:
        """Entries of a directory, one after the other. Raises UsageError when it is none."""
        for entry in dag.entries(self._fetcher.branch, cid):
            row = {"name": entry.name.decode("utf-8", "surrogateescape"), "cid": str(entry.cid)}
            if entry.cid.codec == RAW and entry.tsize:
                # A raw leaf is a file of its own length, which its link claims: nothing is fetched to list it.
                yield {**row, "type": "file", "size": entry.tsize}
            else:
                yield {**row, **self.entry(entry.cid)}

    def figures(self, root: CID) -> tuple[int, int]:
        """(number, bytes) of the distinct blocks below a root; a leaf counts as long as the link to it says."""
        blocks = total = 0
        for visit in self.walk(root):
            blocks += 1
            total += visit.size
        return blocks, total

    def leaf_bytes(self, root: CID) -> int:
        """Bytes of the distinct leaves below a root: about what the files of a directory have together."""
        return sum(visit.size for visit in self.walk(root) if not visit.is_branch)

    def walk(self, root: CID) -> Iterator[dag.Visit]:
        """Every block below a root, depth first, each once."""
        return dag.walk(self._fetcher.branch, root, self.file_size(root) if root.codec == RAW else 0)

    def export(self, root: CID, whose: str | None = None) -> Iterator[bytes | memoryview]:
        """A CARv1 of everything below a root, depth first, each block once."""
        yield car.header([root])
        cids = (visit.cid for visit in dag.walk(self._fetcher.branch, root))
        for cid, block in self.in_order(cids, whose):
            yield car.frame(cid, block)
            yield block

    def close(self) -> None:
        """End what is still running."""
        self._group.close()
