"""Real nodes as real processes on loopback, for the demo, the benchmarks and the tests.

    with Cluster(tmp, 3) as cluster:
        cluster[0].cli("store", "FILE")
        cluster[1].kill()
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kit.started import Started
from p2pfs import Client

ROOT = Path(__file__).resolve().parent.parent
NODE = ROOT / "bin" / "p2pfs-node"
CLI = ROOT / "bin" / "p2pfs-cli"
CONFIG = ROOT / "conf" / "node.ini"
READY_S = 60.0
LONGEST = 80
"""Bytes of a folder's path that leave room for `/NAME/control.sock`."""
FIRST_PORT, RESERVED = 10_000, 200
"""Where ports for nodes begin, and how many of the last ones a process keeps for itself."""
_reserved: collections.deque[socket.socket] = collections.deque()


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition`, asked every 50 ms. Raises TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port on loopback that nobody has, and that nobody is given before the one who asked listens on it.

    The system gives it to no connection either, so that a node finds it free when it starts again.
    """
    for port in random.choices(range(FIRST_PORT, _first_of_the_system()), k=1000):
        name, probe = socket.socket(socket.AF_UNIX), socket.socket()
        with probe, contextlib.suppress(OSError):
            # A name that is known to all processes, and goes with the one that has it.
            name.bind(f"\0p2pfs-port-{port}")
            probe.bind(("127.0.0.1", port))
            _reserved.append(name)
            if len(_reserved) > RESERVED:
                _reserved.popleft().close()
            return port
        name.close()
    raise RuntimeError("no port is free")


def _first_of_the_system() -> int:
    """Ports from here on are those of outgoing connections, where there is room below them."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return first if first > 2 * FIRST_PORT else 65536


@functools.cache
def reachable(folder: Path) -> Path:
    """The folder, or where its path is too long for sockets below it (107 bytes, unix(7)), a link that goes at exit."""
    if len(os.fsencode(folder)) <= LONGEST:
        return folder
    link = Path(tempfile.mkdtemp(prefix="p2pfs-", dir="/tmp")) / "to"
    atexit.register(shutil.rmtree, link.parent, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    return link


def clean_environment() -> dict[str, str]:
    """This environment without settings of ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith("P2PFS_")}


class Node:
    """One `p2pfs-node` process with a data directory of its own."""

    def __init__(self, folder: Path, name: str, options: dict[str, str]) -> None:
        self.name = name
        self.folder = folder = reachable(folder)
        self.data_dir = folder / name
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.control = self.data_dir / "control.sock"
        self.log_path = folder / f"{name}.log"
        self.options = {
            "node.name": name, "node.data_dir": str(self.data_dir), "node.listen": self.address, **options,
        }
        self.environment: dict[str, str] = {}
        """More environment variables for the process."""
        self.prefix: list[str] = []
        """A command that runs the node's as its own process: `ip netns exec NAME`."""
        self.config = CONFIG
        """The configuration file; `options` come on top, and stay what they are over a SIGHUP."""
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_s = 0.0
        """Seconds from the start of the process to its READY."""

    def make(self, *words: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run `p2pfs-node init` or `join` for this node, which starts from the file that this wrote, if it did."""
        file = self.folder / f"{self.name}.conf" / "node.ini"
        overrides = [word for key, value in self.options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [*self.prefix, sys.executable, str(NODE), words[0], "-c", str(file), *overrides, *words[1:]],
            capture_output=True, text=True, check=False,
            **{"timeout": READY_S, "env": clean_environment(), **kwargs},
        )
        if done.returncode == 0:
            self.config, self.options = file, {}
        return done

    def start(self, *, wait: bool = True) -> Node:
        """Start the process; with `wait`, return when it said READY (by the systemd protocol)."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        notify = self.folder / f"{self.name}.notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_path.open("ab") as log:
            ready.bind(str(notify))
            begin = time.monotonic()
            overrides = [word for key, value in self.options.items() for word in ("-o", f"{key}={value}")]
            environment = {**clean_environment(), **self.environment}
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, str(NODE), "-c", str(self.config), *overrides],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**environment, "NOTIFY_SOCKET": str(notify)} if wait else environment,
            )
            if wait:
                self._wait_ready(ready, begin)
        return self

    def _wait_ready(self, ready: socket.socket, begin: float) -> None:
        assert self.process is not None
        ready.settimeout(0.1)
        while time.monotonic() < begin + READY_S:
            try:
                if b"READY=1" in ready.recv(4096):
                    self.ready_s = time.monotonic() - begin
                    return
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        raise RuntimeError(f"{self.name} did not become ready:\n{self.log()[-3000:]}")

    def log(self) -> str:
        """All that the node wrote so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def cli(self, *args: str, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run `p2pfs-cli` against this node. With `check`, a failure raises with what it printed."""
        done = subprocess.run(
            [sys.executable, str(CLI), f"--node={self.control}", *args],
            capture_output=True, text=True, errors="replace", check=False, **{"timeout": 300, **kwargs},
        )
        if check and done.returncode:
            raise RuntimeError(f"p2pfs-cli {' '.join(args)} exited {done.returncode}:\n{done.stderr}")
        return done

    def json(self, *args: str, **kwargs: Any) -> list[dict[str, Any]]:
        """The JSON lines that a CLI verb prints."""
        return [json.loads(line) for line in self.cli("--json", *args, **kwargs).stdout.splitlines()]

    def states(self) -> dict[str, str]:
        """Name to state of every member, as this node sees it."""
        return {row["name"]: row["state"] for row in self.json("peers")}

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with Client(str(self.control)) as client:
            lines = client.metrics().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait(30)

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def is_still(self) -> bool:
        """None of its threads runs: SIGSTOP has come to all of them, but for those that wait for a disk (D)."""
        assert self.process is not None
        states = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                states.append((task / "stat").read_text().rsplit(")", 1)[1].split()[0])
        return set(states) <= {"T", "D"}

    def memory(self, what: str = "VmRSS") -> int:
        """Resident bytes of the process now; `VmHWM`: at most so far."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_s(self) -> float:
        """CPU seconds that the process used so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cluster(Started):
    """Some nodes with one secret; the first is the seed of the others. Leaving the `with` block ends them all."""

    def __init__(self, folder: Path, size: int, **options: str) -> None:
        self.folder = folder
        common = {"cluster.secret": secrets.token_hex(32), "storage.reserve_free": "0"}
        common.update({key.replace("__", "."): value for key, value in options.items()})
        self.nodes = [Node(folder, f"node-{chr(ord('a') + number)}", dict(common)) for number in range(size)]
        for node in self.nodes[1:]:
            node.options["cluster.seeds"] = self.nodes[0].address

    def start(self) -> Cluster:
        """Start all and wait until everybody sees everybody alive."""
        for node in self.nodes:
            node.start(wait=False)
        self.wait_alive()
        return self

    def wait_alive(self, seconds: float = READY_S) -> None:
        """Wait until every running node sees every running node alive."""
        running = {node.name for node in self.running()}
        for node in self.running():
            # The socket is there a moment before it answers.
            wait_until(
                lambda node=node: node.control.exists() and node.cli("peers", check=False).returncode == 0,
                seconds, f"{node.name} listens: {node.log()[-2000:]}",
            )
            wait_until(
                lambda node=node: running <= {name for name, state in node.states().items() if state == "alive"},
                seconds, f"{node.name} sees {running} alive",
            )

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """All running nodes stopped in the middle of whatever they do, for a look at all disks at one moment."""
        nodes = self.running()
        try:
            for node in nodes:
                node.signal(signal.SIGSTOP)
            wait_until(lambda: all(node.is_still() for node in nodes), 30.0, "all threads stop")
            yield
        finally:
            for node in nodes:
                node.signal(signal.SIGCONT)

    def running(self) -> list[Node]:
        """Nodes whose process lives."""
        return [node for node in self.nodes if node.process is not None and node.process.poll() is None]

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def close(self) -> None:
        """Kill whatever runs."""
        for node in self.running():
            node.signal(signal.SIGCONT)
            node.kill()
