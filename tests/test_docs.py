"""What the documents say about the code is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.net.stream import Limits

DOCS = Path(__file__).parents[1] / "docs"


def section(document: str, title: str) -> str:
    """The text under the `##` heading that begins so."""
    text = (DOCS / document).read_text()
    return text.partition(f"\n## {title}")[2].partition("\n## ")[0]


def first_cells(table: str) -> list[str]:
    """What stands as code at the begin of a table's rows."""
    return re.findall(r"^\| `([^`]+)` ", table, re.MULTILINE)


# --- docs/PROTOCOL.md --------------------------------------------------------------------------------

def line_of(verb: wire.Verb) -> str:
    return " ".join([verb.name, *(name for name, _ in verb.args), *(["length"] if verb.max_body is not None else [])])


def test_the_protocol_lists_every_verb_with_its_words() -> None:
    users = [verb for verb in wire.VERBS.values() if verb.is_for_users and verb.name != "HELLO"]
    members = [verb for verb in wire.VERBS.values() if verb not in users]
    assert first_cells(section("PROTOCOL.md", "4.")) == [line_of(verb) for verb in members]
    assert first_cells(section("PROTOCOL.md", "5.")) == [line_of(verb) for verb in users]


def test_the_protocol_lists_every_record() -> None:
    grammar = section("PROTOCOL.md", "6.").split("```")[1]
    for verb in wire.RECORDS.values():
        words = " SP ".join([f'"{verb.name}"', *line_of(verb).split()[1:]])
        assert f"{words} CRLF" in grammar
    assert set(re.findall(r'"([A-Z]+)"', grammar)) == set(wire.RECORDS)


def test_the_protocol_lists_every_error() -> None:
    expected = [
        f"| `{cls.token}` | {cls.exit_code} | {'yes' if cls.is_fatal else ''} | {'yes' if cls.is_retryable else ''} | "
        f"{(cls.__doc__ or '').strip()} |"
        for cls in sorted(errors.BY_TOKEN.values(), key=lambda cls: cls.exit_code)
    ]
    rows = section("PROTOCOL.md", "8.").split("|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert rows.splitlines() == expected


def test_the_protocol_says_the_limits() -> None:
    text = section("PROTOCOL.md", "2.")
    mib = 1024 * 1024
    assert f"at most {wire.MAX_LINE} bytes with its CRLF" in text
    assert f"at most {wire.MAX_LENGTH_DIGITS} digits" in text
    assert f"at most {wire.MAX_MESSAGE // mib} MiB; blocks at most {wire.MAX_BLOCK // mib} MiB" in text
    assert f"a `PART` at most {wire.MAX_PART // mib} MiB" in text


def test_the_protocol_says_the_deadlines() -> None:
    limits = Limits()
    table = section("PROTOCOL.md", "3.")
    seconds = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))
    for what, said in {
        "TLS handshake": f"{limits.handshake_s:g}",
        "the rest of a line once its first byte is there": f"{limits.line_s:g}",
        "a body or reply: any progress at all": f"{limits.progress_s:g}",
        "a body or reply as a whole": f"{limits.body_s:g}, and one more for each {limits.bytes_per_s / 1024:g} KiB",
        "the first byte of an answer to a control verb":
            f"probe timeout (PING, PINGREQ), else {limits.control_answer_s:g}",
        "the first byte of an answer to a bulk verb": f"{limits.bulk_answer_s:g}",
        "between requests": f"{limits.idle_s:g}, then the server closes",
    }.items():
        assert seconds[what] == said
    assert seconds["between the records of a streaming request"].startswith(f"{limits.record_s:g};")
    assert seconds["between the parts of a streaming answer"].startswith(f"{limits.part_s:g};")
