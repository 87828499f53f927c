"""Who has which of many blocks: HAVE to several members at once, each asked for its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from p2pfs import errors, green
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import Multihash
from p2pfs.node.cluster import Cluster
from p2pfs.node.peer import HAVE_BATCH

ASK_S = 60.0
"""Deadline of all questions together."""


class Answers(NamedTuple):
    """What came back."""

    having: dict[str, set[Multihash]]
    """The blocks that a member says to have, of those that it was asked for."""
    silent: dict[str, errors.P2pfsError]
    """Who did not answer all its questions, and why."""


def ask(cluster: Cluster, mode: str, questions: Mapping[str, Sequence[Multihash]]) -> Answers:
    """Ask each member (by id) for its blocks; `mode` is that of HAVE. A member that fails is silent, no error."""
    answers = Answers({}, {id: errors.DeadlinePassed(f"no answer within {ASK_S:g} s") for id in questions})

    def ask_one(id: str, blocks: Sequence[Multihash]) -> None:
        having: set[Multihash] = set()
        try:
            peer = cluster.peer(id)
            for start in range(0, len(blocks), HAVE_BATCH):
                batch = blocks[start : start + HAVE_BATCH]
                flags = peer.have(mode, [CID(RAW, block) for block in batch])
                having.update(itertools.compress(batch, flags))
        except errors.P2pfsError as error:
            answers.silent[id] = error
            return
        answers.having[id] = having
        del answers.silent[id]

    group = green.Group("ask")
    try:
        for id, blocks in questions.items():
            group.spawn(cluster.name_of(id), ask_one, id, blocks)
        group.join(ASK_S)
    finally:
        group.close()
    return answers
