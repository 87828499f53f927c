"""`p2pfs-node` as a command, and the life of a node under signals with a node that does nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "bin/p2pfs-node")]
WAIT_S = 60


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("P2PFS_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT, env=kept | environ, check=False,
    )


def test_print_config_is_the_committed_file() -> None:
    done = run("--print-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "conf/node.ini").read_text()


def test_print_config_shows_what_is_effective() -> None:
    done = run("-c", "conf/node.ini", "-o", "node.zone=r1", "--print-config", P2PFS_NODE_CAPACITY="2")
    assert "\nzone = r1\n" in done.stdout
    assert "\ncapacity = 2.0\n" in done.stdout


def test_check_config() -> None:
    assert run("-c", "conf/node.ini", "--check-config").stdout == "conf/node.ini: good\n"
    done = run("-c", "conf/node.ini", "-o", "node.lisen=a:1", "--check-config")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "p2pfs-node: error: -o: [node] has no option lisen; did you mean listen?\n"


def test_new_secret_is_new_and_alone_on_standard_output() -> None:
    first, second = run("--new-secret"), run("--new-secret")
    assert re.fullmatch("[0-9a-f]{64}\n", first.stdout)
    assert first.stdout != second.stdout
    assert "umask 077" in first.stderr


def test_version_and_help() -> None:
    assert re.fullmatch(r"p2pfs-node \d+\.\d+\.\d+\n", run("--version").stdout)
    assert "Signals:" in run("--help").stdout


@pytest.mark.parametrize("option", ["--help", "--version", "--new-secret", "--print-config"])
def test_output_that_gets_nowhere_is_an_error_and_a_reader_that_leaves_is_none(option: str) -> None:
    for target, code, says in (
        (">/dev/full", 6, "standard output: no space left on device"),
        (">&-", 2, "standard output is closed; give it a file, a pipe or /dev/null"),
        ("| true; exit ${PIPESTATUS[0]}", 128 + signal.SIGPIPE, ""),
    ):
        script = f'"$0" "$1" {option} {target}'
        words = ["bash", "-c", script, *COMMAND]
        done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == code, done.stderr
        assert done.stderr == (f"p2pfs-node: error: {says}\n" if says else "")


def test_usage_error_does_not_quote_arguments() -> None:
    done = run("-o", "cluster.secret=hunter2")
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "hunter2" not in done.stderr


def test_an_error_does_not_command_a_terminal_or_pass_for_another_one() -> None:
    # The node that invited may have worded it, or somebody who has the token.
    done = run("-c", "conf/node.ini", "-o", "node.\x1b[2Jx\nb is a node=1", "--check-config")
    assert done.stderr.startswith("p2pfs-node: error: -o: [node] has no option ?[2Jx\n  b is a node")


# --- signals: a process with a node that only waits ---------------------------------------------------

PROGRAM = """
from gevent import monkey; monkey.patch_all(thread=False)
import sys
from types import SimpleNamespace
from p2pfs import config, daemon, errors, green, logs
from p2pfs.daemon import Daemon
from p2pfs.systemd import Notifier

class Node:
    address, control_path, identity = "here:1", "/run/x", SimpleNamespace(id="me")
    over = green.Event()
    def start(self): pass
    def wait(self):
        self.over.wait(60)  # a hub without any timer would end
        if "fail" in sys.argv: raise errors.IdentityRefused("a second one")
    def reload(self, new): print("reload", new.log.level, new.node.zone, flush=True)
    def drain(self, grace_s):
        print("drain", flush=True)
        green.Event().wait(grace_s if "busy" in sys.argv else 0)
    def stop(self):
        print("stop", flush=True)
        if "hang" in sys.argv: green.Event().wait(60)
        self.over.set()
        green.sleep(0.01)
        print("stopped", flush=True)

read = lambda: config.load(sys.argv[1], [], {})
logs.set_up("info", "text", environ={})
if "hang" in sys.argv: daemon.STOP_S = 0.2
Daemon(Node(), read(), read, Notifier()).run()
"""


class Process:
    """The program above; every wait ends by the closing of the pipe at the latest."""

    def __init__(self, tmp_path: Path, *words: str, **environ: str) -> None:
        self.ini = tmp_path / "node.ini"
        self.ini.write_text("[log]\nlevel = info\n")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.ini), *words], cwd=ROOT, text=True, env=os.environ | environ,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.wait_for("node ready")

    def wait_for(self, words: str) -> list[str]:
        assert self._process.stdout
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if words in line:
                return seen
        raise AssertionError(f"no {words!r} in {''.join(seen)}")

    def send(self, name: str) -> None:
        self._process.send_signal(getattr(signal, name))

    def end(self) -> tuple[int, list[str]]:
        output, _ = self._process.communicate(timeout=WAIT_S)
        return self._process.returncode, output.splitlines()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_drains_then_stops(tmp_path: Path, name: str) -> None:
    process = Process(tmp_path)
    process.send(name)
    code, lines = process.end()
    assert code == 0, lines
    assert [line for line in lines if line in ("drain", "stop", "stopped")] == ["drain", "stop", "stopped"]
    assert "node stopped" in lines[-1]


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = Process(tmp_path, "busy")
    process.send("SIGTERM")
    process.wait_for("drain")
    process.send("SIGTERM")
    code, lines = process.end()
    assert code == 0, lines
    assert lines.count("stop") == 1


def test_a_stop_that_hangs_ends_with_the_process(tmp_path: Path) -> None:
    """A native job that waits for a disk which does not answer cannot be ended."""
    process = Process(tmp_path, "hang")
    process.send("SIGTERM")
    process.wait_for("stop")
    begun = time.monotonic()
    code, lines = process.end()
    assert (code, time.monotonic() - begun < 30) == (1, True), lines
    assert "the stop takes over 0.2 s" in lines[-1]


def test_hangup_reloads_what_can_change(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.ini.write_text("[log]\nlevel = debug\n[node]\nzone = b\n")
    process.send("SIGHUP")
    lines = process.wait_for("configuration reloaded")
    assert "reload debug \n" in lines
    assert any("log.level is now debug" in line for line in lines)
    assert any("node.zone changed" in line and "needs a restart" in line for line in lines)
    process.ini.write_text("[log]\nlevl = debug\n")
    process.send("SIGHUP")
    assert "did you mean level?" in process.wait_for("the old one stays")[-1]
    process.send("SIGUSR1")
    process.wait_for("Greenlet")
    process.send("SIGTERM")
    code, lines = process.end()
    assert code == 0, lines


def test_failure_of_the_node_ends_the_process(tmp_path: Path) -> None:
    process = Process(tmp_path, "fail")
    process.send("SIGTERM")
    code, lines = process.end()
    assert code != 0
    assert "a second one" in lines[-1]
    assert lines.count("stopped") == 1


def test_systemd_hears_of_every_step(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(WAIT_S)
        manager.bind(str(tmp_path / "notify"))

        def hear(first: str) -> None:
            while not (message := manager.recv(4096).decode()).startswith(first):
                assert message == "WATCHDOG=1", message

        process = Process(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="60000")
        hear("READY=1\nSTATUS=listening on here:1")
        for _ in range(3):
            hear("WATCHDOG=1")
        process.send("SIGHUP")
        hear("RELOADING=1\nMONOTONIC_USEC=")
        hear("READY=1")
        process.send("SIGTERM")
        hear("STOPPING=1")
        assert process.end()[0] == 0
