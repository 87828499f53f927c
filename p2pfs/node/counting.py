"""The audit's questions to the other members: who holds what this node would give up, and how many copies there are."""

from __future__ import annotations

import collections
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from p2pfs import metrics
from p2pfs.core.audit import Live, Stand, count_state, owners, wanted
from p2pfs.core.health import Figures, total
from p2pfs.core.multihash import Multihash, shard_of
from p2pfs.node.asking import ask
from p2pfs.node.backlog import part_of
from p2pfs.node.cluster import Cluster
from p2pfs.node.local import LocalStore
from p2pfs.store.base import Seen
from p2pfs.store.comparing import Alike

StandIn = Callable[[int], Stand]


def give_up(
    local: LocalStore, cluster: Cluster, stand_in: StandIn, surplus: list[tuple[Live, Seen]]
) -> set[Multihash]:
    """Drop the blocks that all their owners hold; those that went, and the branches that would have: they stay.

    The owners' copies are made young by the question, and ours goes only if nobody made it young since it was looked
    at. So of two nodes that each take the other for the owner, at most one drops its copy.
    """
    questions: dict[str, list[Multihash]] = collections.defaultdict(list)
    for live, _ in surplus:
        for id in owners(stand_in(shard_of(live.block)), live):
            questions[id].append(live.block)
    having = ask(cluster, "renew", questions).having
    certain, branches = [], set()
    for live, seen in surplus:
        holders = owners(stand_in(shard_of(live.block)), live)
        if holders and all(live.block in having.get(id, ()) for id in holders):
            if live.is_branch:
                branches.add(live.block)
            else:
                certain.append((live.block, seen.token))
    gone = local.run(lambda: {block for block, token in certain if local.store.discard(block, token)})
    metrics.BLOCKS_GIVEN_UP.inc(len(gone))
    return gone | branches


class Counted(NamedTuple):
    """The copies of the blocks that this node is in charge of, by part of the digest space."""

    figures: dict[int, Figures]
    lost: list[Live]


def count(cluster: Cluster, stand_in: StandIn, counted: Iterable[Alike]) -> Counted:
    """How many reachable copies each block has: the owners are asked, and everybody where that is too few."""
    groups = [(stand_in(shard_of(lives[0].block)), lives, is_here) for lives, is_here in counted]
    questions: dict[str, list[Multihash]] = collections.defaultdict(list)
    for stand, lives, _ in groups:
        for id in stand.order[: wanted(stand, lives[0])]:
            if id != stand.me and id in stand.reachable:
                questions[id].extend(live.block for live in lives)
    elsewhere: Counter[Multihash] = Counter()
    silent = _add_up(cluster, questions, elsewhere)
    short = [
        live.block for stand, lives, is_here in groups if (least := wanted(stand, lives[0]) - is_here) > 0
        for live in lives if elsewhere.get(live.block, 0) < least
    ]
    if short:
        asked = {id: set(blocks) for id, blocks in questions.items()}
        others = [peer.member.id for peer in cluster.live_peers()]
        silent |= _add_up(
            cluster, {id: [block for block in short if block not in asked.get(id, ())] for id in others}, elsewhere
        )
    return _figures(groups, elsewhere, is_certain=not silent and not cluster.absent())


def _add_up(cluster: Cluster, questions: dict[str, list[Multihash]], copies: Counter[Multihash]) -> set[str]:
    """Ask, and add to the copies; who did not answer."""
    answers = ask(cluster, "check", {id: blocks for id, blocks in questions.items() if blocks})
    for having in answers.having.values():
        copies.update(having)
    return set(answers.silent)


def _figures(
    groups: list[tuple[Stand, list[Live], bool]], elsewhere: Mapping[Multihash, int], is_certain: bool
) -> Counted:
    states: dict[int, list[Figures]] = collections.defaultdict(list)
    lost: list[Live] = []
    for stand, lives, is_here in groups:
        by_copies: dict[int, list[Live]] = collections.defaultdict(list)
        for live in lives:
            by_copies[elsewhere.get(live.block, 0) + is_here].append(live)
        for copies, found in by_copies.items():
            state = count_state(stand, found, copies, is_certain)
            states[part_of(found[0].block)].append(state)
            if state.lost_blocks:
                lost += found
    return Counted({part: total(found) for part, found in states.items()}, lost)
