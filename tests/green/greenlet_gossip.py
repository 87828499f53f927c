"""A node that hears of very many members at once goes on with everything else meanwhile."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import errors, green
from p2pfs.core import hlc, wire
from p2pfs.core.member import MAX_INCARNATION, MAX_NEWS, MAX_ROWS, Member, news_to_wire
from p2pfs.core.membership import Membership, Timing
from p2pfs.node import doubles, member_verbs
from p2pfs.node.cluster import Cluster
from p2pfs.node.gossip import SLICE, Gossip
from p2pfs.node.hello import Caller
from p2pfs.node.peers import Peers


def no_connection() -> ssl.SSLContext:
    raise AssertionError("no connection is made")


def member(number: int) -> Member:
    return Member(f"gossip-{number}", f"node-{number}", (f"127.0.0.1:{number + 1}",), "alive", 1)


@pytest.fixture
def gossip() -> Iterator[Gossip]:
    membership = Membership(member(0), Timing(), random.Random(1))
    made = Gossip(
        Cluster(membership, Peers(Caller("gossip-0", "me", "0" * 16), no_connection), 600.0), (), lambda changes: None,
        cast(Any, None), lambda: None,
    )
    yield made
    made.stop()


def news(sender: Member, *rows: Member) -> bytes:
    return wire.dump_json(news_to_wire(sender, rows))


def test_the_hub_goes_on_while_a_whole_table_is_heard(gossip: Gossip) -> None:
    others = [member(number) for number in range(1, MAX_ROWS + 1)]
    turns, group = [0], green.Group("turns")

    def take_turns() -> None:
        while True:
            turns[0] += 1
            green.sleep(0)

    group.spawn("turns", take_turns)
    try:
        gossip.hear_all(news(others[0], *others[1:]), others[0].id)
    finally:
        group.close()
    assert turns[0] >= MAX_ROWS // SLICE, "once for each slice"
    assert [row.id for row in gossip.cluster.membership.members()] == ["gossip-0", "gossip-1"]


def test_who_speaks_as_somebody_else_is_not_heard(gossip: Gossip) -> None:
    with pytest.raises(errors.IdentityRefused, match="gossip-1 speaks as gossip-2"):
        gossip.hear(news(member(2)), "gossip-1")
    assert gossip.cluster.size == 1


def test_a_ping_has_few_rows(gossip: Gossip) -> None:
    rows = [member(number) for number in range(2, MAX_NEWS + 3)]
    with pytest.raises(errors.ProtocolError, match=f"at most {MAX_NEWS} rows"):
        gossip.hear(news(member(1), *rows), "gossip-1")
    gossip.hear(news(member(1), *rows[:-1]), "gossip-1")


def test_an_incarnation_of_the_far_future_outranks_nobody(gossip: Gossip, caplog: pytest.LogCaptureFixture) -> None:
    now_ms = int(time.time() * 1000)
    good = member(1)._replace(incarnation=now_ms)
    gossip.hear(news(good), good.id)
    for incarnation in (now_ms + 2 * hlc.MAX_AHEAD_MS, MAX_INCARNATION):
        bad = good._replace(state="dead", incarnation=incarnation)
        me = member(0)._replace(state="dead", incarnation=incarnation)
        gossip.hear(news(member(2), bad, me), "gossip-2")
    assert gossip.cluster.membership.get(good.id) == good
    assert gossip.cluster.membership.me == member(0)
    assert caplog.text.count("over a day in the future") == 1


def test_an_identity_at_thousands_of_addresses_is_looked_for_at_few_at_once(gossip: Gossip) -> None:
    twins = [member(0)._replace(addresses=(f"127.0.0.1:{port}",)) for port in range(2000, 2000 + MAX_ROWS)]
    gossip.hear_all(news(member(1), *twins), "gossip-1")
    assert len(gossip._group) <= doubles.AT_ONCE


@pytest.mark.parametrize("fault", [
    errors.DeadlinePassed, errors.Unreachable, errors.IdentityRefused, errors.ProtocolError, errors.Busy,
])
def test_what_is_wrong_with_a_member_that_is_probed_for_another_one_is_not_the_helpers_fault(
    fault: type[errors.P2pfsError]
) -> None:
    """Any other answer than NOT_FOUND ends the connection, and the helper would be avoided for it."""
    def ping(peer: object, timeout_s: float) -> float:
        raise fault("rubbish")

    services = SimpleNamespace(
        cluster=SimpleNamespace(peer=lambda id: id, membership=SimpleNamespace(probe_timeout_s=1.0)),
        gossip=SimpleNamespace(ping=ping),
    )
    with pytest.raises(errors.NotFound, match="no answer: rubbish"):
        member_verbs.pingreq(cast(Any, services), cast(Any, None), cast(Any, SimpleNamespace(args=("n1",))))


def test_a_helper_whose_node_is_gone_says_nothing_of_our_own_health_and_one_that_hangs_does(
    gossip: Gossip, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    monkeypatch.setattr(gossip.cluster.peers, "_context", lambda: context)
    with socket.socket() as taken, socket.socket() as hangs:
        for sock in (taken, hangs):
            sock.bind(("127.0.0.1", 0))
        hangs.listen()
        for number, (sock, fault) in enumerate(((taken, 0), (hangs, 1)), 1):
            helper = member(number)._replace(addresses=(f"127.0.0.1:{sock.getsockname()[1]}",))
            gossip.cluster.membership.merge(float(number), [helper], helper.id)
            assert gossip._ask_helper(helper, "gossip-9") is (None if fault else False)
