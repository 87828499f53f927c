"""The grammar: what is formatted parses to the same, and any bytes parse or raise the one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID

WORDS: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers(0, 10**20 - 1),
    "number or -": st.none() | st.integers(0, 10**20 - 1),
    "text": st.binary(max_size=80).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    "name": st.binary(max_size=80),
    "CID": st.builds(
        CID, st.sampled_from([0x55, 0x70]),
        st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest), st.just(1),
    ),
    "check|renew": st.sampled_from(["check", "renew"]),
}
ROWS = [*wire.VERBS.values(), *wire.RECORDS.values()]


@st.composite
def lines(draw: st.DrawFn) -> tuple[wire.Verb, list[Any], int]:
    verb = draw(st.sampled_from(ROWS))
    args = [draw(WORDS[kind.name]) for _, kind in verb.args]
    return verb, args, draw(st.integers(0, verb.max_body or 0))


@given(lines())
def test_lines_come_back(line: tuple[wire.Verb, list[Any], int]) -> None:
    verb, args, length = line
    data = wire.format_line(verb, *args, length=None if verb.max_body is None else length)
    parse = wire.parse_record if verb in wire.RECORDS.values() else wire.parse_request
    assert parse(data) == wire.Line(verb, tuple(args), length)
    assert data.endswith(b"\r\n")
    assert data[:-2].isascii() and data[:-2].decode().isprintable()


def refusal(parse: Callable[..., Any], *args: Any) -> errors.P2pfsError | None:
    """The error of ours that parsing raised, if any; any other fails the test."""
    try:
        parse(*args)
    except errors.P2pfsError as error:
        return error
    return None


SHAPED = st.builds(
    lambda name, words, end: b" ".join([name, *words]) + end,
    st.sampled_from([verb.name.encode() for verb in ROWS]),
    st.lists(st.binary(max_size=12) | st.sampled_from([b"-1", b"0", b"9" * 11, b"-", b"%", b"%zz"]), max_size=4),
    st.sampled_from([b"", b"\n", b"\r\n"]),
)


@given(st.binary(max_size=200) | SHAPED)
def test_any_bytes_are_a_line_or_a_protocol_error(data: bytes) -> None:
    for parse in (wire.parse_request, wire.parse_record):
        error = refusal(parse, data)
        if error is None:
            line = parse(data)
            assert 0 <= line.length <= (line.verb.max_body or 0)
        else:
            assert isinstance(error, errors.ProtocolError) and str(error) and error.is_fatal


@given(st.binary(max_size=200) | SHAPED | st.binary(max_size=40).map(lambda tail: b"ERR " + tail))
def test_any_bytes_are_a_reply_or_an_error_of_ours(data: bytes) -> None:
    error = refusal(wire.parse_reply, data)
    if error is None:
        assert wire.parse_reply(data).length <= wire.MAX_BLOCK
    else:
        assert data.startswith(b"ERR ") or isinstance(error, errors.ProtocolError)


@given(st.binary(max_size=100) | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'"\\ud800"']))
def test_any_bytes_are_json_or_a_protocol_error(data: bytes) -> None:
    for shape in (dict, list):
        error = refusal(wire.parse_json, data, shape)
        if error is None:
            assert isinstance(wire.parse_json(data, shape), shape)
        else:
            assert isinstance(error, errors.ProtocolError) and len(str(error)) < 200


@pytest.mark.parametrize("body", [
    b"[NaN]", b"[Infinity]", b"[1e999]", b"[-Infinity]", "[1]".encode("utf-16"), b"\xef\xbb\xbf[1]", b"[1]x", b"",
])
def test_what_only_python_takes_is_no_json(body: bytes) -> None:
    with pytest.raises(errors.ProtocolError, match="no JSON"):
        wire.parse_json(body, list)


@given(st.sampled_from(sorted(errors.BY_TOKEN)), st.text(max_size=300))
def test_errors_come_back(token: str, message: str) -> None:
    line = wire.format_error(errors.BY_TOKEN[token](message))
    assert len(line) <= wire.MAX_LINE
    assert line.count(b"\n") == 1
    with pytest.raises(errors.BY_TOKEN[token]) as caught:
        wire.parse_reply(line)
    assert caught.value.token == token
    assert str(caught.value) == message.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("begin", ["", "x", "xx", "xxx", "xxxx", "xxxxx"])
def test_a_long_error_is_cut_to_a_line(begin: str) -> None:
    line = wire.format_error(errors.NotFound(begin + "ä" * 10_000))
    assert wire.MAX_LINE - 2 <= len(line) <= wire.MAX_LINE
    with pytest.raises(errors.NotFound, match=f"^{begin}ä+\ufffd?$"):
        wire.parse_reply(line)


def test_an_unknown_token_is_an_internal_error() -> None:
    with pytest.raises(errors.InternalError, match="NEW_ONE: from a later version"):
        wire.parse_reply(b"ERR NEW_ONE from a later version\r\n")


def test_replies() -> None:
    assert wire.parse_reply(wire.format_ok(7)) == wire.Reply(True, 7)
    assert wire.parse_reply(wire.format_part(0)) == wire.Reply(False, 0)
    with pytest.raises(errors.TooBig):
        wire.parse_reply(wire.format_ok(101), max_body=100)
    with pytest.raises(errors.TooBig):
        wire.parse_reply(wire.format_part(wire.MAX_PART + 1))


def test_an_argument_that_is_too_long_is_a_usage_error() -> None:
    with pytest.raises(errors.UsageError, match="STAT"):
        wire.format_line(wire.VERBS["STAT"], "x" * wire.MAX_LINE)


def test_half_a_character_is_a_usage_error() -> None:
    with pytest.raises(errors.UsageError, match="half of a character"):
        wire.format_line(wire.VERBS["STAT"], "\ud800")


@pytest.mark.parametrize("line", [b"STATUS\r\r\n", b"STATUS\n\n", b"STATUS\n\r\n", b"STATUS \r\n", b" STATUS\r\n"])
def test_a_line_has_one_end_and_no_space_around(line: bytes) -> None:
    assert wire.parse_request(b"STATUS") == wire.parse_request(b"STATUS\n") == wire.parse_request(b"STATUS\r\n")
    with pytest.raises(errors.ProtocolError):
        wire.parse_request(line)
