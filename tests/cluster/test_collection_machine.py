"""Collection that cannot eat live data: a state machine over three real nodes, which crash and come back.

It mixes stores (of blocks that were unwanted for long, too), gets, rm, restore, import, collection, audits, drains,
kill -9 (of nodes that collect, too), lost catalogs and restarts. After each step: what was acknowledged and not removed
is readable and equal, from every node that runs. At the end: the disks hold every live block as often as wanted, and
nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kit import truth
from kit.cluster import Node, wait_until
from p2pfs import errors
from p2pfs.client.answers import Stored
from p2pfs.core.cid import CID
from tests.cluster.collection_bench import (
    COPIES,
    FILES,
    FOLDERS,
    GRACE_S,
    Bench,
    Source,
    bytes_of,
    client,
    contents,
    tile_of,
    write_content,
)

PATIENCE_S = 60.0
"""For what has to come by itself."""
SEED = "P2PFS_TEST_SEED"
"""Environment variable with the seed of the long form, to run it again."""


@dataclass
class Pin:
    """What the model knows of a name that was stored once."""

    cid: CID
    content: str
    is_live: bool
    removed_at: float = 0.0
    """When its removal was asked for, by the monotonic clock."""


CONTENT = st.sampled_from([*FILES, *FOLDERS])
ALIAS = st.sampled_from(["x", "y"])
NUMBER = st.integers(0, 11)
"""Of a node or a pin, modulo how many there are."""


class Machine(RuleBasedStateMachine):
    """Pins by name, and three nodes of which one may be down."""

    bench: ClassVar[Bench]

    @initialize()
    def begin(self) -> None:
        with self.acting():
            self.cluster = self.bench.cluster()
            folder = self.bench.new_folder()
            self.salt = folder.name
            self.paths = write_content(folder, self.salt)
            self.pins: dict[str, Pin] = {}
            self.down: Node | None = None
            self.is_old = False
        self.store("ab", "x", 0)

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """What fails within leaves a cluster of which nothing is known."""
        try:
            yield
        except BaseException:
            self.bench.close()
            self.is_broken = True
            raise

    is_broken = False

    def node(self, number: int) -> Node:
        running = self.cluster.running()
        return running[number % len(running)]

    def name_of(self, number: int, *, is_live: bool) -> str:
        names = sorted(name for name, pin in self.pins.items() if pin.is_live == is_live)
        return names[number % len(names)]

    def has_live(self) -> bool:
        return any(pin.is_live for pin in self.pins.values())

    def has_removed(self) -> bool:
        return any(not pin.is_live for pin in self.pins.values())

    # --- what users do -------------------------------------------------------------------------------

    @rule(content=CONTENT, alias=ALIAS, number=NUMBER)
    def store(self, content: str, alias: str, number: int) -> None:
        with self.acting(), client(self.node(number)) as user:
            stored = user.store(self.paths[content], name=f"{self.salt}-{content}-{alias}")
            assert stored.replicas >= COPIES
            self.note(stored, content)

    @rule(content=st.sampled_from(["ab", "ac", "bca"]), alias=ALIAS, number=NUMBER)
    def store_while_all_collect(self, content: str, alias: str, number: int) -> None:
        """The tiles are stored, and all nodes collect before the end comes, and with it the pin."""
        with self.acting():
            stored = self.store_in_two_halves(content, alias, self.node(number), self.collect_everywhere)
            assert stored.replicas >= COPIES
            self.note(stored, content)

    @precondition(lambda self: self.down is None)
    @rule(content=st.sampled_from(["ab", "ac", "bca"]), alias=ALIAS, number=NUMBER, distance=st.integers(1, 2))
    def store_while_another_node_dies(self, content: str, alias: str, number: int, distance: int) -> None:
        """With the tiles on its disk; a store that is not acknowledged is not promised."""
        victim = self.cluster[(number + distance) % 3]

        def meanwhile() -> None:
            self.down = victim
            victim.kill()

        with self.acting(), contextlib.suppress(errors.TooFewNodes):
            self.note(self.store_in_two_halves(content, alias, self.cluster[number % 3], meanwhile), content)

    def store_in_two_halves(self, content: str, alias: str, node: Node, meanwhile: Callable[[], None]) -> Stored:
        """The tiles first; once they are placed, `meanwhile`; then the rest."""
        tiles = [hashlib.sha256(tile_of(self.salt, tile)).hexdigest() for tile in FILES[content]]

        def are_placed() -> bool:
            disks = [node.data_dir / "blocks" for node in self.cluster.running()]
            return all(any((disk / tile[:3] / tile).exists() for disk in disks) for tile in tiles)

        def pause() -> None:
            wait_until(are_placed, PATIENCE_S, "the tiles are placed")
            meanwhile()

        with client(node) as user:
            source = Source(bytes_of(self.salt, content), pause)
            return user.store(source, name=f"{self.salt}-{content}-{alias}")  # type: ignore[arg-type]

    @precondition(has_removed)
    @rule(pick=NUMBER, number=NUMBER)
    def store_again_what_is_about_to_be_collected(self, pick: int, number: int) -> None:
        """Blocks that were unwanted for long, and that the store need not send."""
        pin = self.pins[self.name_of(pick, is_live=False)]
        end = pin.removed_at + 1.1 * GRACE_S
        wait_until(lambda: time.monotonic() > end, PATIENCE_S, "the grace is over")
        content = pin.content if FILES.get(pin.content) else FOLDERS.get(pin.content, ("ab",))[-1]
        self.store_while_all_collect(content=content, alias="x", number=number)

    def note(self, stored: Stored, content: str) -> None:
        self.pins[stored.name] = Pin(stored.cid, content, True)
        self.is_old = False

    def collect_everywhere(self) -> None:
        for node in self.cluster.running():
            with client(node) as user:
                user.gc()

    @precondition(has_live)
    @rule(pick=NUMBER, number=NUMBER)
    def get(self, pick: int, number: int) -> None:
        name, node = self.name_of(pick, is_live=True), self.node(number)
        with self.acting(), client(node) as user:
            target = self.paths["leaf"].parent / "back" / str(time.monotonic_ns())
            target.parent.mkdir(exist_ok=True)
            user.get(name, target)
            assert contents(target) == contents(self.paths[self.pins[name].content])

    @precondition(has_live)
    @rule(pick=NUMBER, number=NUMBER)
    def rm(self, pick: int, number: int) -> None:
        name = self.name_of(pick, is_live=True)
        with self.acting(), client(self.node(number)) as user:
            pin = self.pins[name]
            pin.removed_at = time.monotonic()
            pin.is_live = self.is_old = False
            assert [row.name for row in user.remove(name)] == [name]

    @precondition(has_removed)
    @rule(pick=NUMBER, number=NUMBER)
    def restore(self, pick: int, number: int) -> None:
        """Within the grace it works; later it may, and then that counts."""
        name = self.name_of(pick, is_live=False)
        with self.acting(), client(self.node(number)) as user:
            pin = self.pins[name]
            try:
                user.restore(name)
                pin.is_live = True
            except errors.NotFound:
                assert time.monotonic() - pin.removed_at > GRACE_S, f"{name} was not kept for {GRACE_S:g} s"

    @precondition(has_live)
    @rule(pick=NUMBER, number=NUMBER, other=NUMBER)
    def rm_by_mistake(self, pick: int, number: int, other: int) -> None:
        """All collect before it is noticed, and still it can be undone, on any node."""
        name = self.name_of(pick, is_live=True)
        with self.acting():
            begin = time.monotonic()
            with client(self.node(number)) as user:
                user.remove(name)
            self.collect_everywhere()
            with client(self.node(other)) as user:
                try:
                    user.restore(name)
                except errors.NotFound:
                    assert time.monotonic() - begin > GRACE_S, f"{name} was not kept for {GRACE_S:g} s"
                    self.pins[name].is_live = False
                    self.pins[name].removed_at = begin

    @precondition(has_live)
    @rule(pick=NUMBER, number=NUMBER, other=NUMBER)
    def rm_and_import(self, pick: int, number: int, other: int) -> None:
        """All collect before it comes back, with whatever is left of it in the nodes."""
        name = self.name_of(pick, is_live=True)
        archive = self.paths["leaf"].parent / f"{time.monotonic_ns()}.car"
        with self.acting():
            with client(self.node(number)) as user:
                user.export_car(name, archive)
                user.remove(name)
            self.collect_everywhere()
            with client(self.node(other)) as user:
                assert user.import_car(archive, name=name).replicas >= COPIES
            self.is_old = False

    # --- what operators do, and what happens to nodes ------------------------------------------------

    @rule(number=NUMBER, dry_run=st.booleans())
    def gc(self, number: int, dry_run: bool) -> None:
        with self.acting(), client(self.node(number)) as user:
            collected = user.gc(dry_run=dry_run)
            assert collected.dry_run == dry_run
            if self.down is not None:
                assert collected.held_up, f"collected while {self.down.name} was away"
                assert collected.collected_blocks == 0

    @rule(number=NUMBER)
    def audit(self, number: int) -> None:
        with self.acting(), client(self.node(number)) as user:
            user.audit(wait=True)

    @precondition(lambda self: not self.is_old)
    @rule()
    def grow_old(self) -> None:
        """All that is stored by now becomes older than the grace, as far as nobody renews it."""
        self.is_old = True
        end = time.monotonic() + GRACE_S
        wait_until(lambda: time.monotonic() > end, PATIENCE_S, "the grace is over")

    @precondition(lambda self: self.down is None)
    @rule(number=NUMBER)
    def kill(self, number: int) -> None:
        with self.acting():
            self.down = self.node(number)
            self.down.kill()

    @precondition(lambda self: self.down is None)
    @rule(number=NUMBER)
    def kill_while_all_collect(self, number: int) -> None:
        def collect(node: Node) -> None:
            with contextlib.suppress(errors.Unreachable, errors.Interrupted), client(node) as user:
                user.gc()

        with self.acting(), ThreadPoolExecutor() as threads:
            running = [threads.submit(collect, node) for node in self.cluster]
            self.down = self.node(number)
            self.down.kill()
            for one in running:
                one.result()

    @precondition(lambda self: self.down is None)
    @rule(number=NUMBER)
    def drain_for_a_while(self, number: int) -> None:
        """What it held is on its way to the others, and all collect, before it takes its shards back."""
        with self.acting(), client(self.node(number)) as user:
            user.drain()
            self.collect_everywhere()
            user.drain(cancel=True)
            told = next(row.incarnation for row in user.peers() if row.self)
            for node in self.cluster:  # the next one drains when all know that this one does not
                wait_until(lambda node=node: told in self.incarnations(node), PATIENCE_S, f"{node.name} knows")

    def incarnations(self, node: Node) -> list[int]:
        with client(node) as user:
            return [row.incarnation for row in user.peers()]

    @precondition(lambda self: self.down is not None)
    @rule(has_journal=st.booleans())
    def lose_the_catalog(self, has_journal: bool) -> None:
        """Of the node that is down."""
        assert self.down is not None
        for part in self.down.data_dir.glob("catalog.sqlite*" if has_journal else "catalog.*"):
            part.unlink()

    @precondition(lambda self: self.down is not None)
    @rule()
    def restart(self) -> None:
        """It is back when it has heard what it missed: until then its users work with what it knew."""
        with self.acting():
            assert self.down is not None
            self.down.start()
            self.down = None
            self.cluster.wait_alive()
            live = {name for name, pin in self.pins.items() if pin.is_live}
            for node in self.cluster:
                wait_until(lambda node=node: self.names(node) == live, PATIENCE_S, f"{node.name} knows {live}")

    def names(self, node: Node) -> set[str]:
        with client(node) as user:
            return {row.name for row in user.pins() if row.name.startswith(f"{self.salt}-")}

    # --- what is promised ----------------------------------------------------------------------------

    @invariant()
    def what_is_pinned_is_readable_and_equal(self) -> None:
        live = {pin.cid: pin.content for pin in self.pins.values() if pin.is_live}
        with self.acting():
            for node in self.cluster.running():
                with client(node) as user:
                    for cid, content in live.items():
                        for path, data in contents(self.paths[content]).items():
                            ref = f"{cid}/{path}" if path else str(cid)
                            assert b"".join(user.read(ref)) == data, f"{content}/{path} from {node.name}"

    def teardown(self) -> None:
        if self.is_broken or not hasattr(self, "down"):
            return
        if self.down is not None:
            self.restart()
        with self.acting():
            # The others' catalogs are compared in a moment, and the last removal grows older than the grace.
            wait_until(self.is_settled, PATIENCE_S, "each live block has its copies, and nothing else is on the disks")
            for node in self.cluster:
                with client(node) as user:
                    wait_until(lambda user=user: user.status().verdict == "healthy", PATIENCE_S, "all say so")
            with client(self.cluster[0]) as user:
                for name, pin in self.pins.items():
                    if pin.is_live:
                        user.remove(name)

    def is_settled(self) -> bool:
        """After an audit and a collection of all nodes."""
        for node in self.cluster:
            with client(node) as user:
                user.audit(wait=True)
                user.gc()
        disks = [truth.Truth().disk(node.data_dir) for node in self.cluster]
        roots = [truth.count_root(disks, pin.cid) for pin in self.pins.values() if pin.is_live]
        assert not any(disk.bad or disk.foreign for disk in disks)
        assert not any(root.lost for root in roots)
        is_whole = all(
            set(root.leaves.values()) <= {COPIES} and set(root.branches.values()) <= {len(disks)} for root in roots
        )
        wanted = {block for root in roots for block in (*root.leaves, *root.branches)}
        return is_whole and {block for disk in disks for block in disk.blocks} == wanted


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Machine.bench = Bench(tmp_path)
    yield bench
    bench.close()


COMMON = settings(
    database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
)
"""A failure is shown as it came: with real nodes and clocks there is no making it smaller."""


FEW, FEW_SEED = 6, 1


@pytest.mark.usefixtures("bench")
def test_a_few_programs() -> None:
    few = settings(COMMON, max_examples=FEW, stateful_step_count=16)
    run_state_machine_as_test(seed(FEW_SEED)(Machine), settings=few)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("bench")
def test_many_programs() -> None:
    number = int(os.environ.get(SEED) or random.randrange(1 << 32))
    print(f"{SEED}={number}")
    many = settings(COMMON, max_examples=40, stateful_step_count=30)
    run_state_machine_as_test(seed(number)(Machine), settings=many)
