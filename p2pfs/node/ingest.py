"""STORE and IMPORT: bytes come in, leaves and branches go to their owners, a root comes out.

Files come leaf by leaf (`node/cutting.py`, `node/leaves.py`); small ones, directories and links in one go each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pfs import errors, green
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.directory import Entry, build_directory, build_symlink
from p2pfs.core.layout import Block, Link
from p2pfs.core.profile import Profile
from p2pfs.node.buffers import SMALL, BufferPool, Room
from p2pfs.node.local import LocalStore
from p2pfs.node.place import Copies, Expectation, Placer
from p2pfs.node.progress import Work
from p2pfs.node.renewing import MOST_S
from p2pfs.store.jobs import Taken

REMEMBERED = 65536
"""How many new blocks a store remembers, to take them back if it fails for want of room (64 GiB of leaves)."""
SMALL_AT_ONCE = 256
SMALL_BYTES_AT_ONCE = 4 * 1024 * 1024
"""Small files and branches in work at once: so many, and so many bytes (or a single one)."""
TAKE_BACK_WAIT_S = 60.0


class Ingest(Work):
    """One STORE or IMPORT in progress. Not visible to anybody before its pin is made, which is the caller's job."""

    def __init__(
        self, local: LocalStore, placer: Placer, buffers: BufferPool, profile: Profile,
        wanted: int, quorum: Callable[[], int], is_dry: bool = False, renew_s: Callable[[], float] = lambda: MOST_S,
    ) -> None:
        """`quorum`: that of a store which begins now; `renew_s`: how often what was placed is made young again."""
        super().__init__()
        self.local = local
        self.buffers = buffers
        self.profile = profile
        self.bytes = 0
        self.blocks = 0
        self.new_blocks = 0
        self.new_bytes = 0
        self.fewest_copies = 0
        self.nodes: set[str] = set()
        self._placer = placer
        self.quorum = quorum()
        self._quorum_now = quorum
        self._is_dry = is_dry
        self.is_mine: Callable[[bytes], bool] = (lambda _: False) if is_dry else placer.is_mine(wanted)
        """Should this node hold a block?"""
        self._group = green.Group("ingest", self.fail)
        self._small = Room(SMALL_AT_ONCE, SMALL_BYTES_AT_ONCE)
        self._written: dict[str, list[tuple[CID, int]]] = {}
        self._is_kept = False
        self._expected = Expectation()
        self._renewal = placer.renewal(wanted, renew_s, self.fail)

    # --- its greenlets -------------------------------------------------------------------------------

    def spawn(self, name: str, fn: Callable[..., Any], *args: Any) -> None:
        """Run part of the work; its P2pfsError becomes the error of the whole, without noise in the log."""
        self._group.spawn(name, self._quietly, fn, args)

    def _quietly(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        except errors.P2pfsError as error:
            self.fail("ingest", error)

    def join(self) -> None:
        """Wait until all that was begun is done; raise the first error."""
        while len(self._group):
            self._group.join(1.0)
            self.check()
        self.check()

    # --- blocks --------------------------------------------------------------------------------------

    def place(self, cid: CID, data: memoryview, taken: Taken | None = None) -> None:
        """Put one block where it belongs, and count it."""
        self.blocks += 1
        self.copy(cid, data, taken)

    def copy(self, cid: CID, data: memoryview, taken: Taken | None = None) -> None:
        """As `place`, for a block that is counted already."""
        if self._is_dry:
            if not self._placer.holds_already(cid, self._renewal.wanted):
                self._count_new(len(data))
            return
        if cid.codec == DAG_PB:
            copies = self._placer.put_everywhere(cid, data, self.quorum, self._remember, self._expected)
        else:
            copies = self._placer.put(
                cid, data, self._renewal.wanted, self.quorum, self._remember, taken, self._expected
            )
        self._renewal.note(cid)
        self._count(len(data), copies)

    def _count_new(self, length: int) -> None:
        self.new_blocks += 1
        self.new_bytes += length

    def _count(self, length: int, copies: Copies) -> None:
        if copies.is_new:
            self._count_new(length)
        self.nodes.update(copies.holders)
        self._count_copies(len(copies.holders))

    def _count_copies(self, copies: int) -> None:
        self.fewest_copies = min(self.fewest_copies, copies) if self.fewest_copies else copies

    def found(self, cid: CID, copies: int) -> None:
        """A block that has these copies already is a part of it, too."""
        self._renewal.note(cid)
        self._count_copies(copies)

    def _remember(self, cid: CID, id: str, token: int) -> None:
        written = self._written.setdefault(id, [])
        if len(written) < REMEMBERED:
            written.append((cid, token))

    def place_branches(self, blocks: list[Block]) -> None:
        """Put branches, each in a greenlet of its own."""
        for block in blocks:
            self._small.enter(len(block.data))
            self.spawn("branch", self._place_branch, block)

    def _place_branch(self, block: Block) -> None:
        try:
            self.place(block.cid, memoryview(block.data))
        finally:
            self._small.leave(len(block.data))

    # --- directories, links --------------------------------------------------------------------------

    def small_file(self, data: bytes, done: Callable[[Link], None]) -> None:
        """A file of one leaf of at most SMALL bytes; `done` gets its link, later."""
        self.check()
        assert len(data) <= min(SMALL, self.profile.min_leaf_bytes)
        self._small.enter(len(data))
        self.spawn("small-file", self._small_file, data, done)

    def _small_file(self, data: bytes, done: Callable[[Link], None]) -> None:
        try:
            view = memoryview(data)
            taken = self.local.take(view, self.profile.hash_code, self.is_mine)
            cid = CID(RAW, taken.block)
            self.place(cid, view, taken)
            self.bytes += len(data)
            done(Link(cid, len(data), len(data)))
        finally:
            self._small.leave(len(data))

    def directory(self, entries: list[Entry]) -> Link:
        """A directory whose entries are all there."""
        # A big directory takes a while to encode: not on the hub.
        link, blocks = self.local.run(_built, entries, self.profile)
        self.place_branches(blocks)
        return link

    def symlink(self, target: bytes) -> Link:
        """A symbolic link."""
        link, block = build_symlink(target, self.profile)
        self.place_branches([block])
        return link

    # --- the end -------------------------------------------------------------------------------------

    def renew(self, mend: Callable[[CID], None]) -> None:
        """Before a pin is made: if this took long, see to it that every block is there still, and young.

        What has too few copies by now is given to `mend`: also where members came meanwhile, since who asks for two
        copies and was alone at first must not get one when it is not alone any more. Raises TooFewNodes when there is
        none.
        """
        quorum = self._quorum_now()
        is_raised = quorum > self.quorum and not self._is_dry
        if is_raised:
            self.quorum = quorum
            self._renewal.wanted = max(self._renewal.wanted, quorum)
            self.fewest_copies = 0  # all are counted anew
        held = self._renewal.finish(self.quorum, mend, is_raised)
        if held is not None:
            self._count_copies(held)

    def keep(self) -> None:
        """A pin may want the blocks from now on: they are not taken back any more."""
        self._is_kept = True

    def take_back(self) -> None:
        """After a failure for want of room: remove what was written, so that the space is usable again."""
        if self._is_kept:
            return
        # Not ended but awaited: a native job that is cut off would leave a block that nobody remembers.
        self._group.join(TAKE_BACK_WAIT_S)
        self._placer.take_back(self._written)
        self._written.clear()

    def close(self) -> None:
        """End what is still running."""
        self._group.close()
        self._renewal.close()


def _built(entries: list[Entry], profile: Profile) -> tuple[Link, list[Block]]:
    link, blocks = build_directory(entries, profile)
    return link, list(blocks)


class Folder:
    """A directory whose entries are still coming; it becomes one when the last of them is done."""

    def __init__(self, ingest: Ingest, done: Callable[[Link], None]) -> None:
        self._ingest = ingest
        self._done = done
        self._entries: list[Entry] = []
        self._pending = 1

    def expect(self, name: bytes) -> Callable[[Link], None]:
        """There will be an entry of that name; call the result with its link."""
        self._pending += 1

        def done(link: Link) -> None:
            self._entries.append(Entry(name, link.cid, link.tsize))
            self.close()

        return done

    def close(self) -> None:
        """No further entry is expected (called once), or one more is done."""
        self._pending -= 1
        if not self._pending:
            self._ingest.spawn("directory", lambda: self._done(self._ingest.directory(self._entries)))
