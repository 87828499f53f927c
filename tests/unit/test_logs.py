"""Log lines: one record a line whatever it holds, with its extras, for people, programs and the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import logs

log = logging.getLogger("p2pfs.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_text_line() -> None:
    stream = io.StringIO()
    logs.set_up("info", "text", stream)
    log.debug("not this")
    log.warning("member %s is dead", "b", extra={"id": "ab12", "why": "no answer", "empty": ""})
    line = stream.getvalue()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(time + r' warning p2pfs\.test: member b is dead id=ab12 why="no answer" empty=""\n', line)


def test_json_line() -> None:
    stream = io.StringIO()
    logs.set_up("debug", "json", stream)
    try:
        raise OSError("disk on fire")
    except OSError:
        log.exception("worker %s failed", "x\ny", extra={"path": Path("/a"), "level": 3})
    fields = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert "disk on fire" in fields.pop("exception")
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "error", "logger": "p2pfs.test", "message": "worker x\ny failed", "path": "/a", "level_": 3,
    }


def test_set_up_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("info", "text", first)
    logs.set_up("error", "json", second)
    log.warning("nobody")
    log.error("one")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "one"


def test_traceback_is_indented() -> None:
    stream = io.StringIO()
    logs.set_up("info", "text", stream)
    try:
        raise OSError("first\n2025-01-31T12:00:00.000Z info p2pfs: \x1b[2Jforged")
    except OSError:
        log.exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert others
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in stream.getvalue()


def test_journal_adds_the_time_itself(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        logs.set_up("info", "text", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log.info("a")
        log.error("b")
        # Inherited from a parent whose standard error went elsewhere: not ours.
        logs.set_up("info", "text", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        log.info("c")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[:2] == ["<6>p2pfs.test: a", "<3>p2pfs.test: b"]
    assert lines[2].endswith("Z info p2pfs.test: c")


@given(st.text(), st.text())
def test_any_message_is_one_line(message: str, extra: str) -> None:
    record = logging.makeLogRecord({"name": "n", "msg": "%s", "args": (message,), "extra": extra})
    for formatter in (logs.TextFormatter(), logs.JsonFormatter()):
        line = formatter.format(record)
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line
