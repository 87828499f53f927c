"""The transcript of docs/PROTOCOL.md, played against a real node."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kit.cluster import Cluster

PROTOCOL = Path(__file__).parents[2] / "docs" / "PROTOCOL.md"
WAIT_S = 60.0
PLACEHOLDERS = {
    "<node id>": "[a-z2-7]{32}", "<instance>": "[0-9a-f]{16}", "<milliseconds>": "[0-9]{13}", "<seconds>": "[0-9]{10}",
    "<length>": "[0-9]+", "<text>": "[ -~]+",
}


class Step(NamedTuple):
    """One line, or one body, or the end of the connection."""

    who: str
    kind: str
    """`:` a line, `|` a body, ` ` it closes the connection."""
    text: str
    number: int
    """Where in the document."""


def steps() -> Iterator[Step]:
    """The transcript; the lines of one body are one step."""
    before, _, rest = PROTOCOL.read_text().partition("\n## 9. Transcript\n")
    prose, _, block = rest.partition("```\n")
    first = (before + prose).count("\n") + 3
    body: Step | None = None
    for number, line in enumerate(block.partition("```")[0].splitlines(), first):
        match = re.fullmatch(r"([CS])(?:([:|]) (.*)|( closes))", line)
        assert match or not line or line.startswith("# "), f"line {number}: {line}"
        if body and (match is None or match[2] != "|"):
            yield body
            body = None
        if match is None:
            continue
        if match[2] == "|":
            text = match[3].replace("\\n", "\n")
            body = body._replace(text=body.text + text) if body else Step(match[1], "|", text, number)
        else:
            yield Step(match[1], match[2] or " ", match[3] or "", number)


class Talk:
    """One connection to the control socket after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(WAIT_S)
        self._sock.connect(str(self._path))
        self._file = self._sock.makefile("rb")

    def send(self, step: Step) -> None:
        self._sock.sendall(step.text.encode() + (b"\r\n" if step.kind == ":" else b""))

    def read_line(self) -> str:
        while True:
            line = self._file.readline().decode()
            assert line == "" or line.endswith("\r\n")
            # Progress comes when time has passed, so it has no place in a transcript.
            if not line.startswith("PART ") or not self._file.peek().startswith(b'{"bytes":'):
                return line.removesuffix("\r\n")
            self.read_body(line)

    def read_body(self, line: str) -> str:
        return self._file.read(int(line.split()[1])).decode()

    def expect_end(self) -> None:
        assert self._file.read() == b""
        self.close()
        self._open()

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def pattern(text: str) -> str:
    escaped = re.escape(text)
    for name, what in PLACEHOLDERS.items():
        escaped = escaped.replace(re.escape(name), what)
    return escaped


def play(path: Path) -> None:
    talk, line = Talk(path), ""
    try:
        for step in steps():
            where = f"line {step.number}"
            if step.who == "C":
                talk.send(step)
            elif step.kind == " ":
                talk.expect_end()
            elif step.kind == ":":
                line = talk.read_line()
                assert re.fullmatch(pattern(step.text), line), f"{where}: not {step.text!r} but {line!r}"
            else:
                body = talk.read_body(line)
                assert re.fullmatch(pattern(step.text), body), f"{where}: not {step.text!r} but {body!r}"
    finally:
        talk.close()


def test_the_transcript_is_what_a_node_says(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, cluster__replicas="1", cluster__write_quorum="1") as cluster:
        play(cluster[0].control)


def test_the_transcript_shows_both_sides() -> None:
    said = [step.text.split(" ")[0] for step in steps() if step.kind == ":"]
    assert {"HELLO", "STORE", "READ", "LIST", "STAT", "PINS", "EXPLAIN", "UNPIN", "OK", "PART", "ERR"} <= set(said)
    assert {step.kind for step in steps()} == {":", "|", " "}


@pytest.mark.parametrize("text", ["<seconds>", "OK <length>", "a.b"])
def test_placeholders_are_strict(text: str) -> None:
    assert not re.fullmatch(pattern(text), text.replace(".", "x"))
