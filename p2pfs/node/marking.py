"""Walks the roots of pins, branch by branch, and enters what they want in an inventory.

The long walks of the audit are made here rather than by `core.dag.walk`: each branch is one native job that reads,
checks and takes it apart, leaves are passed on and not remembered, and the walk rests as long as it works.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from p2pfs import errors, green
from p2pfs.core import dag
from p2pfs.core.audit import Live
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import Multihash, digest_of
from p2pfs.core.pins import Pin
from p2pfs.node.fetch import Fetcher
from p2pfs.node.local import LocalStore

log = logging.getLogger(__name__)

REST = 1.0
"""For each second of work the walk rests so many: it never takes more than half of a core."""


KNOWN_MOST = 100_000
"""Branches of earlier roots that are remembered, some 15 MB; with more, all are forgotten and may be read again."""


class Marking:
    """One walk over any number of roots; a branch that was seen a short while ago is not read again."""

    def __init__(
        self, local: LocalStore, fetcher: Fetcher, view: memoryview, add: Callable[[list[Live]], None]
    ) -> None:
        """`view` is a buffer of 2 MiB for the walk alone; `add` is called in a native thread."""
        self._local = local
        self._fetcher = fetcher
        self._view = view
        self._add = add
        self._walked: dict[Multihash, int] = {}
        self.unreadable: list[CID] = []
        """Roots below which a branch could not be read: what they want is known in part only."""

    def mark(self, pins: Iterable[Pin]) -> None:
        """Everything below the roots of pins; of removed ones, as kept for a while and not wanted.

        A branch that cannot be read is entered all the same, and the rest of the root is walked.
        """
        leaves: list[Live] = []
        for pin in pins:
            copies = 0 if pin.removed else pin.replicas
            if pin.cid.codec != RAW:
                if len(self._walked) > KNOWN_MOST:
                    self._walked.clear()  # between roots: within one, it guards against DAGs that fan out without end
                if not self._walk(pin.cid, copies):
                    self.unreadable.append(pin.cid)
            elif not pin.cid.is_identity:
                leaves.append(Live(pin.cid.multihash, copies, pin.size, False))
        if leaves:
            self._local.run(self._add, leaves)

    def _walk(self, root: CID, copies: int) -> bool:
        """True when every branch could be read."""
        waiting, is_readable = [root], True
        while waiting:
            cid = waiting.pop()
            if self._walked.get(cid.multihash, -1) >= copies:
                continue
            self._walked[cid.multihash] = copies
            begin = time.monotonic()
            try:
                waiting += self._open(cid, copies)
            except errors.P2pfsError as error:
                log.info("below %s: %s", root, error)
                is_readable = False
                self._local.run(self._add, [Live(cid.multihash, copies, 0, True)])
            if len(waiting) > dag.MAX_PENDING:
                log.warning("%s is too wide and deep at once to be walked", root)
                return False
            green.sleep(REST * (time.monotonic() - begin))
        return is_readable

    def _open(self, cid: CID, copies: int) -> list[CID]:
        """The branches below a branch."""
        if cid.is_identity:
            return self._local.run(self._take_apart, cid, digest_of(cid.multihash), copies)
        try:
            return self._local.run(self._read, cid, copies)
        except (errors.NotFound, errors.Corrupt):
            return self._local.run(self._take_apart, cid, self._fetcher.branch(cid), copies)

    def _read(self, cid: CID, copies: int) -> list[CID]:
        length = self._local.store.read(cid.multihash, self._view)
        with self._view[:length] as block:
            return self._take_apart(cid, block, copies)

    def _take_apart(self, cid: CID, block: bytes | memoryview, copies: int) -> list[CID]:
        below = dag.children(cid, block)
        found = [Live(child.multihash, copies, size, False) for child, size in below
                 if child.codec == RAW and not child.is_identity]
        if not cid.is_identity:
            found.append(Live(cid.multihash, copies, len(block), True))
        self._add(found)
        return [child for child, _ in below if child.codec != RAW]
