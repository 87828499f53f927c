"""`make kills`: kill -9 at random moments of stores on three nodes; whatever was acknowledged has to be there.

    python -m kit.kills [--rounds=1000] [--seed=N] [--keep=DIR] [--json=FILE]

Each round stores a file or a directory through one of three nodes (2 copies, quorum 2), kills one, two or all three
of them, the client, or both, at a random moment of the store, starts the dead ones again, and then looks: every id
that was acknowledged is readable and equal (the latest each round, some of the old ones, all of them every 50
rounds); what was just acknowledged has two copies on disk; no file has a block's name and other bytes; a start leaves
nothing in `temp`. The seed fixes what is stored, where, who is killed and at which part of the store; how far the
store is at that moment is up to the machine, so a replay repeats the choices and not every byte.

Exit codes: 0 nothing was lost, 1 something was: seed and evidence are printed, and the folder stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from kit.cluster import CLI, Cluster, Node
from kit.truth import SETTLED_NS, Truth, count_root
from p2pfs import Client, errors
from p2pfs.core.cid import CID

MIB = 1024 * 1024
READABLE_S = 60.0
"""After a restart, everything that was acknowledged can be read within this time."""
COMMAND_S = 90.0
SAMPLE = 3
"""Old ids that are read in each round."""
ALL_EVERY = 50


class Violation(Exception):
    """A promise that was not kept; the message says which, and what shows it."""


class Kept(NamedTuple):
    """Something that was acknowledged."""

    cid: str
    digest: str
    """Of the bytes, or of the tree: `tree_digest`."""
    is_directory: bool
    number: int
    """The round that stored it."""


def tree_digest(path: Path) -> str:
    """A digest of a file's bytes, or of the names and bytes of a tree."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for entry in sorted(path.rglob("*")):
        whole.update(f"{entry.relative_to(path)}\0{'' if entry.is_dir() else tree_digest(entry)}\n".encode())
    return whole.hexdigest()


def make_source(generator: random.Random, path: Path) -> int:
    """A file of 0 to 8 MiB, or one time in six a directory of small ones; its bytes."""
    if generator.random() < 1 / 6:
        sizes = [generator.choice((0, 100, 5000, 70_000, 400_000)) for _ in range(generator.randint(1, 12))]
        for number, size in enumerate(sizes):
            folder = path / ("sub" if number % 3 == 2 else ".")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.bin").write_bytes(generator.randbytes(size))
        return sum(sizes)
    # Small ones as often as large ones: most moments of their stores are not those of a large one.
    size = generator.randint(0, generator.choice((100_000, 2 * MIB, 8 * MIB)))
    path.write_bytes(generator.randbytes(size))
    return size


class Kills:
    """All rounds of one run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.cluster = Cluster(folder, 3, cluster__replicas="2", cluster__write_quorum="2", repair__sync_interval="1s")
        self.kept: list[Kept] = []
        self.truth = Truth()
        self.start_s = 0.2
        """What a command takes that does nothing; measured."""
        self.store_s = 0.2
        """What the store of 1 MiB takes, beside the start of the command; learned: a little more for each that had not
        ended when it was interrupted, and what it took for each that had."""
        self.figures = dict.fromkeys(
            ("rounds", "acknowledged", "not_acknowledged", "killed_nodes", "killed_clients", "reads", "retried_reads",
             "wrong_bytes", "partial_files", "unreadable", "leftovers"), 0)

    def round(self, number: int) -> None:
        """One store with kills in it, and what has to hold afterwards. Raises Violation."""
        source = self.folder / "source" / f"{number}"
        source.parent.mkdir(exist_ok=True)
        size = make_source(self.random, source)
        digest = tree_digest(source)
        through = self.random.choice(self.cluster.nodes)
        victims = self.random.sample(self.cluster.nodes, self.random.choice((0, 1, 1, 2, 3)))
        is_client_killed = not victims or self.random.random() < 0.2
        cid = self._store(through, source, size, victims, is_client_killed, self.random.random())
        self.figures["rounds"] += 1
        if cid is not None:
            self.kept.append(Kept(cid, digest, source.is_dir(), number))
            self._check_copies(cid)  # before anybody starts who could make up for what is missing
        self._restart(victims)
        self._check_disks()
        self._check_reads(number)
        shutil.rmtree(source) if source.is_dir() else source.unlink()

    def _store(
        self, through: Node, source: Path, size: int, victims: list[Node], is_client_killed: bool, moment: float
    ) -> str | None:
        """Store and kill meanwhile; the CID if the store was acknowledged."""
        begin = time.monotonic()
        client = subprocess.Popen(
            [sys.executable, str(CLI), f"--node={through.control}", "--json", "-q", "store", str(source)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        earliest_s, weight = 0.6 * self.start_s, 0.3 + size / MIB
        try:
            client.wait(earliest_s + moment * (self.start_s + self.store_s * weight - earliest_s))
        except subprocess.TimeoutExpired:
            self.store_s = min(1.0, 1.03 * self.store_s)
        else:
            took_s = max(0.0, time.monotonic() - begin - self.start_s) / weight
            self.store_s += (took_s - self.store_s) / 8
        for node in victims:
            node.kill()
        if is_client_killed:
            client.kill()
        self.figures["killed_nodes"] += len(victims)
        self.figures["killed_clients"] += is_client_killed
        try:
            output, messages = client.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            client.kill()
            raise Violation(f"a store did not end within {COMMAND_S:g} s") from None
        text = messages.decode(errors="replace")
        if client.returncode in (1, 2) or "Traceback" in text or '"INTERNAL"' in text:
            raise Violation(f"a store ended with {client.returncode}: {text}")
        self.figures["acknowledged" if output else "not_acknowledged"] += 1
        return str(json.loads(output)["cid"]) if output else None

    def _restart(self, victims: list[Node]) -> None:
        started_ns = time.time_ns()
        try:
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(Node.start, victims))
        except RuntimeError as error:
            raise Violation(f"a node does not start after a kill: {error}") from error
        for node in victims:
            # What another node sends meanwhile is younger.
            old = [path for path in self._disk(node).leftovers if age_ns(path) < started_ns - SETTLED_NS]
            if old:
                self.figures["leftovers"] += len(old)
                raise Violation(f"{node.name} started and left {old}")

    def _disk(self, node: Node, **how: bool) -> Any:
        return self.truth.disk(node.data_dir, node.name, **how)

    def _check_copies(self, cid: str) -> None:
        # Or a copy that moves meanwhile would be seen neither where it was nor where it is.
        with self.cluster.standing_still():
            root = count_root([self._disk(node) for node in self.cluster], CID.parse(cid))
        if root.fewest < 2:
            raise Violation(f"{cid} was acknowledged with 2 copies, and a block of it has {root.fewest}")

    def _check_disks(self, rehash: bool = False) -> None:
        disks = [self._disk(node, rehash=rehash) for node in self.cluster]
        wrong = [path for disk in disks for path in disk.bad + disk.foreign]
        if wrong:
            self.figures["partial_files"] += len(wrong)
            raise Violation(f"files under a final name that are not what it says: {wrong}")

    def _check_reads(self, number: int) -> None:
        if (number + 1) % ALL_EVERY == 0:
            wanted = list(self.kept)
        else:
            wanted = self.kept[-2:] + self.random.sample(self.kept, min(SAMPLE, len(self.kept)))
        # Each through one node, so that all of them are asked in time.
        through = {node.name: Client(str(node.control), timeout_s=20) for node in self.cluster}
        try:
            for kept in wanted:
                self._check_read(kept, through[self.random.choice(self.cluster.nodes).name])
        finally:
            for client in through.values():
                client.close()

    def _check_read(self, kept: Kept, client: Client) -> None:
        end = time.monotonic() + READABLE_S
        self.figures["reads"] += 1
        while True:
            try:
                found = self._read(kept, client)
                break
            except errors.P2pfsError as error:
                if isinstance(error, errors.InternalError) or time.monotonic() > end:
                    self.figures["unreadable"] += 1
                    raise Violation(f"{kept} cannot be read through {client.address}: {error!r}") from error
                self.figures["retried_reads"] += 1
                time.sleep(0.2)
        if found != kept.digest:
            self.figures["wrong_bytes"] += 1
            raise Violation(f"{kept} came back as {found} through {client.address}")

    def _read(self, kept: Kept, client: Client) -> str:
        if not kept.is_directory:
            whole = hashlib.sha256()
            for piece in client.read(kept.cid):
                whole.update(piece)
            return whole.hexdigest()
        target = self.folder / "back"
        shutil.rmtree(target, ignore_errors=True)
        client.get(kept.cid, target)
        return tree_digest(target)

    def run(self, rounds: int, say_every: int) -> None:
        """All rounds, and a last look at everything. Raises Violation."""
        with self.cluster:
            self.start_s = min(self._command_s() for _ in range(3))
            begin = time.monotonic()
            for number in range(rounds):
                self.round(number)
                if (number + 1) % say_every == 0:
                    rate = 60 * (number + 1) / (time.monotonic() - begin)
                    acknowledged = self.figures["acknowledged"]
                    print(f"  {number + 1} rounds ({rate:.0f} a minute), {acknowledged} acknowledged", flush=True)
            self._check_reads(-1)
            self._check_disks(rehash=True)

    def _command_s(self) -> float:
        begin = time.monotonic()
        self.cluster[0].cli("peers")
        return time.monotonic() - begin


def age_ns(path: Path) -> int:
    """When the file was written last; now, when it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return time.time_ns()


def main() -> int:
    """Run it, and say how it ended."""
    parser = argparse.ArgumentParser(
        prog="python -m kit.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="how many (1000; about 25 a minute)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="repeats the choices of a run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder, and leave it there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON, too")
    wanted = parser.parse_args()
    # So that a terminated run ends its nodes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    if wanted.keep:
        wanted.keep.mkdir(parents=True)
    folder = (wanted.keep or Path(tempfile.mkdtemp(prefix="p2pfs-kills-"))).resolve()
    print(f"kills: {wanted.rounds} rounds, seed {wanted.seed}, in {folder}", flush=True)
    kills, problem, begin = Kills(folder, wanted.seed), "", time.monotonic()
    try:
        kills.run(wanted.rounds, say_every=25)
    except Violation as violation:
        problem = str(violation)
    seconds = time.monotonic() - begin
    for what, count in kills.figures.items():
        print(f"  {what:<18} {count:>8}")
    print(f"  {'seconds':<18} {seconds:>8.0f}")
    if wanted.json:
        report = {"seed": wanted.seed, "seconds": seconds, "problem": problem, **kills.figures}
        wanted.json.write_text(json.dumps(report, indent=1))
    if problem:
        print(f"BROKEN in round {kills.figures['rounds']}: {problem}\n"
              f"evidence: {folder} (node-*.log, node-*/); again: python -m kit.kills --seed={wanted.seed}")
        return 1
    if not wanted.keep:
        shutil.rmtree(folder)
    print("all that was acknowledged is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
