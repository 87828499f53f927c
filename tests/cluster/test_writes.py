"""What a node and a client write, as the kernel sees it (strace): nothing outside the folders that they were given."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster import CLI, Node, wait_until

OPENS = "open,openat,openat2,creat"
CHANGES = "mkdir,mkdirat,rmdir,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,truncate," \
          "mknod,mknodat,chmod,fchmodat,chown,lchown,fchownat,utimensat,setxattr,lsetxattr,bind,mount"
STRACE = ["strace", "-D", "-f", "-y", "-q", "-s", "4096", "-e", f"trace={OPENS},{CHANGES}", "-e", "signal=none"]
WRITING = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")
EXIT = r"(?m)^{} +\+\+\+ (exited|killed)"
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += ", re.MULTILINE)
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
NOT_FILES = re.compile(r"/dev/(null|urandom)|/proc/(self|thread-self|\d+)/.*|anon_inode:.*|pipe:.*|socket:.*")


def may_trace() -> bool:
    """Is strace installed, and allowed to trace?"""
    return shutil.which("strace") is not None and subprocess.run(
        ["strace", "-o", os.devnull, "true"], capture_output=True, check=False,
    ).returncode == 0


traced = pytest.mark.skipif(not may_trace(), reason="strace is not installed, or may not trace here")


def unfinished_joined(text: str) -> str:
    """The trace with calls that another thread interrupted on one line."""
    begun: dict[tuple[str, str], str] = {}
    lines = []
    for line in text.splitlines():
        if cut := re.match(r"(\d+) +(\w+)(\(.*) <unfinished \.\.\.>$", line):
            begun[cut[1], cut[2]] = cut[3]
        elif rest := re.match(r"(\d+) +<\.\.\. (\w+) resumed>(.*)", line):
            lines.append(f"{rest[1]} {rest[2]}{begun.pop((rest[1], rest[2]), '(')}{rest[3]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def written(trace: Path, cwd: Path) -> set[Path]:
    """Every path that was opened for writing, made, renamed, changed or removed, or tried to be."""
    process = trace.read_text().split(maxsplit=1)[0]
    wait_until(lambda: re.search(EXIT.format(process), trace.read_text()), 60, "the trace is complete")
    paths = set()
    for name, arguments in CALL.findall(unfinished_joined(trace.read_text())):
        if name in OPENS.split(",") and name != "creat" and not WRITING.search(arguments):
            continue
        if name == "bind" and "AF_UNIX" not in arguments:
            continue
        found = PATH.findall(arguments)
        for folder, path in found[-1:] if name.startswith("symlink") else found:
            place = os.path.normpath(os.path.join(folder or cwd, path))
            if not NOT_FILES.fullmatch(place):
                paths.add(Path(place))
    return paths


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # what pip compiled is not compiled again by a service
    node = Node(tmp_path, "node", {"storage.reserve_free": "0", "cluster.secret": "s" * 64})
    yield node
    node.kill()


@traced
def test_a_node_writes_below_its_data_directory_only(node: Node, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    node.prefix = [*STRACE, "-o", str(trace)]
    node.start()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(os.urandom(3 * 1024 * 1024))
    (tmp_path / "tree" / "small").write_bytes(b"small")
    node.cli("store", str(tmp_path / "tree"))
    node.cli("get", "tree", "-o", str(tmp_path / "back"))
    node.cli("export", "tree", "-o", str(tmp_path / "tree.car"))
    node.cli("import", "--name=again", str(tmp_path / "tree.car"))
    for words in (["rm", "again"], ["restore", "again"], ["audit", "--wait"], ["scrub", "--wait"], ["gc"], ["status"]):
        node.cli(*words, check=False)
    node.signal(signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in node.log(), 60, "it reads its configuration again")
    assert node.stop() == 0
    paths = written(trace, Path.cwd())
    inside = {path for path in paths if path.is_relative_to(node.data_dir)}
    assert {node.control, node.data_dir / "identity.pem"} <= inside, "the trace shows what it has to"
    assert paths - inside == set()


@traced
def test_a_client_writes_what_it_was_asked_to_only(node: Node, tmp_path: Path) -> None:
    node.start()
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (here / "file").write_bytes(os.urandom(2 * 1024 * 1024))

    def writes(*words: str) -> set[Path]:
        trace = tmp_path / f"trace-{words[0]}"
        subprocess.run(
            [*STRACE, "-o", str(trace), sys.executable, str(CLI), f"--node={node.control}", *words],
            cwd=here, env={**os.environ, "HOME": str(home)}, check=True, capture_output=True, timeout=60,
        )
        return written(trace, here)

    assert writes("store", "file") == set()
    assert writes("cat", "file") == set()
    assert writes("ls") == set()
    assert writes("id", "file") == set()
    assert {path.parent for path in writes("get", "file", "-o", "back")} == {here}
    assert {path.parent for path in writes("export", "file", "-o", "file.car")} == {here}
    assert sorted(path.name for path in here.iterdir()) == ["back", "file", "file.car"]
    assert list(home.iterdir()) == []


def test_what_a_node_makes_is_for_nobody_else(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    before = os.umask(0)
    try:
        node.start()
    finally:
        os.umask(before)
    node.cli("store", str(tmp_path / "file"))
    node.cli("audit", "--wait")
    made = {path: path.lstat().st_mode & 0o077 for path in node.data_dir.rglob("*")}
    assert len(made) > 10
    assert {path: mode for path, mode in made.items() if mode} == {}
