"""The command line as a process, against a node in memory: results, exit codes, JSON, terminals, pipes, interrupts."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.cli import main, usage
from p2pfs.cli.verbs import VERBS
from p2pfs.client import files
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Link, Talk
from tests.unit.client.runner import CLI, ROOT, WAIT_S, Runner, on_terminal

# --- usage ---------------------------------------------------------------------------------------------


def test_help_names_every_verb_and_exit_code(run: Runner) -> None:
    done = run("--help")
    assert done.returncode == 0
    text = done.stdout.decode()
    for verb in VERBS:
        assert f"] {verb} " in text or f"] {verb}\n" in text
        assert f"\n  {verb} " in text
    for error in errors.BY_TOKEN.values():
        assert f"  {error.exit_code}  " in text
    assert max(map(len, text.splitlines())) <= 120


def test_every_verb_of_the_usage_is_in_the_table() -> None:
    lines = [line for line in usage.USAGE.splitlines() if line.startswith("  p2pfs-cli [options]")]
    assert {line.split()[2] for line in lines} == set(VERBS)


def test_version(run: Runner) -> None:
    assert run("--version").stdout.startswith(b"p2pfs-cli ")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "a verb is missing"),
        (["stroe", "x"], "did you mean store?"),
        (["get"], "usage: p2pfs-cli [options] get"),
        (["ls", "--offset=3"], "usage: p2pfs-cli [options] ls"),
        (["--jason", "ls"], "unknown option --jason, did you mean --json?"),
        (["store", "-photos"], "unknown option -p; a name that begins with - goes after --"),
        (["store", "--name=x", "a", "b"], "--name"),
        (["store", "--replicas=0", "a"], "--replicas"),
        (["cat", "x", "--offset=1XiB"], "--offset"),
        (["cat", "x", "--offset=99999999999999999999999"], "--offset: '99999999999999999999999' is too large"),
        (["cat", "x", f"--length={'9' * 1000}GiB"], "is too large for a size"),
        (["cat", "x", f"--length={'9' * 100_000}"], "is no size"),
        (["--timeout=soon", "ls"], "--timeout"),
        (["--timeout=99999999999999999999999s", "ls"], "is too large for a duration"),
        (["--node=nas:4640", "ls"], "--tls-dir"),
        (["id", "--hash=md5", "x"], "md5"),
    ],
)
def test_misuse_is_explained(args: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    output, messages = capfd.readouterr()
    assert output == ""
    assert says in messages
    assert messages.startswith("p2pfs-cli: error: ")


# --- results -------------------------------------------------------------------------------------------


def test_store_get_cat_round(run: Runner, node: FakeNode) -> None:
    (run.folder / "f").write_bytes(b"0123456789")
    done = run("store", "f")
    assert (done.returncode, done.stderr) == (0, b"")
    cid, path = done.stdout.decode().split()
    assert path == "f"
    assert node.trees[cid] == b"0123456789"
    assert run("cat", cid, "--offset=2", "--length=3").stdout == b"234"
    assert run("get", cid, "-o", "-").stdout == b"0123456789"
    assert run("get", cid, "-o", "g").stdout == b"g\n"
    assert (run.folder / "g").read_bytes() == b"0123456789"
    assert run("get", cid, "-o", "g").returncode == 9
    assert run("get", cid, "-o", "g", "--force").returncode == 0


def test_standard_output_takes_files_only(run: Runner, node: FakeNode) -> None:
    node.keep({b"a.txt": b"a", b"link": Link(b"a.txt")}, "folder")
    for args in (["cat", "folder"], ["get", "folder", "-o", "-"], ["cat", "folder", "--offset=1"]):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"is a directory; cat and -o - take files only; get it with -o PATH" in done.stderr
        assert b"name a file inside it: folder/NAME" in done.stderr
    assert b"is a symlink; cat and -o - take files only" in run("cat", "folder/link").stderr
    assert run("cat", "folder/a.txt").stdout == b"a"


def test_store_of_standard_input(run: Runner, node: FakeNode) -> None:
    done = run("store", "--name=in", "-", input=b"from a pipe")
    assert done.stdout.decode().split()[1] == "-"
    assert node.trees[node.pinned["in"]] == b"from a pipe"
    (run.folder / "f").write_bytes(b"x" * 100_000)
    with open(run.folder / "f", "rb") as file:
        assert run("store", "--name=redirected", "-", stdin=file).returncode == 0
    assert node.records[-1] == "FD"


def test_the_others_go_on_and_the_worst_counts(run: Runner, node: FakeNode) -> None:
    (run.folder / "a").write_bytes(b"a")
    (run.folder / "b").write_bytes(b"b")
    os.mkfifo(run.folder / "fifo")
    done = run("--json", "store", "a", "missing", "fifo", "b")
    assert done.returncode == 9
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["a", "b"]
    assert {"cid", "name", "size", "sha256", "blocks", "new_blocks", "new_bytes", "replicas", "nodes"} < set(rows[0])
    reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    assert [report["error"] for report in reports] == ["NOT_FOUND", "REFUSED"]
    assert "missing" in reports[0]["message"]


def test_tables_and_json(run: Runner, node: FakeNode) -> None:
    cid = node.keep({b"d": {}, b"file name": b"12345"}, "tree")
    line = run("ls").stdout.decode().splitlines()[0]
    assert line.split() == [cid, "0", "tree"]
    entries = [line.split(maxsplit=2) for line in run("ls", "tree").stdout.decode().splitlines()]
    assert [entry[1:] for entry in entries] == [["-", "d"], ["5", "file name"]]
    assert [row["name"] for row in run.json("ls", "tree")] == ["d", "file name"]
    assert run.json("ls")[0]["cid"] == cid
    table = run("peers").stdout.decode().splitlines()
    assert [row.split()[0] for row in table] == ["NAME", "a*", "b"]
    assert table[0].index("STATE") == table[1].index("alive")
    assert run.json("peers")[0]["self"] is True
    assert run.json("stat", "tree")[0]["type"] == "directory"
    assert "bring back b" in run("explain", "tree").stdout.decode()
    rows = run.json("explain", "tree", code=1)
    assert rows[0]["holders"] == ["a"]
    assert rows[-1]["below_wanted"] == 1
    assert run.json("rm", "tree") == [{"cid": cid, "name": "tree"}]


def test_stat_shows_pins_without_a_name(run: Runner, node: FakeNode) -> None:
    for name in ("d", ""):
        node.keep(b"x", name)
    assert "pins     (no name), d" in run("stat", "d").stdout.decode().splitlines()
    assert run.json("stat", "d")[0]["pins"] == ["", "d"]


def test_status_is_a_check(run: Runner, node: FakeNode) -> None:
    assert run("status").returncode == 0
    node.status |= {"verdict": "at-risk", "reasons": ["away: b"]}
    done = run("status")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines()[:2] == ["at-risk", "  away: b"]
    assert json.loads(run("--json", "status").stdout) == node.status


def test_car_in_and_out(run: Runner, node: FakeNode) -> None:
    (run.folder / "in.car").write_bytes(b"a car")
    assert run.json("import", "in.car")[0]["roots"][0]["pinned"] is True
    assert run("export", "imported", "-o", "-").stdout == b"CAR of a car"
    assert run("export", "imported", "-o", "out.car").stdout == b"out.car\n"
    assert (run.folder / "out.car").read_bytes() == b"CAR of a car"


def test_export_overwrites_only_with_force(run: Runner, node: FakeNode) -> None:
    node.keep(b"new", "new")
    (run.folder / "out.car").write_bytes(b"precious")
    done = run("export", "new", "-o", "out.car")
    assert done.returncode == 9
    assert b"out.car exists; --force overwrites it" in done.stderr
    assert not node.requests, "refused before anything is asked"
    assert (run.folder / "out.car").read_bytes() == b"precious"
    assert run("export", "new", "-o", "out.car", "--force").returncode == 0
    assert (run.folder / "out.car").read_bytes() == b"CAR of new"
    assert os.listdir(run.folder) == ["out.car"]


def test_id_needs_no_node(run: Runner, tmp_path: Path) -> None:
    run.environment["P2PFS_NODE"] = str(tmp_path / "none")
    (run.folder / "empty").write_bytes(b"")
    done = run("id", "empty", "-", input=b"")
    cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert done.stdout.decode() == f"{cid}  empty\n{cid}  -\n"
    assert run.json("id", "empty")[0]["cid"] == cid


def test_a_read_error_names_the_file_and_the_others_are_tried(run: Runner) -> None:
    (run.folder / "f").write_bytes(b"f")
    done = run("id", "/proc/self/mem", "f")
    assert done.returncode == 9 and done.stdout.endswith(b"  f\n")
    assert re.search(rb"cannot read '/proc/[0-9]+/mem': Input/output error", done.stderr)


@pytest.mark.parametrize("verb", ["id", "store", "import"])
def test_a_read_error_of_standard_input_names_it(run: Runner, verb: str) -> None:
    with open("/proc/self/mem", "rb") as broken:
        done = run(verb, "-", stdin=broken)
    assert (done.returncode, done.stderr) == (9, b"p2pfs-cli: error: standard input: input/output error\n")


@pytest.mark.parametrize("cls", [errors.NotFound, errors.Corrupt, errors.NoSpace, errors.TooFewNodes, errors.Refused])
def test_exit_codes_are_the_errors(
    node: FakeNode, cls: type[errors.P2pfsError], capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(talk: Talk, line: wire.Line) -> None:
        raise cls("it is so")

    node.hooks["STAT"] = fail
    assert main([f"--node={node.address}", "--json", "stat", "x"]) == cls.exit_code
    human, machine = capfd.readouterr().err.splitlines()
    assert human == "p2pfs-cli: error: it is so"
    assert json.loads(machine) == {"error": cls.token, "message": "it is so"}


def test_no_node_is_exit_7_with_a_way_out(run: Runner, tmp_path: Path) -> None:
    done = run(f"--node={tmp_path}/none.sock", "peers")
    assert done.returncode == 7
    assert b"p2pfs-node -c FILE" in done.stderr


def test_the_deadline_is_exit_4(run: Runner, node: FakeNode) -> None:
    is_over = threading.Event()
    node.hooks["HELLO"] = lambda talk, line: is_over.wait(WAIT_S) and None
    for name in "ab":
        (run.folder / name).write_bytes(b"x")
    one, several = run("--timeout=300ms", "status"), run("--timeout=300ms", "store", "a", "b")
    is_over.set()
    assert (one.returncode, several.returncode) == (4, 4)
    late = "not done within 0.3 s; give it more with --timeout\n"
    assert one.stderr.decode() == f"p2pfs-cli: error: {late}"
    assert several.stderr.decode() == f"p2pfs-cli: error: a: {late}p2pfs-cli: error: b: {late}"


@pytest.mark.parametrize("broken", ["full disk", "pipe"])
def test_a_standard_error_that_takes_nothing_changes_no_exit_code(run: Runner, node: FakeNode, broken: str) -> None:
    (run.folder / "there").write_bytes(b"x")
    if broken == "pipe":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open("/dev/full", os.O_WRONLY)
    for words, code, stored in (
        (("stat", "nothing"), 3, b""), (("--json", "stat", "nothing"), 3, b""),
        (("store", "missing", "there"), 3, b"there"),
    ):
        with run.start(*words, stdout=subprocess.PIPE, stderr=theirs) as process:
            assert stored in process.communicate(timeout=WAIT_S)[0]
            assert process.returncode == code, words
    os.close(theirs)


def test_a_terminal_that_goes_away_ends_no_transfer(run: Runner, node: FakeNode) -> None:
    (run.folder / "f").write_bytes(b"x")
    ours, theirs = pty.openpty()
    usual = node._store

    def slowly(talk: Talk, line: wire.Line) -> None:
        deadline = time.monotonic() + WAIT_S
        while not select.select([ours], [], [], 0.05)[0]:  # until the bar appears
            talk.part({"bytes": 0, "new_bytes": 0})
            assert time.monotonic() < deadline
        os.read(ours, 1)
        os.close(ours)
        talk.part({"bytes": 1, "new_bytes": 1})
        usual(talk, line)

    node.hooks["STORE"] = slowly
    with run.start("store", "f", stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.communicate(timeout=WAIT_S)[0].endswith(b"  f\n")
        assert process.returncode == 0


# --- pipes, terminals, interrupts ----------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error(run: Runner, node: FakeNode) -> None:
    for index in range(3000):
        node.pinned[f"pin {index}"] = node.keep(b"x")
    node.keep(os.urandom(4 << 20), "big")
    for verb in (["ls"], ["cat", "big"]):
        with run.start(*verb, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(WAIT_S) == 128 + signal.SIGPIPE


def test_output_that_cannot_be_written_is_an_error(run: Runner, node: FakeNode) -> None:
    node.keep(b"123456789", "f")
    for verb in (["ls"], ["cat", "f"], ["--help"], ["--version"]):
        with open("/dev/full", "wb") as full, run.start(*verb, stdout=full, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert process.stderr.read() == b"p2pfs-cli: error: standard output: no space left on device\n"
            assert process.wait(WAIT_S) == errors.NoSpace.exit_code


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("ls >&-", 2, "standard output is closed"),
        ("--help >&-", 2, "standard output is closed"),
        ("store - <&-", 2, "standard input is closed"),
        ("id - <&-", 2, "standard input is closed"),
        ("import - <&-", 2, "standard input is closed"),
        ("ls <&-", 0, ""),
        ("stat nothing 2>&-", 3, ""),
        ("ls <&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed(run: Runner, node: FakeNode, command: str, code: int, says: str) -> None:
    script = f'exec "$0" -c "$1" {command}'
    done = subprocess.run(
        ["sh", "-c", script, CLI[0], CLI[2]], cwd=run.folder, env=run.environment, capture_output=True, timeout=WAIT_S
    )
    messages = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), messages
    assert messages.startswith(f"p2pfs-cli: error: {says}") if says else messages == ""


def slow_fetch(node: FakeNode) -> None:
    usual = node._fetch

    def fetch(talk: Talk, line: wire.Line) -> None:
        for done in range(7):
            talk.part({"bytes": done, "size": 9})
            threading.Event().wait(0.1)
        usual(talk, line)

    node.hooks["FETCH"] = fetch


def test_progress_on_a_terminal_only(run: Runner, node: FakeNode) -> None:
    node.keep(b"123456789", "f")
    slow_fetch(node)
    code, seen, output = on_terminal(run, "get", "f")
    assert (code, output) == (0, b"f\n")
    assert "B/s" in seen
    assert "%" in seen
    code, seen, _ = on_terminal(run, "-q", "get", "f", "--force")
    assert (code, seen) == (0, "")
    assert run("get", "f", "--force").stderr == b""


def test_a_stored_name_cannot_command_the_terminal(run: Runner, node: FakeNode) -> None:
    def fail(talk: Talk, line: wire.Line) -> None:
        raise errors.NotFound("no \x1b[31mred\x07")

    node.hooks["STAT"] = fail
    _, seen, _ = on_terminal(run, "stat", "x")
    assert "\x1b" not in seen
    assert "\x07" not in seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_mid_get(run: Runner, node: FakeNode, number: signal.Signals) -> None:
    node.keep(b"123456789", "f")
    is_begun = threading.Event()
    usual = node._fetch

    def fetch(talk: Talk, line: wire.Line) -> None:
        os.pwrite(talk._fds[0], b"12345", 0)
        is_begun.set()
        talk.line()

    node.hooks["FETCH"] = fetch
    with run.start("get", "f", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert is_begun.wait(WAIT_S)
        process.send_signal(number)
        output, messages = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert (output, messages) == (b"", b"p2pfs-cli: error: interrupted\n")
    assert [name.endswith(files.SUFFIX) for name in os.listdir(run.folder)] == [True]
    node.hooks["FETCH"] = usual
    assert run("get", "f").returncode == 0
    assert os.listdir(run.folder) == ["f"]


def test_interrupted_in_mid_store_nothing_is_visible(run: Runner, node: FakeNode) -> None:
    with run.start("store", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        for _ in range(1000):
            if "PART" in node.records:
                break
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    assert not node.pinned


def test_interrupted_before_there_is_anything_to_interrupt(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "docopt.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bin/p2pfs-cli"), "ls"],
        env=run.environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True, timeout=WAIT_S, check=False,
    )
    assert (done.returncode, done.stderr) == (130, b"p2pfs-cli: error: interrupted\n")


def test_a_short_command_loads_little(run: Runner) -> None:
    code = (
        "import sys; before = set(sys.modules); from p2pfs.cli import main; code = main(['status'])\n"
        "heavy = {'gevent', 'ssl', 'cryptography', 'tqdm', 'pathlib', 'asyncio', 'configparser'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=run.environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
