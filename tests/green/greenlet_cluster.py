"""How many members a node counts for the quorum, and whom it waits for before it collects."""

from __future__ import annotations

import random
import ssl
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs.core.member import Member
from p2pfs.core.membership import Membership, Timing
from p2pfs.node.cluster import Cluster
from p2pfs.node.collecting import Collection
from p2pfs.node.hello import Caller
from p2pfs.node.peers import Peers


class NoCatalog:
    """Nothing in it."""

    def __init__(self) -> None:
        self.catalog = self

    def run(self, job: Any, *args: Any) -> Any:
        return job(*args)

    def lacks_records(self) -> bool:
        return False


def no_connection() -> ssl.SSLContext:
    raise AssertionError("no connection is made")


def cluster_of_one(seeks_others: bool) -> Cluster:
    membership = Membership(Member("me", "me", ("127.0.0.1:1",)), Timing(), random.Random(1))
    return Cluster(membership, Peers(Caller("me", "me", "0"), no_connection), 600.0, seeks_others)


def obstacle(cluster: Cluster) -> str:
    return Collection(cast(Any, None), cluster, cast(Any, SimpleNamespace(pinning=NoCatalog()))).obstacle()


def test_a_node_without_seeds_is_alone_and_may_do_everything() -> None:
    cluster = cluster_of_one(seeks_others=False)
    assert cluster.quorum(2) == 1
    assert obstacle(cluster) == ""


def test_a_node_that_knows_none_of_those_it_seeks_acknowledges_and_collects_nothing_alone() -> None:
    cluster = cluster_of_one(seeks_others=True)
    assert cluster.quorum(2) == 2
    assert "seeds" in obstacle(cluster)


def test_the_last_one_is_alone_once_the_other_was_struck() -> None:
    cluster = cluster_of_one(seeks_others=True)
    now = time.monotonic()
    cluster.membership.merge(now, [Member("other", "other", ("127.0.0.1:2",), state="dead")], "")
    assert cluster.quorum(2) == 2
    assert "away" in obstacle(cluster)
    cluster.membership.forget(now, "other")
    assert cluster.quorum(2) == 1
    assert obstacle(cluster) == ""


def test_ranks_that_a_native_thread_looked_up_while_members_changed_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one shard would be placed by the members of before until the next change, in days maybe."""
    cluster = cluster_of_one(seeks_others=False)
    other = Member("other", "other", ("127.0.0.1:2",), incarnation=1)
    cluster.membership.merge(time.monotonic(), [other], "other")
    cluster.changed()
    member = cluster.member

    def change_beside(id: str) -> Member:
        found = member(id)
        if not found.drains and id == "other":
            cluster.membership.merge(time.monotonic(), [other._replace(drains=True, incarnation=2)], "other")
            cluster.changed()
        return found

    monkeypatch.setattr(cluster, "member", change_beside)
    assert sorted(cluster.ranks(7)) == ["me", "other"], "as it was when it began"
    assert cluster.ranks(7) == ("me",)
