"""What the documents say about the code is what the code does."""

from __future__ import annotations

import configparser
import importlib
import re
import sqlite3
import sys
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge

from p2pfs import daemon, errors, metrics
from p2pfs.cli import usage
from p2pfs.cli.verbs import VERBS
from p2pfs.config.options import ROWS
from p2pfs.core import wire
from p2pfs.core.rights import Right
from p2pfs.crypt import index, keys, links, segments
from p2pfs.net.stream import Limits
from p2pfs.store.catalog import Catalog
from p2pfs.version import VERSION

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RIGHTS = {str(right.name).lower(): right for right in Right}
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


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
    users = [verb for verb in wire.VERBS.values() if Right.MEMBER not in verb.needs and verb.name != "HELLO"]
    members = [verb for verb in wire.VERBS.values() if verb not in users]
    assert first_cells(section("PROTOCOL.md", "4.")) == [line_of(verb) for verb in members]
    assert first_cells(section("PROTOCOL.md", "5.")) == [line_of(verb) for verb in users]


def test_the_protocol_lists_what_each_right_is_for() -> None:
    rows = {right: verbs for right, _, verbs in cells(section("PROTOCOL.md", "1.")) if right in RIGHTS}
    members = [verb.name for verb in wire.VERBS.values() if Right.MEMBER in verb.needs]
    assert first_cells(section("PROTOCOL.md", "4."))[1:] == [line_of(wire.VERBS[name]) for name in members]
    assert rows.pop("member") == "all of section 4 but HELLO"
    assert rows.pop("local") == "FETCH, and the record FD"
    assert [name for name, row in (wire.VERBS | wire.RECORDS).items() if Right.LOCAL in row.needs] == ["FETCH", "FD"]
    for right, verbs in rows.items():
        assert verbs.split(", ") == [row.name for row in wire.VERBS.values() if RIGHTS[right] in row.needs]
    assert set(rows) == {"read", "store", "administer", "join"}


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
        "a body or reply: any progress at all":
            f"{limits.progress_s:g}; {limits.idle_s:g} for what a user's client has to take: its reader may pause",
        "a body or reply as a whole": f"{limits.body_s:g}, and one more for each {limits.bytes_per_s / 1024:g} KiB",
        "the first byte of an answer to a control verb":
            f"probe timeout (PING, PINGREQ), else {limits.control_answer_s:g}",
        "the first byte of an answer to a bulk verb": f"{limits.bulk_answer_s:g}",
        "between requests": f"{limits.idle_s:g}, then the server closes",
    }.items():
        assert seconds[what] == said
    assert seconds["between the records of a streaming request"].startswith(f"{limits.record_s:g};")
    assert seconds["between the parts of a streaming answer"].startswith(f"{limits.part_s:g};")


# --- docs/LIMITS.md ----------------------------------------------------------------------------------

UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024 * 1024, "s": 1, "ms": 1}


def limit_rows() -> list[list[str]]:
    return cells((DOCS / "LIMITS.md").read_text().partition("\n## What attacks cost others")[0])


def limit_in_the_code(place: str) -> object:
    """What an option, or a constant by its module and name, is."""
    option = re.fullmatch(r"`\[(\w+)\] (\w+)`", place)
    if option:
        row = ROWS[f"{option[1]}.{option[2]}"]
        return row.kind.parse(row.default)
    module, name, *field = place.strip("`").split(".")
    found = getattr(importlib.import_module("p2pfs." + module.replace("/", ".")), name)
    return found._field_defaults[field[0]] if field else found


def test_limits_are_those_of_the_code() -> None:
    compared = 0
    for what, limit, place, _, _ in limit_rows():
        if place.startswith("`"):
            number, _, unit = limit.partition(" ")
            assert limit_in_the_code(place) == int(number) * UNITS[unit], what
            compared += 1
    assert compared > 50


def test_every_limit_has_a_test_that_exists() -> None:
    for what, _, _, _, test in limit_rows():
        assert exists(test.strip("`")), what


def exists(test: str) -> bool:
    """For `path::name`."""
    path, _, name = test.partition("::")
    return f"\ndef {name}(" in (ROOT / path).read_text()


def test_every_threat_names_its_tests() -> None:
    rows = cells(section("SECURITY.md", "Threats"))
    assert len(rows) > 40
    for threat, _, tests in rows:
        found = re.findall(r"`([^`]+)`", tests)
        assert found and all(map(exists, found)), threat


def test_the_tokens_of_limits_are_tokens() -> None:
    for _, _, _, beyond, _ in limit_rows():
        for token in re.findall(r"`([A-Z_]+)`", beyond):
            assert token in errors.BY_TOKEN


def test_the_limits_name_every_reason_to_close_a_connection() -> None:
    source = (ROOT / "p2pfs" / "net" / "doorman.py").read_text() + (ROOT / "p2pfs" / "net" / "server.py").read_text()
    reasons = set(re.findall(r'(?:refuse|_Room)\("(\w+)"', source))
    said = " ".join(row[3] for row in limit_rows())
    assert reasons == set(re.findall(r"\(`(\w+)`\)", said))


# --- docs/ENCRYPTION.md ------------------------------------------------------------------------------

def test_the_page_on_encryption_says_the_format() -> None:
    text = (DOCS / "ENCRYPTION.md").read_text()
    for number in (segments.HEADER_BYTES, segments.capacity(0), segments.capacity(1)):
        assert f"`{number}`" in section("ENCRYPTION.md", "Formats")
    for label in (index.CONTEXT, keys._OF_KEY_FILE, keys._OF_CONTENT, keys._HEADER_OF_CONTENT):
        assert re.search(rf'[`"]{label.decode()}[`"]', text), label
    least, most = keys.SCRYPT_LOG_N_LEAST, keys.SCRYPT_LOG_N_MOST
    assert f"r = {keys.SCRYPT_R}, p = 1, 32 bytes); {least} to {most}, {keys.SCRYPT_LOG_N} when stored" in text
    assert f"at most {links.MAX_CHARS} characters" in text
    assert f"at most {index.MAX_LINE_BYTES} bytes:" in text and f"At most {index.MAX_DEPTH} directories deep" in text
    assert f"files `0/0` to `{index.place(index.GROUP - 1)}`, `{index.place(index.GROUP)}`" in text
    assert index.head_line().decode() in text


def test_the_example_of_encryption_opens() -> None:
    sealed = bytes.fromhex(section("ENCRYPTION.md", "Formats").partition("are `p2pfs`:\n```\n")[2].partition("\n")[0])
    cipher = segments.Cipher(bytes(range(32)), sealed[: segments.HEADER_BYTES])
    whole = next(segments.segments(segments.plain_size(len(sealed))))
    assert bytes(cipher.open(whole, memoryview(sealed), memoryview(bytearray(len(sealed))))) == b"p2pfs"


def test_the_page_on_encryption_names_the_options_of_store() -> None:
    words = re.findall(r"--[a-z-]+", " ".join(row[0] for row in cells(section("ENCRYPTION.md", "Use"))))
    kinds = re.findall(r"--(?:encrypt|passphrase|convergent|plain)\b", usage.USAGE)
    assert set(words) == {*kinds, "--key-file", "--passphrase-file"}


# --- docs/OPERATIONS.md and docs/STORE.md ------------------------------------------------------------

def cells(table: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    heads = {number - 1 for number, row in enumerate(rows) if set("".join(row)) == {"-"}}
    return [row for number, row in enumerate(rows) if number not in heads and number - 1 not in heads]


def test_the_operator_finds_every_metric() -> None:
    def row(metric: Counter | Gauge) -> tuple[str, str, str]:
        described = next(iter(metric.describe()))
        name = described.name + ("_total" if described.type == "counter" else "")
        return f"`{name}`", ", ".join(f"`{label}`" for label in metric._labelnames), described.documentation

    listed = [tuple(row[:3]) for row in cells(section("OPERATIONS.md", "Metrics"))]
    assert listed == [row(metric) for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge)]


def test_the_operator_finds_every_exit_code() -> None:
    used = {0, *(cls.exit_code for cls in errors.BY_TOKEN.values())}
    rows = cells(section("OPERATIONS.md", "Exit codes"))
    assert [int(row[0]) for row in rows] == sorted(used)
    said = usage.USAGE.partition("Exit codes:")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"(?:^|  )(\d+)  ", said, re.MULTILINE)} == used
    of_node = {int(code) for code in re.findall(r"(\d+) [a-z]", daemon.USAGE.partition("Exit codes:")[2])}
    assert of_node <= {int(row[0]) for row in rows if row[2]}


def test_the_log_lines_are_those_of_the_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "p2pfs").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)
    for row in cells(section("OPERATIONS.md", "Log")):
        for line in re.findall(r"`([^`]+)`", row[0]):
            for piece in re.split(r"…|NAME|HOST:PORT|\bN\b", line):
                assert piece.strip(" :;") in source, piece


def test_the_catalogs_columns_are_those_of_the_database(tmp_path: Path) -> None:
    Catalog(tmp_path / "catalog.sqlite").close()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in tables}
    db.close()
    listed = {row[0].strip("`"): re.findall(r"`([a-z0-9]+)`", row[1]) for row in cells(section("STORE.md", "Catalog"))}
    assert listed == columns


# --- all pages ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_and_verbs_that_pages_name_exist(page: Path) -> None:
    text = page.read_text()
    for name_section, key in re.findall(r"`\[(node|cluster|storage|repair|log)\] (\w+)", text):
        assert f"{name_section}.{key}" in ROWS
    for key in re.findall(r"-o (\w+\.\w+)=", text):
        assert key in {*ROWS, "section.key"}
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)]
    for verb in re.findall(r"p2pfs-cli (?:--?\S+ )*([a-z]+)\b", "\n".join(code)):
        assert verb in VERBS, verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_no_path_of_the_machine_they_were_written_on(page: Path) -> None:
    for path in (str(ROOT), sys.prefix, str(Path.home())):
        assert len(path) < 3 or not re.search(rf"(?<![\w.~/]){re.escape(path)}\b", page.read_text()), path


def test_the_trees_that_pages_show_exist() -> None:
    readme = (ROOT / "README.md").read_text().partition("\n## The tree")[2]
    for row in cells(readme):
        for name in re.findall(r"`([\w./-]+)`", row[0]):
            assert (ROOT / name).exists() or (ROOT / "p2pfs" / name).exists(), name
    architecture = (DOCS / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", architecture):
        assert any((folder / name).exists() for folder in (ROOT, ROOT / "p2pfs", DOCS)), name


def test_the_glossary_has_each_word_once_and_pages_avoid_what_it_avoids() -> None:
    rows = cells((DOCS / "GLOSSARY.md").read_text())
    words = [word.strip() for row in rows for word in re.split("[,;]", row[0])]
    assert len(words) == len(set(words))
    avoided = {word.strip() for row in rows for word in row[2].split(",") if word.strip()}
    assert not avoided & set(words)
    # These stand for something else as well, and may.
    avoided -= {"host", "server", "key", "id", "object", "database", "primary", "up", "down", "password"}
    for page in PAGES:
        if page.name == "GLOSSARY.md":
            continue
        for word in avoided:
            assert not re.search(rf"\b{word}s?\b", page.read_text(), re.IGNORECASE), (page.name, word)


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {VERSION} " in (ROOT / "CHANGELOG.md").read_text()


# --- docs/decisions ----------------------------------------------------------------------------------

def test_decisions_are_numbered_and_have_their_parts() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [page.name[:3] for page in pages] == [f"{number:03}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:3]}: ")
        assert "**Choice.**" in text and "**Why.**" in text, page.name
        assert len(text.splitlines()) < 60, page.name


def test_every_dependency_has_its_row() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [line.split()[0] for line in setup["options"]["install_requires"].split("\n") if line]
    rows = cells((DOCS / "decisions" / "008-dependencies.md").read_text())
    assert sorted(row[0].strip("`") for row in rows) == sorted(wanted)
    assert all(row[2] for row in rows)
