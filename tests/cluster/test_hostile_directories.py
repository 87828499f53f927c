"""A directory made by somebody who means harm comes in by CAR, and `get`, `export`, `ls`, `cat` do none with it."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kit.cluster import CLI, Cluster, Node
from p2pfs.core import car, hamt, unixfs, varint
from p2pfs.core.cid import CID
from p2pfs.core.layout import Block
from tests.unit.dags import node as dag_node
from tests.unit.dags import raw

EVIL = raw(b"evil\n")
ESCAPES = b"\x1b]0;title\x07\x1b[2Jx\nbafkforged  9  y\xc2\x9b1m\xe2\x80\xae"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Cluster(tmp_path_factory.mktemp("hostile"), 1) as cluster:
        yield cluster[0]


# --- what a stranger may make ------------------------------------------------------------------------

class Dag(NamedTuple):
    """A root and all blocks below it."""

    blocks: tuple[Block, ...]

    @property
    def cid(self) -> CID:
        return self.blocks[-1].cid


def file(data: bytes = EVIL.data) -> Dag:
    return Dag((raw(data),))


def link(target: bytes) -> Dag:
    return Dag((dag_node((), unixfs.encode_symlink(target)),))


def folder(*entries: tuple[bytes, Dag], data: bytes = unixfs.DIRECTORY_DATA) -> Dag:
    """With these entries in this order, whatever their names."""
    below = [block for _, child in entries for block in child.blocks]
    return Dag((*below, dag_node([(child.cid, name, len(child.blocks[-1].data)) for name, child in entries], data)))


def sharded(*shards: tuple[tuple[bytes, Dag], ...]) -> Dag:
    """A root shard over others, each with entries that belong to any of them or to none."""
    children = []
    for number, entries in enumerate(shards):
        named = [(b"%02X" % place + name, child) for place, (name, child) in enumerate(entries)]
        children.append((b"%02X" % number, folder(*named, data=unixfs.encode_shard((1 << len(named)) - 1))))
    return folder(*children, data=unixfs.encode_shard((1 << len(children)) - 1))


def nested(depth: int) -> Dag:
    made = file()
    for _ in range(depth):
        made = folder((b"d", made))
    return made


def with_mode(mode: int) -> Dag:
    data = unixfs.encode_file([]).replace(b"\x18\x00", b"\x12\x01x\x18\x01") + b"\x38" + varint.encode(mode)
    return Dag((dag_node((), data),))


REFUSED: dict[str, Callable[[bytes], Dag]] = {
    "dot dot": lambda out: folder((b"..", file())),
    "a path upwards": lambda out: folder((b"../evil", file())),
    "a long path upwards": lambda out: folder((b"../../../../../../.." + out + b"/evil", file())),
    "an absolute path": lambda out: folder((out + b"/evil", file())),
    "a folder upwards": lambda out: folder((b"..", folder((b"evil", file())))),
    "dot": lambda out: folder((b".", file())),
    "no name": lambda out: folder((b"", file())),
    "a slash": lambda out: folder((b"sub", folder((b"x", file()))), (b"sub/x", file())),
    "a NUL": lambda out: folder((b"a\0b", file())),
    "a name that is too long": lambda out: folder((b"n" * 256, file())),
    "no UTF-8": lambda out: folder((b"caf\xe9", file())),
    "a name twice": lambda out: folder((b"a", file()), (b"a", file(b"other"))),
    "a folder through a link": lambda out: folder((b"a", link(out)), (b"a", folder((b"evil", file())))),
    "a link over a folder": lambda out: folder((b"a", folder((b"evil", file()))), (b"a", link(out))),
    "a file through a link": lambda out: folder((b"a", link(out + b"/precious")), (b"a", file())),
    "a path through a link": lambda out: folder((b"a", link(out)), (b"a/evil", file())),
    "a folder through a link, in two shards": lambda out: sharded(
        ((b"a", link(out)),), ((b"a", folder((b"evil", file()))),)
    ),
    "a file through a link, in two shards": lambda out: sharded(((b"a", link(out + b"/precious")),), ((b"a", file()),)),
    "a path upwards in a shard": lambda out: sharded(((b"../../evil", file()),)),
    "too deep": lambda out: nested(300),
}
MADE: dict[str, Callable[[bytes], Dag]] = {
    "links that lead out": lambda out: folder((b"a", link(out)), (b"b", link(b"../..")), (b"c", link(b"/dev/sda"))),
    "names of devices elsewhere": lambda out: folder((b"CON", file()), (b"NUL.txt", file()), (b"COM1", file())),
    "two cases of a name": lambda out: folder((b"README", file()), (b"readme", file(b"other"))),
    "mode bits": lambda out: folder((b"tool", with_mode(0o106777))),
    "escapes": lambda out: folder((ESCAPES, file())),
}


def pack(dag: Dag, path: Path) -> Path:
    path.write_bytes(car.header([dag.cid]) + b"".join(
        car.frame(block.cid, block.data) + block.data for block in dict.fromkeys(dag.blocks)
    ))
    return path


# --- the sandbox -------------------------------------------------------------------------------------

class Sandbox:
    """A folder to get into, `inside`, and everything around it, which must stay as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside = path / "above" / "inside"
        self.outside = path / "outside"
        self.inside.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "precious").write_bytes(b"do not touch")
        self._before = self._seen()

    def _seen(self) -> dict[str, tuple[object, ...]]:
        seen: dict[str, tuple[object, ...]] = {}
        for top, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if os.path.join(top, name) != str(self.inside)]
            for name in (*folders, *files):
                path = os.path.join(top, name)
                found = os.lstat(path)
                content = Path(path).read_bytes() if stat.S_ISREG(found.st_mode) else b""
                seen[path] = (found.st_mode, found.st_ino, found.st_mtime_ns, found.st_nlink, content)
        return seen

    def check(self) -> None:
        assert self._seen() == self._before


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "sandbox")
    yield made
    made.check()


def take_in(node: Node, dag: Dag, sandbox: Sandbox) -> str:
    node.cli("import", str(pack(dag, sandbox.path.parent / "hostile.car")))
    return str(dag.cid)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_write_elsewhere_is_refused_and_nothing_is_there(node: Node, sandbox: Sandbox, case: str) -> None:
    ref = take_in(node, REFUSED[case](os.fsencode(sandbox.outside)), sandbox)
    done = node.cli("get", ref, "-o", str(sandbox.inside / "target"), check=False, cwd=sandbox.inside)
    assert done.returncode in (5, 9), done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.lexists(sandbox.inside / "target")
    sandbox.check()
    assert node.cli("ls", ref, check=False, cwd=sandbox.inside).returncode in (0, 5, 9)
    for inside in ("a/evil", "../evil", "..", "a/../a/evil"):
        # A name is a name, and leads to what the directory says, never to a file of this machine.
        assert node.cli("cat", f"{ref}/{inside}", check=False, cwd=sandbox.inside).stdout in ("", "evil\n")
    node.cli("export", ref, "-o", str(sandbox.inside / "again.car"))
    assert {path.name for path in sandbox.inside.iterdir() if not path.name.startswith(".target")} == {"again.car"}


@pytest.mark.parametrize("case", MADE)
def test_what_only_looks_bad_is_made_inside(node: Node, sandbox: Sandbox, case: str) -> None:
    dag = MADE[case](os.fsencode(sandbox.outside))
    ref = take_in(node, dag, sandbox)
    target = sandbox.inside / "target"
    for turn in range(2):  # the second one finds links and files of the first
        node.cli("get", ref, "-o", str(target))
        sandbox.check()
        for path in target.iterdir():
            found = path.lstat()
            assert stat.S_ISLNK(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o7111 == 0
            assert path.is_symlink() or path.read_bytes() in (b"evil\n", b"other", b"x")
        if not turn:
            # As an interrupted get leaves it.
            part = sandbox.inside / f".target.{ref[-16:]}.p2pfs-part"
            part.mkdir(mode=0o700)
            target.rename(part / "tree")


def seen_on_a_terminal(node: Node, *words: str) -> str:
    """What a person sees of a command: standard output and standard error are a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen([sys.executable, str(CLI), f"--node={node.control}", *words], stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    done.wait(60)
    return seen.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@pytest.mark.parametrize("words", [
    ("ls", "{ref}"), ("stat", "{ref}/link"), ("cat", "{ref}/" + "a" + os.fsdecode(b"\x1b[2J")), ("get", "{ref}/twice"),
    ("explain", "{ref}"),
])
def test_names_do_not_command_a_terminal(node: Node, sandbox: Sandbox, words: tuple[str, ...]) -> None:
    twice = folder((ESCAPES, file()), (ESCAPES, file()))
    ref = take_in(node, folder((ESCAPES, file()), (b"link", link(ESCAPES)), (b"twice", twice)), sandbox)
    target = ("-o", str(sandbox.inside / "out")) if words[0] == "get" else ()
    seen = seen_on_a_terminal(node, *(word.format(ref=ref) for word in words), *target)
    assert seen
    assert all(char.isprintable() or char == "\n" for char in seen), seen
    assert not any(line.startswith("bafkforged") for line in seen.splitlines()), seen
    piped = node.cli(*(word.format(ref=ref) for word in words), *target, check=False)
    assert not any(line.startswith("bafkforged") for line in (piped.stdout + piped.stderr).splitlines())


def test_the_log_of_the_node_is_lines_of_its_own(node: Node) -> None:
    assert all(char.isprintable() or char == "\n" for char in node.log())


def test_the_fanout_of_the_test_is_one_that_is_read() -> None:
    assert hamt.MIN_FANOUT <= unixfs.FANOUT <= hamt.MAX_FANOUT
