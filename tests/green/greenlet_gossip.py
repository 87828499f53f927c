"""A node that hears of very many members at once goes on with everything else meanwhile."""

from __future__ import annotations

import random
import ssl
from typing import Any, cast

from p2pfs import green
from p2pfs.core import wire
from p2pfs.core.member import Member, news_to_wire
from p2pfs.core.membership import Membership, Timing
from p2pfs.node.cluster import Cluster
from p2pfs.node.gossip import Gossip
from p2pfs.node.hello import Caller
from p2pfs.node.peers import Peers

MANY = 200


def no_connection() -> ssl.SSLContext:
    raise AssertionError("no connection is made")


def member(number: int) -> Member:
    return Member(f"gossip-{number}", f"node-{number}", (f"127.0.0.1:{number + 1}",), "alive", 1)


def test_the_hub_goes_on_while_the_orders_of_new_members_are_prepared() -> None:
    membership = Membership(member(0), Timing(), random.Random(1))
    cluster = Cluster(membership, Peers(Caller("me", "me", "0"), no_connection), 600.0)
    gossip = Gossip(cluster, (), lambda changes: None, cast(Any, None), lambda: None)
    others = [member(number) for number in range(1, MANY)]
    turns, group = [0], green.Group("turns")

    def take_turns() -> None:
        while True:
            turns[0] += 1
            green.sleep(0)

    group.spawn("turns", take_turns)
    try:
        gossip.hear(wire.dump_json(news_to_wire(others[0], others[1:])))
    finally:
        group.close()
    assert turns[0] >= MANY - 1, "once for each"
    assert len(cluster.order(7)) == MANY
