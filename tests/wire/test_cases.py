"""Requests as bytes, from the files of valid/ and invalid/, however the network cuts them.

A case is a file NAME.txt with what a client sends and NAME.expect: for valid ones a JSON list of verb, arguments and
body for each request, for invalid ones the token of the error. A bug report becomes two files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID
from p2pfs.net.stream import Stream
from tests.sockets import Script

FOLDER = Path(__file__).parent
VALID = sorted((FOLDER / "valid").glob("*.txt"))
INVALID = sorted((FOLDER / "invalid").glob("*.txt"))


def understood(data: bytes, cuts: list[int]) -> Iterator[list[Any]]:
    stream = Stream(Script(data, cuts), "script")  # type: ignore[arg-type]
    while text := stream.read_line(10.0):
        line = wire.parse_request(text)
        args = [str(arg) if isinstance(arg, CID) else arg for arg in line.args]
        yield [line.verb.name, args, stream.read_body(line.length).decode("ascii")]


def ways_to_cut(data: bytes) -> Iterator[list[int]]:
    whole = max(1, len(data))
    yield [whole]
    yield [1]
    for offset in range(1, len(data)):
        yield [offset, whole]


def test_there_are_cases() -> None:
    assert len(VALID) > 10
    assert len(INVALID) > 20


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    data = path.read_bytes()
    expected = [json.loads(row) for row in path.with_suffix(".expect").read_text().splitlines()]
    for cuts in ways_to_cut(data):
        assert list(understood(data, cuts)) == expected


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    data = path.read_bytes()
    token = path.with_suffix(".expect").read_text().strip()
    for cuts in ways_to_cut(data):
        with pytest.raises(errors.ProtocolError) as caught:
            list(understood(data, cuts))
        assert caught.value.token == token
        assert str(caught.value)
