"""What is done to the nodes, and the plan of it, which the seed alone fixes.

Two lanes run beside each other. `trouble` takes nodes away for a while (killed, paused, cut off, slow, full, with a
wrong clock) and gives them back. `damage` destroys data on one node; before it touches another one, the cluster has
to have healed, for no more than `write_quorum - 1` disks may be hurt at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kit.chaos.world import World
from kit.cluster import Node
from kit.truth import Disk

TROUBLE = ("kill", "pause", "split", "oneway", "slow", "full", "clock")
DAMAGE = ("flip", "truncate", "vanish", "catalog", "wipe")
ALL = (*TROUBLE, *DAMAGE)
OWNING = ("kill", "pause", "full", "clock", "catalog", "wipe")
"""Faults that no other one may be mixed with on the same node."""
MOST_DAMAGED = 12
"""Blocks that one fault damages."""


class Step(NamedTuple):
    """One fault of the plan."""

    kind: str
    nodes: tuple[int, ...]
    """Numbers of the nodes that it hurts, 0 for the first."""
    hold_s: float
    gap_s: float
    """Before the next one of the lane."""
    dice: float
    """0 to 1: whatever else has to be chosen."""

    @property
    def is_damage(self) -> bool:
        """It destroys data; else it is trouble, which ends."""
        return self.kind in DAMAGE

    def __str__(self) -> str:
        return f"{self.kind} {','.join(chr(ord('a') + number) for number in self.nodes)} for {self.hold_s:.1f} s"


def plan(seed: int, lane: Sequence[str], size: int) -> Iterator[Step]:
    """The endless plan of one lane, for so many nodes. The same for the same arguments."""
    dice = random.Random(f"{seed}/{'/'.join(lane)}/{size}")
    while lane:
        kind = dice.choice(lane)
        most = {"kill": size, "pause": 2, "split": max(1, size // 2), "slow": size, "full": 1}.get(kind, 1)
        # Mostly one: several at once are rarer in life, too.
        count = dice.choice((1, 1, 1, min(2, most), most))
        nodes = tuple(sorted(dice.sample(range(size), count)))
        yield Step(kind, nodes, dice.uniform(1, 4) if dice.random() < 0.6 else dice.uniform(4, 12),
                   dice.uniform(5, 8), dice.random())


def lanes(seed: int, kinds: Sequence[str], size: int) -> dict[str, Iterator[Step]]:
    """Both lanes, with the wanted kinds of faults only."""
    return {"trouble": plan(seed, [kind for kind in TROUBLE if kind in kinds], size),
            "damage": plan(seed, [kind for kind in DAMAGE if kind in kinds], size)}


class Faults:
    """Does what a Step says, and undoes it. `leave` is set when the run is over."""

    def __init__(self, world: World, leave: threading.Event, census: Callable[[Node], Disk]) -> None:
        self._world = world
        self._leave = leave
        self._census = census
        self._play: dict[str, Callable[[list[Node], Step], None]] = {
            "kill": self._kill, "pause": self._pause, "split": self._split, "oneway": self._one_way,
            "slow": self._slow, "full": self._full, "clock": self._clock, "flip": self._blocks,
            "truncate": self._blocks, "vanish": self._blocks, "catalog": self._catalog, "wipe": self._wipe,
        }
        self.damaged: list[Path] = []
        """Block files that were damaged since this was emptied last."""

    def possible(self, kinds: Sequence[str]) -> list[str]:
        """Those of the kinds that can be played here; what cannot is remarked."""
        world = self._world
        lacking = {}
        if not world.has_netns:
            lacking = dict.fromkeys(("split", "oneway", "slow"), "network namespaces")
        elif not world.has_detours:
            lacking = {"slow": "/dev/net/tun and policy routing"}
        for kind in kinds:
            if kind in lacking:
                world.remarks.append(f"{kind} is left out: it needs {lacking[kind]}")
        return [kind for kind in kinds if kind not in lacking]

    def play(self, step: Step) -> None:
        """One fault, from its begin to its end; trouble is over on return, damage is done."""
        nodes = [self._world.nodes[number] for number in step.nodes]
        with self._world.owning(nodes if step.kind in OWNING else []), self._world.hurting(nodes):
            self._play[step.kind](nodes, step)

    def _hold(self, step: Step) -> None:
        self._leave.wait(step.hold_s)

    # --- trouble -------------------------------------------------------------------------------------

    def _kill(self, nodes: list[Node], step: Step) -> None:
        for node in nodes:
            node.kill()
        self._hold(step)
        for node in nodes:
            node.start()

    def _pause(self, nodes: list[Node], step: Step) -> None:
        for node in nodes:
            node.signal(signal.SIGSTOP)
        self._hold(step)
        for node in nodes:
            node.signal(signal.SIGCONT)

    def _split(self, nodes: list[Node], step: Step) -> None:
        others = [node for node in self._world.nodes if node not in nodes]
        pairs = [(a, b) for a in nodes for b in others]
        with contextlib.ExitStack() as stack:
            for a, b in [*pairs, *((b, a) for a, b in pairs)]:
                stack.enter_context(self._world.cut(a, b))
            self._hold(step)

    def _one_way(self, nodes: list[Node], step: Step) -> None:
        """What these nodes send is lost, for all others or for one; what is sent to them arrives."""
        others = [node for node in self._world.nodes if node not in nodes]
        with contextlib.ExitStack() as stack:
            for node in nodes:
                for other in others if step.dice < 0.5 else others[:1]:
                    stack.enter_context(self._world.cut(node, other))
            self._hold(step)

    def _slow(self, nodes: list[Node], step: Step) -> None:
        with contextlib.ExitStack() as stack:
            for node in nodes:
                stack.enter_context(self._world.slow(node, 0.005 + 0.15 * step.dice, 0.08 * step.dice))
            self._hold(step)

    def _full(self, nodes: list[Node], step: Step) -> None:
        """The disk itself is full, or, half of the time and without disks of their own, max_size is reached."""
        for node in nodes:
            if self._world.has_disks and step.dice < 0.5:
                fill(node.data_dir / "ballast")
            else:
                self._world.set_max_size(node, 1)
                node.signal(signal.SIGHUP)
        self._hold(step)
        for node in nodes:
            (node.data_dir / "ballast").unlink(missing_ok=True)
            self._world.set_max_size(node, 0)
            node.signal(signal.SIGHUP)

    def _clock(self, nodes: list[Node], step: Step) -> None:
        """Up to two hours forward or back."""
        for node in nodes:
            set_clock(self._world.clock_file(node), (2 * step.dice - 1) * 7200)
        self._hold(step)
        for node in nodes:
            set_clock(self._world.clock_file(node), 0.0)

    # --- damage --------------------------------------------------------------------------------------

    def _blocks(self, nodes: list[Node], step: Step) -> None:
        dice = random.Random(step.dice)
        for node in nodes:
            paths = sorted(self._census(node).blocks.values())
            for path in dice.sample(paths, min(len(paths), dice.randint(1, MOST_DAMAGED))):
                with contextlib.suppress(FileNotFoundError):  # collected meanwhile
                    damage(path, step.kind, dice)
                    self.damaged.append(path)

    def _catalog(self, nodes: list[Node], step: Step) -> None:
        for node in nodes:
            node.kill()
            path = node.data_dir / "catalog.sqlite"
            if step.dice < 0.3:
                path.unlink()
            else:
                with path.open("r+b") as file:
                    for page in range(0, path.stat().st_size, 4096):
                        file.seek(page)
                        file.write(random.Random(step.dice).randbytes(200))
            node.start()

    def _wipe(self, nodes: list[Node], step: Step) -> None:
        """The disk is lost; a new one gets the node's identity."""
        for node in nodes:
            node.kill()
            self.damaged += self._census(node).blocks.values()
            shutil.rmtree(node.data_dir / "blocks")
            for path in (*node.data_dir.glob("catalog*"), *node.data_dir.glob("usage*")):
                path.unlink()
            node.start()


def damage(path: Path, kind: str, dice: random.Random) -> None:
    """Change a block's file behind its node's back. Raises FileNotFoundError."""
    if kind == "vanish":
        path.unlink()
        return
    size = path.stat().st_size
    # Not by another file of that name: the node may have this one open.
    path.chmod(0o600)
    with path.open("r+b") as file:
        if kind == "truncate":
            file.truncate(dice.choice((0, size // 2)))
        elif size:
            at = dice.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))
    path.chmod(0o400)


def fill(ballast: Path) -> None:
    """Leave no byte free on the disk of this file."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(ballast.parent).free)
        file.seek(0, os.SEEK_END)
        while True:
            file.write(bytes(4096))


def set_clock(path: Path, ahead_s: float) -> None:
    """Shift a node's clock, in place: the node has this file mapped."""
    with path.open("r+b") as file:
        file.write(struct.pack("d", ahead_s))
