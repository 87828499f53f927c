"""What keeps the versions: p2pfs with a chunker, restic, borg. Each counts what it stored and the time that it took."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from kit.cluster import CLI, Cluster
from kit.dedup.series import Unavailable


class Cost(NamedTuple):
    """Of one command."""

    seconds: float
    cpu_s: float
    """User and system, of all processes that worked on it."""


class Holdings(NamedTuple):
    """What a folder holds."""

    bytes: int
    files: int


class Tool(Protocol):
    """Keeps one version after the other, in a folder of its own, for the length of a `with` block."""

    def __enter__(self) -> Self:
        """Make what is needed before the first version."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs."""

    def keep(self, path: Path) -> Cost:
        """Keep a file or directory, without compression."""

    def holdings(self) -> Holdings:
        """All that it has on disk for what was kept, its own records among it."""


def run(command: list[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end. Raises RuntimeError with what it said when it fails."""
    begin = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return Cost(time.monotonic() - begin, usage.ru_utime + usage.ru_stime)


def holdings_of(folder: Path) -> Holdings:
    """The files below, by the sizes that they show."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return Holdings(sum(sizes), len(sizes))


class P2pfs:
    """One node, with a chunker."""

    def __init__(self, folder: Path, chunker: str) -> None:
        self._cluster = Cluster(folder, 1)
        self._chunker = chunker

    def __enter__(self) -> Self:
        self._cluster.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.close()

    def keep(self, path: Path) -> Cost:
        """Store it, as everybody does: hashed, synced, with a pin."""
        node = self._cluster[0]
        before = node.cpu_s()
        cost = run([sys.executable, str(CLI), f"--node={node.control}", "-q", "store",
                    f"--chunker={self._chunker}", str(path)])
        return Cost(cost.seconds, cost.cpu_s + node.cpu_s() - before)

    def holdings(self) -> Holdings:
        """Blocks and catalog."""
        return holdings_of(self._cluster[0].data_dir)


class _Repository:
    """A command that keeps a repository; it needs no process between two versions."""

    program = ""
    package = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repository = folder / "repository"

    def __enter__(self) -> Self:
        if shutil.which(self.program) is None:
            raise Unavailable(f"no {self.program} here: apt-get install {self.package}")
        self._folder.mkdir()
        self._initialise()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _initialise(self) -> None:
        raise NotImplementedError

    def holdings(self) -> Holdings:
        """All of the repository."""
        return holdings_of(self._repository)


class Restic(_Repository):
    """restic at its defaults (it always encrypts), without compression."""

    program = package = "restic"

    def _initialise(self) -> None:
        self._run("init")

    def keep(self, path: Path) -> Cost:
        """A snapshot."""
        return self._run("backup", "--compression=off", str(path))

    def _run(self, *args: str) -> Cost:
        environment = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self._folder / "cache")}
        return run(["restic", "--quiet", f"--repo={self._repository}", *args], environment)


class Borg(_Repository):
    """borg at its defaults, without encryption and compression."""

    program = "borg"
    package = "borgbackup"

    def _initialise(self) -> None:
        self._run("init", "--encryption=none", str(self._repository))

    def keep(self, path: Path) -> Cost:
        """An archive."""
        return self._run("create", "--compression=none", f"{self._repository}::{path.name}", str(path))

    def _run(self, *args: str) -> Cost:
        environment = {"BORG_BASE_DIR": str(self._folder / "base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        return run(["borg", *args], environment)


def tools(names: list[str], folder: Path) -> dict[str, Tool]:
    """By name: `restic`, `borg`, or a chunker of p2pfs."""
    others: dict[str, type[_Repository]] = {"restic": Restic, "borg": Borg}
    return {
        name: others[name](folder / name) if name in others else P2pfs(folder / name, name)  # type: ignore[misc]
        for name in names
    }
