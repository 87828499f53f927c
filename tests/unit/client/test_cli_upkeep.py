"""The verbs for looking after a cluster, as a person, a pipe and a script see them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.cli import health, main
from p2pfs.cli.output import Output, Step
from p2pfs.cli.upkeep import audit_steps
from p2pfs.client import Client
from p2pfs.client.reports import AuditStep
from p2pfs.core import wire
from tests.unit.client import fake_upkeep
from tests.unit.client.fake_node import FakeNode, Talk, cid_of
from tests.unit.client.runner import Runner, on_terminal

MIB = 1024 * 1024
CID = cid_of(b"x")


@pytest.fixture
def cli(node: FakeNode, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command line here: (exit code, standard output, standard error)."""
    def cli(*args: str) -> tuple[int, str, str]:
        code = main([f"--node={node.address}", *args])
        return code, *capfd.readouterr()

    return cli


# --- what was done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("audit", "the audit has begun; p2pfs-cli status shows how far it is\n"),
        ("audit --wait", "compared 2 pins, 100 blocks (100 MiB), in 2.5 s\nfetched 12 blocks (12.0 MiB), "
         "gave up 3 blocks (3.00 MiB), collected 0 blocks; 0 blocks missing\n"),
        ("scrub", "the scrub has begun; p2pfs-cli status shows how far it is\n"),
        ("scrub --wait", "verified 40 blocks (40.0 MiB) in 3.0 s: 2 bad, 2 of them healed\n"),
        ("gc", "collected 5 blocks (5.00 MiB); 1 block (1.00 MiB) unwanted and waiting for the end of their grace\n"),
        ("gc --dry-run", "would collect 5 blocks (5.00 MiB); 1 block (1.00 MiB) unwanted "
         "and waiting for the end of their grace\n"),
        ("drain --wait", "drained: the others have all that was here; this node can be stopped\n"),
        ("forget b", f"b {'b' * 12} is forgotten\n"),
        ("invite", "p2pfs-join-abc\n"),
    ],
)
def test_a_line_tells_what_was_done(cli: Any, args: str, text: str) -> None:
    assert cli(*args.split()) == (0, text, "")


def test_what_was_removed_is_restored(node: FakeNode, cli: Any) -> None:
    cid = node.keep(b"x", "name")
    assert cli("rm", "name")[0] == 0
    assert cli("restore", "name") == (0, f"{cid}  name\n", "")
    assert node.pinned == {"name": cid}
    code, output, _ = cli("restore", "name")
    assert (code, output) == (errors.NotFound.exit_code, "")


@pytest.mark.parametrize(
    ("verb", "args", "answer", "code", "says"),
    [
        ("AUDIT", "audit --wait", {"missing_blocks": 2, "missing_bytes": MIB}, 1, "2 blocks (1.00 MiB)"),
        ("AUDIT", "audit --wait", {"unreadable": [CID]}, 1, f"p2pfs-cli explain {CID}"),
        ("AUDIT", "audit --wait", {"held_up": "b: away"}, 0, ""),
        ("AUDIT", "audit", {"missing_blocks": 2}, 0, ""),
        ("SCRUB", "scrub --wait", {"healed_blocks": 1}, 1, "1 of 2 bad not healed"),
        ("SCRUB", "scrub", {"healed_blocks": 1}, 0, ""),
        ("GC", "gc", {"held_up": "b: away"}, 1, "held up: b: away"),
        ("GC", "gc --dry-run", {"held_up": "b: away"}, 0, "held up: b: away"),
        ("DRAIN", "drain --wait", {"is_drained": False, "left_blocks": 2}, 1, ""),
        ("DRAIN", "drain --wait", {"is_drained": False, "is_draining": False}, 1, ""),
        ("DRAIN", "drain", {"is_drained": False, "left_blocks": 2}, 0, ""),
        ("DRAIN", "drain --wait", {"is_draining": False}, 1, ""),
        ("DRAIN", "drain --cancel", {"is_drained": False, "is_draining": False}, 0, ""),
    ],
)
def test_what_is_wrong_is_the_exit_code_and_said_where_pipes_do_not_lose_it(
    node: FakeNode, cli: Any, verb: str, args: str, answer: dict[str, Any], code: int, says: str
) -> None:
    node.ends[verb] |= answer
    found, _, messages = cli(*args.split())
    assert found == code
    assert says in messages if says else messages == ""
    assert cli("-q", *args.split())[2] == messages, "an exit code has its reason, however quiet"
    found, output, _ = cli("--json", *args.split())
    assert found == code
    row = json.loads(output)
    assert row.items() >= answer.items()
    assert "of a later version" not in row


def test_the_state_of_a_drain_is_told(node: FakeNode, cli: Any) -> None:
    node.ends["DRAIN"] |= {"is_drained": False, "left_blocks": 2, "left_bytes": 2 * MIB}
    assert cli("drain")[1].startswith("draining: 2 blocks (2.00 MiB) left; ")
    assert node.options == {"wait": False, "cancel": False}
    node.ends["DRAIN"] |= {"is_draining": False}
    assert cli("drain", "--cancel")[1] == "not draining: this node keeps its shards\n"
    assert node.options == {"wait": False, "cancel": True}


@pytest.mark.parametrize("cls", [errors.TooFewNodes, errors.Refused, errors.NotFound])
def test_a_refusal_is_its_exit_code(node: FakeNode, cli: Any, cls: type[errors.P2pfsError]) -> None:
    def refuse(talk: Talk, line: wire.Line) -> None:
        talk.body(line.length)
        raise cls("it would become too small")

    node.hooks["DRAIN"] = node.hooks["FORGET"] = refuse
    for args in (["drain", "--wait"], ["forget", "b"]):
        code, output, messages = cli(*args)
        assert (code, output) == (cls.exit_code, "")
        assert messages == "p2pfs-cli: error: it would become too small\n"


@pytest.mark.parametrize("args", [["drain", "--wait", "--cancel"], ["gc", "--wait"], ["forget"], ["audit", "x"]])
def test_misuse_is_explained(cli: Any, args: list[str]) -> None:
    code, _, messages = cli(*args)
    assert code == 2
    assert f"usage: p2pfs-cli [options] {args[0]}" in messages


# --- status ----------------------------------------------------------------------------------------------


def test_a_healthy_cluster_is_told_in_few_lines(node: FakeNode, cli: Any) -> None:
    code, output, messages = cli("status")
    assert (code, messages) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "healthy"
    assert [line.split()[0] for line in lines[1:]] == [
        "blocks", "copies", "pins", "audit", "scrub", "space", "members", "node",
    ]
    assert lines[1] == "blocks      100 blocks (100 MiB) live, all with their copies"


def lines_of(node: FakeNode, now: float = 1700000060.0) -> list[str]:
    with Client(node.address) as client:
        return list(health.lines(client.status(), now))


def test_what_is_lost_at_risk_and_under_way_is_told(node: FakeNode) -> None:
    node.status |= {
        "verdict": "lost", "reasons": ["a", "b"], "left_bytes": 3 * MIB, "time_to_go_s": 125.0, "quarantined": 2,
        "lost_pins": [{"cid": CID, "name": name, "blocks": 1, "bytes": MIB} for name in ("photos", "")],
        "is_draining": True, "is_counted": False,
    }
    node.status["health"] |= {
        "below_blocks": 6, "below_bytes": 6 * MIB, "single_blocks": 2, "single_bytes": 2 * MIB, "lost_blocks": 1,
        "lost_bytes": MIB,
    }
    node.status["audit"] |= {
        "is_running": True, "phase": "compare", "done": 12, "total": 256, "held_up": "b: away", "is_current": False,
        "unreadable": [CID],
    }
    node.status["scrub"] |= {"bad_blocks": 1}
    lines = lines_of(node)
    assert lines[:3] == ["lost", "  a", "  b"]
    for line in (
        "blocks      100 blocks (100 MiB) live: 1 block (1.00 MiB) lost, 2 blocks (2.00 MiB) with a single copy, "
        "6 blocks (6.00 MiB) below their copies in all",
        "left        3.00 MiB to copy or move, 2 m 5 s to go",
        f"lost        {CID}  photos: 1 block (1.00 MiB)",
        f"lost        {CID}  (no name): 1 block (1.00 MiB)",
        "audit       compare, 12 of 256; the last pass ended 1 m ago and took 2.5 s; not through with the last change",
        "gc          held up: b: away",
        f"unreadable  {CID}: below it a branch cannot be read; p2pfs-cli explain {CID}",
        "scrub       every block verified within 3 d (wanted: 30 d); under way, 10 blocks (10.0 MiB) since the start, "
        "1 bad",
        "space       90 blocks (90.0 MiB) here, 1000 MiB free; not all counted yet",
        "quarantine  files of bad blocks: 2",
    ):
        assert line in lines
    assert any(line.startswith("drain ") for line in lines)


def test_what_nobody_knows_is_not_made_up(node: FakeNode) -> None:
    node.status |= {"left_bytes": MIB, "time_to_go_s": None}
    node.status["audit"] |= {"last_end": None, "last_s": None}
    node.status["scrub"] |= {"oldest_s": None, "is_running": False}
    lines = lines_of(node)
    assert "left        1.00 MiB to copy or move, nobody can know how long" in lines
    assert "audit       idle; no pass is through yet" in lines
    assert any(line.startswith("scrub       not every block was verified yet") for line in lines)
    node.status = dict(fake_upkeep.STATUS)
    assert not {line.split()[0] for line in lines_of(node)} & {"blocks", "left", "audit", "scrub"}


def test_many_lost_pins_are_counted(node: FakeNode, cli: Any) -> None:
    node.status["lost_pins"] = [{"cid": CID, "name": str(i), "blocks": 1, "bytes": 1} for i in range(50)]
    lines = lines_of(node)
    assert sum(line.startswith("lost ") for line in lines) == health.MOST_LOST + 1
    assert "lost        and 30 more pins; --json names them" in lines
    assert len(json.loads(cli("--json", "status")[1])["lost_pins"]) == 50


def test_repair_is_shown_from_where_it_was_when_the_request_came() -> None:
    step_of = audit_steps()
    assert step_of(AuditStep("walk", 1, 2, 900, 0)) == Step("walk", 1, 2, "")
    assert step_of(AuditStep("repair", 0, 0, 920, 80)) == Step("repair", 20, 100)


# --- progress --------------------------------------------------------------------------------------------


def test_each_phase_has_its_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("p2pfs.cli.output.PROGRESS_AFTER_S", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("os.get_terminal_size", lambda fd: (0, 0))
    with Output(is_json=False, is_quiet=False).steps(lambda step: step) as show:
        assert show is not None
        for step in (Step("walk", 1, 2, ""), Step("repair", MIB, 4 * MIB), Step("repair", 2 * MIB, 4 * MIB)):
            show(step)
    seen = capfd.readouterr().err
    assert "| 0/2 [" in seen.partition("repair")[0]
    assert "/4.00M [" in seen.partition("repair")[2]


def test_progress_on_a_terminal_only(run: Runner, node: FakeNode) -> None:
    def slow(talk: Talk, line: wire.Line) -> None:
        talk.body(line.length)
        for done in range(1, 8):
            talk.part({"done": 512 * done, "total": 4096, "blocks": done, "bytes": done * MIB, "bad_blocks": 0})
            threading.Event().wait(0.1)
        talk.ok(node.ends["SCRUB"])

    node.hooks["SCRUB"] = slow
    code, seen, output = on_terminal(run, "scrub", "--wait")
    assert (code, output[:18]) == (0, b"verified 40 blocks")
    assert "scrub: " in seen
    assert "/8.00M" in seen, "what is to come is guessed from the shards that are done"
    assert "B/s" in seen
    assert run("scrub", "--wait").stderr == b""


@pytest.mark.parametrize(("words", "options"), [
    ("", {"lasts_s": 3600.0, "once": False}), ("--once", {"lasts_s": 3600.0, "once": True}),
    ("--expires=10m", {"lasts_s": 600.0, "once": False}), ("--expires 2d --once", {"lasts_s": 172800.0, "once": True}),
])
def test_what_an_invitation_is_asked_for(node: FakeNode, cli: Any, words: str, options: dict[str, Any]) -> None:
    assert cli("invite", *words.split())[0] == 0
    assert node.options == options


def test_a_person_is_told_whom_the_token_lets_in_and_standard_output_has_the_token_alone(run: Runner) -> None:
    code, seen, output = on_terminal(run, "invite")
    assert (code, output) == (0, b"p2pfs-join-abc\n")
    assert "lets one machine join for" in seen
    assert "only on this machine" in seen


def test_a_time_that_is_none_is_a_misuse(cli: Any) -> None:
    code, output, said = cli("invite", "--expires=soon")
    assert (code, output) == (2, "")
    assert "--expires" in said
