"""A store that takes long keeps what it has placed young, so that no node collects it before its pin is made.

Collection goes by age (`gc_grace` after a block was put or renewed last), and until there is a pin nothing else
protects a block.
"""

from __future__ import annotations

import collections
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from p2pfs import errors, green
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.multihash import DIGEST_BYTES, Multihash, shard_of
from p2pfs.node.asking import ask
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.node.peer import HAVE_BATCH

ROW = 1 + 2 + DIGEST_BYTES
"""Bytes that a block takes: its kind and its multihash. Of 1 MiB leaves that is 0.0034 %."""
MEMORY_BYTES = 1024 * 1024
"""Of blocks that are remembered in memory, those of 30 GiB; more go to a file."""


MOST_S = 600.0
"""A store renews what it has placed at least so often: so also nodes with another `gc_grace` than ours, or one that is
shortened meanwhile, leave it alone, as long as it is four times this."""
LEAST_S = 0.25
LOOK_S = 1.0
"""So soon a grace that was shortened counts."""


def interval_s(grace_s: float) -> float:
    """How often to renew, where what is older than `grace_s` is collected."""
    return min(MOST_S, max(LEAST_S, grace_s / 4))


class Renewal:
    """The blocks of one store so far. All are renewed each `every_s()` seconds, in batches."""

    def __init__(
        self, local: LocalStore, cluster: Cluster, wanted: int, every_s: Callable[[], float],
        fail: Callable[[str, BaseException], None], temp: Path | None = None,
    ) -> None:
        """`wanted`: copies of each block, of which there may be more later; `fail` gets what ends the store; `temp` is
        the folder for a long list of blocks.
        """
        self._local = local
        self._cluster = cluster
        self.wanted = wanted
        self._every_s = every_s
        self._fail = fail
        self._rows = tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(temp) if temp else None)  # noqa: SIM115  # closed by `close`
        self._size = 0
        self._silent: set[str] = set()
        """Who did not answer in this round: asked again in the next one, not for each batch."""
        self._begun = self._renewed = time.monotonic()
        self._order = cluster.order(0)
        """Changes with the members that may own shards: one that left has taken its copies with it."""
        self._group = green.Group("renewal")
        self._group.loop("renew", self._step)

    def note(self, cid: CID) -> None:
        """That block was placed. Raises NoSpace."""
        if cid.is_identity:
            return
        try:
            self._rows.seek(self._size)
            self._rows.write(bytes([cid.codec == DAG_PB]) + cid.multihash)
        except OSError as error:
            raise errors.NoSpace(f"no room for the list of a long store's blocks: {error.strerror}") from error
        self._size += ROW

    def _step(self) -> float:
        left_s = self._renewed + self._every_s() - time.monotonic()
        if left_s > 0:
            return min(left_s, LOOK_S)
        try:
            self.renew()
        except errors.P2pfsError as error:
            self._fail("renew", error)
        return 0.0

    def finish(self, quorum: int, mend: Callable[[CID], None], is_due: bool = False) -> int | None:
        """Before the pin is made: renew once more if it `is_due`, took long, or others own shards now.

        A block of which nodes that answer have fewer than `quorum` copies is given to `mend`. Then the copies that the
        rarest of the others has; None when it was not looked.

        Raises TooFewNodes when a block is on no node that answers.
        """
        is_long = time.monotonic() - self._begun > self._every_s()
        is_due |= is_long or self._cluster.order(0) != self._order
        self._group.close()
        if not is_due or not self._size:
            return None
        return min(self._mended(copies, quorum, mend) for copies in self._rounds())

    def renew(self) -> int:
        """Make all blocks so far young, wherever they are; the copies that the rarest one has. Raises TooFewNodes."""
        return min((min(copies.values()) for copies in self._rounds()), default=0)

    def _mended(self, copies: dict[CID, int], quorum: int, mend: Callable[[CID], None]) -> int:
        enough = self.wanted
        for cid, count in copies.items():
            if count < quorum:
                mend(cid)
            else:
                enough = min(enough, count)
        return enough

    def _rounds(self) -> Iterator[dict[CID, int]]:
        """All blocks so far, batch by batch, made young: how many copies each one has."""
        self._silent.clear()
        self._renewed = time.monotonic()
        for batch in self._batches():
            copies = self._renew(batch)
            yield {CID(DAG_PB if batch[block] else RAW, block): count for block, count in copies.items()}

    def _batches(self) -> Iterator[dict[Multihash, bool]]:
        """Is it a branch, by block."""
        end = self._size
        for start in range(0, end, ROW * HAVE_BATCH):
            self._rows.seek(start)
            rows = self._rows.read(min(end - start, ROW * HAVE_BATCH))
            yield {rows[at + 1 : at + ROW]: bool(rows[at]) for at in range(0, len(rows), ROW)}

    def _renew(self, batch: dict[Multihash, bool]) -> dict[Multihash, int]:
        cluster = self._cluster
        held = self._local.have(list(batch), renew=True)
        copies = dict(zip(batch, map(int, held), strict=True))
        owners: dict[str, list[Multihash]] = collections.defaultdict(list)
        others: dict[str, list[Multihash]] = collections.defaultdict(list)
        for block, is_branch in batch.items():
            ranks = cluster.ranks(shard_of(block))
            for number, id in enumerate(ranks):
                if id != cluster.id:
                    (owners if is_branch or number < self.wanted else others)[id].append(block)
        self._ask(owners, copies)
        # The next ranks have what owners could not take, and nobody knows which those were.
        short = {block for block, count in copies.items() if count < self.wanted}
        self._ask({id: [block for block in blocks if block in short] for id, blocks in others.items()}, copies)
        lost = [block for block, count in copies.items() if not count]
        if lost:
            cid = CID(DAG_PB if batch[lost[0]] else RAW, lost[0])
            raise errors.TooFewNodes(
                f"{len(lost)} blocks of this store or more are on no node that answers any more, the first is {cid}; "
                "store it again, what is there is not sent twice"
            )
        return copies

    def _ask(self, questions: dict[str, list[Multihash]], copies: dict[Multihash, int]) -> None:
        questions = {id: blocks for id, blocks in questions.items() if blocks and id not in self._silent}
        answers = ask(self._cluster, "renew", questions)
        self._silent.update(answers.silent)
        for having in answers.having.values():
            for block in having:
                copies[block] += 1

    def close(self) -> None:
        """End it."""
        self._group.close()
        self._rows.close()
