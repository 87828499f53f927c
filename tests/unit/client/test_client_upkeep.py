"""The client's verbs for looking after a cluster: what they ask, what they answer, what they make of wrong answers."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfs import CID, Client, errors
from p2pfs.client import parsing, reports
from p2pfs.core import wire
from tests.unit.client import fake_upkeep
from tests.unit.client.fake_node import FakeNode, Talk, cid_of

MIB = 1024 * 1024


def test_a_removed_pin_is_restored_once(node: FakeNode, client: Client) -> None:
    cid = node.keep(b"precious", "name")
    client.remove("name")
    assert client.restore("name") == [(CID.parse(cid), "name")]
    assert node.pinned == {"name": cid}
    with pytest.raises(errors.NotFound):
        client.restore(CID.parse(cid))


def test_an_audit_is_waited_for_or_not(node: FakeNode, client: Client) -> None:
    node.ends["AUDIT"]["unreadable"] = [cid_of(b"x")]
    begun = client.audit()
    assert (node.options, begun.is_done) == ({"wait": False}, False)
    steps: list[reports.AuditStep] = []
    audited = client.audit(wait=True, progress=steps.append)
    assert node.options == {"wait": True}
    assert (audited.fetched_blocks, audited.unreadable, audited.is_done) == (12, [CID.parse(cid_of(b"x"))], True)
    assert [step.phase for step in steps] == ["walk", "repair"]
    assert steps[1].left_bytes == 3 * MIB


def test_a_scrub_a_collection_and_a_drain_tell_how_far_they_are(node: FakeNode, client: Client) -> None:
    steps: list[Any] = []
    assert client.scrub(wait=True, progress=steps.append).healed_blocks == 2
    assert client.gc(dry_run=True, progress=steps.append).dry_run
    assert node.options == {"dry_run": True}
    assert client.drain(wait=True, progress=steps.append).is_drained
    assert [type(step) for step in steps] == [
        reports.ScrubStep, reports.AuditStep, reports.DrainStep, reports.DrainStep,
    ]
    assert client.gc().collected_blocks == 5
    assert client.drain(cancel=True).is_draining
    assert node.options == {"wait": False, "cancel": True}
    assert client.forget("b") == ("b" * 32, "b")
    assert node.requests[-1] == ("FORGET", "b")


def test_a_refusal_after_some_steps_leaves_the_connection_in_use(node: FakeNode, client: Client) -> None:
    def refuse(talk: Talk, line: wire.Line) -> None:
        talk.body(line.length)
        talk.part(fake_upkeep.STEPS["DRAIN"][0])
        raise errors.TooFewNodes("the others could hold 1 copy of 2")

    node.hooks["DRAIN"] = refuse
    with pytest.raises(errors.TooFewNodes, match="1 copy of 2"):
        client.drain(wait=True)
    assert client.status().verdict == "healthy"
    assert node.connections == 1


def test_the_status_of_nodes_with_and_without_an_audit(node: FakeNode, client: Client) -> None:
    found = client.status()
    assert found.health is not None
    assert found.health.live_blocks == 100
    assert found.audit is not None
    assert found.audit.last_end == 1700000000
    assert found.members == {"alive": 3}
    assert parsing.plain(found) == node.status
    node.status = dict(fake_upkeep.STATUS)
    assert (client.status().health, client.status().left_bytes) == (None, None)


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("verdict",), 1), (("reasons",), "x"), (("members",), {"alive": "3"}), (("members",), []), (("pins",), True),
        (("health",), {"live_blocks": "many"}), (("lost_pins",), [{"cid": "bafy"}]), (("audit", "last_end"), "now"),
        (("audit", "unreadable"), [1]), (("scrub", "bytes"), 1.5), (("scrub", "is_running"), 0),
    ],
)
def test_a_status_of_another_form_is_refused(
    node: FakeNode, client: Client, where: tuple[str, ...], wrong: Any
) -> None:
    inner = node.status
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = wrong
    with pytest.raises(errors.ProtocolError):
        client.status()


ROWS: list[tuple[Any, dict[str, Any]]] = [
    (reports.AuditStep, fake_upkeep.STEPS["AUDIT"][0]), (reports.Audited, fake_upkeep.ENDS["AUDIT"]),
    (reports.ScrubStep, fake_upkeep.STEPS["SCRUB"][0]), (reports.Scrubbed, fake_upkeep.ENDS["SCRUB"]),
    (reports.Collected, fake_upkeep.ENDS["GC"]), (reports.DrainStep, fake_upkeep.STEPS["DRAIN"][0]),
    (reports.Drained, fake_upkeep.ENDS["DRAIN"]), (reports.Forgotten, fake_upkeep.ENDS["FORGET"]),
    (reports.Invited, fake_upkeep.ENDS["INVITE"]),
    (reports.Status, fake_upkeep.STATUS),
]


@pytest.mark.parametrize(("shape", "row"), ROWS)
def test_a_report_is_whole_and_of_the_right_types_or_refused(shape: Any, row: dict[str, Any]) -> None:
    parsed = parsing.parse(shape, row | {"later": 1})
    assert parsing.plain(parsed).items() >= {key: row[key] for key in row if key in shape._fields}.items()
    for key in set(shape._fields) - set(shape._field_defaults):
        with pytest.raises(errors.ProtocolError, match=key):
            parsing.parse(shape, {name: value for name, value in row.items() if name != key})
        for wrong in (None, {"x": None}, ["x", None]):
            with pytest.raises(errors.ProtocolError):
                parsing.parse(shape, row | {key: wrong})
