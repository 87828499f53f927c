"""What users do meanwhile, and what they may expect: several threads that store, read, remove, restore and collect.

Each thread keeps a book of what it stored. A key is `kept` from the moment a store of it was acknowledged until a
`rm` of it begins; then it has to be readable and equal at any time, within PATIENCE_S. Where nobody can know (a `rm`
whose answer was lost, one that ran while nodes were cut off), the key is struck from the book: nothing is expected.
"""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kit.chaos.world import World
from kit.cluster import Node
from kit.kills import tree_digest
from p2pfs import Client, errors
from p2pfs.cli.usage import USAGE

MIB = 1024 * 1024
COMMAND_S = 30.0
"""Deadline of each command."""
LATE_S = 15.0
"""A command may end so much after its deadline, on a machine that is busy."""
PATIENCE_S = 90.0
"""What is kept can be read within this time, whatever happens meanwhile."""
MOST_KEPT = 60
"""Keys of one thread."""
CODES = {0, 1, 3, 4, 5, 6, 7, 8, 9}
"""Exit codes that a command may have here: those of the table but 2 and 130, which nobody earned."""

Fail = Callable[[str, str], None]
"""(promise that was broken, evidence)"""


class Content(NamedTuple):
    """Bytes that can be made again: a file of shared pieces and a tail of its own, or a directory of such files."""

    seed: str
    pieces: tuple[int, ...]
    tail: int
    files: int = 0
    """Files of the directory; 0 for a single file."""

    def bytes(self) -> bytes:
        """The file's."""
        shared = b"".join(piece(number) for number in self.pieces)
        return shared + random.Random(self.seed).randbytes(self.tail)

    def write(self, path: Path) -> None:
        """Make it."""
        if not self.files:
            path.write_bytes(self.bytes())
            return
        path.mkdir()
        for number in range(self.files):
            folder = path / ("sub" if number % 2 else ".")
            folder.mkdir(exist_ok=True)
            part = Content(f"{self.seed}/{number}", self.pieces[:number % 2], self.tail)
            (folder / f"{number}").write_bytes(part.bytes())


@functools.cache
def piece(number: int) -> bytes:
    """1 MiB that many files have in common, so that removing one of them must not hurt the others."""
    return random.Random(f"piece {number}").randbytes(MIB)


class Key:
    """Something that was stored, and what is expected of it: `kept`, `removed`, or `unknown`."""

    def __init__(self, name: str, content: Content) -> None:
        self.name = name
        self.content = content
        self.cid = ""
        self.digest = ""
        self.state = "new"


class Worker:
    """One thread of users."""

    def __init__(self, world: World, seed: int, number: int, fail: Fail) -> None:
        self._world = world
        self._seed = seed
        self._number = number
        self._fail = fail
        self._dice = random.Random(f"{seed}/worker/{number}")
        self._folder = world.folder / f"worker-{number}"
        self._folder.mkdir()
        self._made = 0
        self.keys: list[Key] = []
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.slowest_s = 0.0
        """The longest that something kept could not be read."""
        operations = {"store": 22, "get": 30, "cat": 14, "again": 8, "rm": 10, "look": 6, "restore": 6, "gc": 2}
        self._operations = {name: weight for name, weight in operations.items()
                            if name not in ("restore", "gc") or f"[options] {name} " in USAGE}

    def run(self, leave: threading.Event) -> None:
        """Work until `leave` is set."""
        names, weights = list(self._operations), list(self._operations.values())
        try:
            while not leave.is_set():
                name = self._dice.choices(names, weights)[0]
                getattr(self, f"_{name}")()
                leave.wait(self._dice.uniform(0, 0.4))
        except Exception as error:  # noqa: BLE001  # the run has to end and tell it, whatever it is
            self._fail("the kit works", f"{error!r} in worker {self._number}")

    # --- one command ---------------------------------------------------------------------------------

    def _node(self) -> Node:
        """Mostly one that no fault touches; now and then any."""
        healthy = self._world.healthy()
        return self._dice.choice(healthy if healthy and self._dice.random() < 0.9 else self._world.nodes)

    def _do(self, what: str, node: Node, command: Callable[[Client], object]) -> errors.P2pfsError | None:
        """One command with a deadline; None when it was done. A late, or an impossible end, is a failure."""
        begin = time.monotonic()
        error: errors.P2pfsError | None = None
        try:
            with Client(str(node.control), timeout_s=COMMAND_S) as client:
                command(client)
        except errors.P2pfsError as caught:
            error = caught
        self._judge(what, node, time.monotonic() - begin, error.token if error else "OK",
                    0 if error is None else error.exit_code, repr(error))
        return error

    def _judge(self, what: str, node: Node, seconds: float, outcome: str, code: int, evidence: str) -> None:
        self.outcomes[what, outcome] += 1
        if seconds > COMMAND_S + LATE_S:
            self._fail("every command ends by its deadline", f"{what} at {node.name} took {seconds:.1f} s: {evidence}")
        if outcome == "INTERNAL" or code not in CODES:
            self._fail("every command says why it failed", f"{what} at {node.name} ended with {code}: {evidence}")

    def _cli(self, what: str, node: Node, *args: str) -> int:
        """The same by the command line; its exit code."""
        begin = time.monotonic()
        try:
            done = node.cli(f"--timeout={COMMAND_S:g}s", *args, check=False, timeout=COMMAND_S + 2 * LATE_S)
        except subprocess.TimeoutExpired:
            self._fail("every command ends by its deadline", f"p2pfs-cli {args} at {node.name}")
            return 4
        code = 99 if "Traceback" in done.stderr else done.returncode
        self._judge(what, node, time.monotonic() - begin, f"exit {code}", code, f"{args} {done.stderr[-2000:]}")
        return code

    # --- what users do -------------------------------------------------------------------------------

    def _pick(self, *states: str) -> Key | None:
        found = [key for key in self.keys if key.state in states]
        return self._dice.choice(found) if found else None

    def _content(self) -> Content:
        dice, self._made = self._dice, self._made + 1
        seed = f"{self._seed}/{self._number}/{self._made}"
        if dice.random() < 0.08:
            return Content(seed, (dice.randrange(6),), dice.randint(1, 60_000), dice.randint(2, 10))
        pieces = tuple(dice.randrange(6) for _ in range(dice.choice((0, 0, 0, 0, 1, 2, 4))))
        return Content(seed, pieces, dice.randint(8, dice.choice((1000, 100_000, 2 * MIB))))

    def _store(self) -> None:
        if len([key for key in self.keys if key.state == "kept"]) >= MOST_KEPT:
            self._rm()
            return
        key = Key(f"w{self._number}-{self._made}", self._content())
        self._store_key(key, "store")
        if key.state == "kept":
            self.keys.append(key)

    def _again(self) -> None:
        """The same content once more, perhaps in the moment in which it is collected."""
        key = self._pick("kept", "removed", "removed")
        if key:
            self._store_key(key, "again")

    def _store_key(self, key: Key, what: str) -> None:
        path = self._folder / key.name
        key.content.write(path)
        digest, node = tree_digest(path), self._node()

        def store(client: Client) -> None:
            key.cid = str(client.store(path, name=key.name).cid)

        if self._do(what, node, store) is None:
            key.state, key.digest = "kept", digest
        elif key.state == "removed":
            key.state = "unknown"
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _get(self) -> None:
        key = self._pick("kept")
        if key and self._dice.random() < 0.12:
            self._get_by_cli(key)
        elif key:
            self.check(key)

    def _get_by_cli(self, key: Key) -> None:
        target = self._folder / "cli"
        if self._cli("get by cli", self._node(), "--quiet", "get", "-o", str(target), "--", key.cid):
            return
        if tree_digest(target) != key.digest:
            self._fail("no wrong byte is ever returned", f"p2pfs-cli get {key.name} {key.cid}")
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    def check(self, key: Key) -> None:
        """A kept key is readable and equal, through one node or another, within PATIENCE_S."""
        begin = time.monotonic()
        while True:
            node = self._node()
            error = self._do("get", node, functools.partial(self._compare, key))
            waited_s = time.monotonic() - begin
            if error is None:
                self.slowest_s = max(self.slowest_s, waited_s)
                return
            if waited_s > PATIENCE_S:
                self._fail("what was acknowledged can be read",
                           f"{key.name} {key.cid} not for {waited_s:.0f} s; the last one asked, {node.name}: {error!r}")
                return
            time.sleep(0.3)

    def _compare(self, key: Key, client: Client) -> None:
        if key.content.files:
            target = self._folder / "back"
            shutil.rmtree(target, ignore_errors=True)
            client.get(key.cid, target)
            if tree_digest(target) != key.digest:
                self._fail("no wrong byte is ever returned", f"directory {key.name} {key.cid} at {client.address}")
            return
        whole = hashlib.sha256()
        self._match(key, 0, client.read(key.cid), client, whole.update)
        if whole.hexdigest() != key.digest:
            self._fail("no wrong byte is ever returned", f"{key.name} {key.cid} at {client.address} has not its length")

    def _match(self, key: Key, offset: int, parts: Iterator[bytes], client: Client,
               seen: Callable[[bytes], None] = lambda part: None) -> int:
        """Each part is checked as it comes, for an error may follow; the bytes that came."""
        expected, at = key.content.bytes(), offset
        for part in parts:
            if part != expected[at : at + len(part)]:
                self._fail("no wrong byte is ever returned", f"{key.name} {key.cid} at {client.address}, from {at} on")
            seen(part)
            at += len(part)
        return at - offset

    def _cat(self) -> None:
        key = self._pick("kept")
        if key is None or key.content.files:
            return
        size = len(key.content.pieces) * MIB + key.content.tail
        offset = self._dice.randrange(size)
        length = self._dice.randint(0, size - offset)

        def cat(client: Client) -> None:
            came = self._match(key, offset, client.read(key.cid, offset, length), client)
            if came != length:
                self._fail("no wrong byte is ever returned", f"{key.cid}: {came} of {length} bytes from {offset} on")

        self._do("cat", self._node(), cat)

    def _rm(self) -> None:
        key = self._pick("kept")
        if key:
            begin, key.state = time.monotonic(), "unknown"
            error = self._do("rm", self._node(), lambda client: client.remove(key.cid))
            is_refused = isinstance(error, errors.NotFound)
            self._settle(key, begin, "removed" if error is None else "kept" if is_refused else "unknown")

    def _restore(self) -> None:
        key = self._pick("removed")
        if key:
            begin, code = time.monotonic(), self._cli("restore", self._node(), "restore", "--", key.cid)
            self._settle(key, begin, "kept" if code == 0 else "removed" if code == 3 else "unknown")

    def _settle(self, key: Key, begin: float, state: str) -> None:
        """What a removal or restoral came to is only known when nobody was away or cut off meanwhile."""
        key.state = state if self._world.quiet_since() < begin else "unknown"

    def _look(self) -> None:
        verb = self._dice.choice(("status", "peers", "ls", "explain", "stat"))
        key = self._pick("kept") if verb in ("explain", "stat") else None
        if key or verb not in ("explain", "stat"):
            self._cli(verb, self._node(), verb, *([key.cid] if key else []))

    def _gc(self) -> None:
        self._cli("gc", self._node(), "gc")
