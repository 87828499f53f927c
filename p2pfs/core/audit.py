"""What the audit decides about each block: pure, so that a simulator can run it with any views and interleavings.

The audit compares what the catalog wants with what is on this disk. Every node decides for itself, by its own view of
the membership, which may be outdated. That is safe because nothing here removes a block: `GIVE_UP` and `COLLECT` only
name candidates. A surplus block goes when all its owners say that they hold it, asked after its age token was read.
The question renews their copies, so of nodes that each take another for the owner one keeps its own: if all dropped
theirs, each would have asked before the next one read its token, all around the circle.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from p2pfs.core.health import Figures
from p2pfs.core.multihash import Multihash


class Live(NamedTuple):
    """A block that a pin wants."""

    block: Multihash
    copies: int
    """As many as the most demanding pin says. 0: only removed pins want it; it is kept, but not repaired."""
    size: int
    """In bytes."""
    is_branch: bool


class Stand(NamedTuple):
    """Where a node stands in one shard, by its view of the membership."""

    me: str
    order: tuple[str, ...]
    """The members that take part in placement, in rank order; dead ones too until `out_after`."""
    reachable: frozenset[str]
    possible: int
    """How many members may own the shard."""


class Task(enum.Flag):
    """What is to be done about a block; several at once are possible."""

    NONE = 0
    FETCH = enum.auto()
    """It should be here and is not."""
    GIVE_UP = enum.auto()
    """It is here and others' to hold: drop it when all of them hold it. A branch on a node that owns nothing stays, for
    that node, too, walks roots; but before it goes for good, all others have to hold it."""
    COUNT = enum.auto()
    """This node is in charge of knowing how many copies there are."""
    COLLECT = enum.auto()
    """It is here and no pin wants it: a candidate, once it is old enough."""


def wanted(stand: Stand, live: Live) -> int:
    """How many copies there should be: what the pin says, as far as there are members for it; 0 for a kept block."""
    return max(1, min(live.copies, stand.possible)) if live.copies > 0 else 0


def owners(stand: Stand, live: Live) -> tuple[str, ...]:
    """Who should hold the block, in rank order.

    A branch is everybody's. A block that is only kept is nobody's.
    """
    if live.copies <= 0:
        return ()
    return stand.order if live.is_branch else stand.order[: wanted(stand, live)]


def is_in_charge(stand: Stand) -> bool:
    """This node counts the copies in this shard: it is the first of the order that can be reached."""
    for id in stand.order:
        if id == stand.me or id in stand.reachable:
            return id == stand.me
    return False


def decide(stand: Stand, live: Live | None, is_here: bool) -> Task:
    """What this node has to do about a block; `live` is None for one that no pin wants, or wanted lately.

    The same for all blocks of a shard that are alike: in `copies`, in `is_branch`, and in whether they are here.
    """
    if live is None:
        return Task.COLLECT if is_here else Task.NONE
    if live.copies <= 0:
        return Task.NONE
    task = Task.COUNT if is_in_charge(stand) else Task.NONE
    holders = owners(stand, live)
    if not is_here:
        return task | Task.FETCH if stand.me in holders or live.is_branch else task
    # Without owners (all members drain) there is nobody whose copy would make ours a surplus.
    return task | Task.GIVE_UP if holders and stand.me not in holders else task


def count_state(stand: Stand, lives: Sequence[Live], copies: int, is_certain: bool) -> Figures:
    """What blocks of a shard that are alike (see `decide`) add to the figures of the node in charge.

    `copies`: members that say to hold each of them, this one included. `is_certain`: nobody is away who might hold one
    more, and everybody answered; only then is a block without copies lost, else it is silent.
    """
    aim = wanted(stand, lives[0]) if lives else 0
    if aim == 0:
        return Figures()
    blocks, size = len(lives), sum(live.size for live in lives)
    state = Figures(live_blocks=blocks, live_bytes=size)
    if copies >= aim:
        return state
    state = state._replace(below_blocks=blocks, below_bytes=size)
    if copies == 1:
        return state._replace(single_blocks=blocks, single_bytes=size)
    if copies > 1:
        return state
    if is_certain:
        return state._replace(lost_blocks=blocks, lost_bytes=size)
    return state._replace(silent_blocks=blocks, silent_bytes=size)
