"""`--timeout` ends whatever a command waits for: the node, a pipe, a terminal. And what a terminal may say."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
import threading

import pytest

from p2pfs import Client, errors
from p2pfs.core import wire
from tests.unit.client.fake_node import FakeNode, Gone, Talk, data_of
from tests.unit.client.runner import WAIT_S, Runner

LATE = b"p2pfs-cli: error: not done within 0.5 s; give it more with --timeout\n"


@pytest.mark.parametrize("words", [("id", "-"), ("store", "-"), ("stat", "-"), ("import", "fifo"), ("id", "-", "-")])
def test_a_pipe_that_gives_nothing(run: Runner, words: tuple[str, ...]) -> None:
    os.mkfifo(run.folder / "fifo")
    ours, theirs = os.pipe()
    done = run("--timeout=500ms", *words, stdin=ours)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 4
    assert done.stderr.replace(b"-: not", b"not") == LATE * (len(words) - 1)


@pytest.mark.parametrize("words", [("cat", "f"), ("ls",), ("export", "f", "-o", "-")])
def test_an_output_that_nobody_takes(run: Runner, node: FakeNode, words: tuple[str, ...]) -> None:
    node.keep(data_of(3_000_000), "f")
    for number in range(3000):
        node.keep(b"x", f"pin {number}")
    with run.start("--timeout=500ms", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(WAIT_S) == 4
            assert process.stderr is not None
            assert process.stderr.read() == LATE
        finally:
            process.kill()


def test_a_passphrase_that_nobody_enters(run: Runner) -> None:
    (run.folder / "f").write_bytes(b"x")
    ours, theirs = pty.openpty()
    with run.start("--timeout=500ms", "store", "--passphrase", "f", stdin=theirs, stdout=theirs, stderr=theirs,
                   start_new_session=True) as process:
        os.close(theirs)
        assert process.wait(WAIT_S) == 4
    assert b"not done within 0.5 s" in os.read(ours, 65536)
    os.close(ours)


def test_an_end_of_file_for_a_passphrase_is_none(run: Runner) -> None:
    (run.folder / "f").write_bytes(b"x")
    ours, theirs = pty.openpty()
    with run.start("store", "--passphrase", "f", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                   preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) as process:
        os.close(theirs)
        seen = b""
        while b"passphrase: " not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"\x04")
        assert process.wait(WAIT_S) == 2
    assert b"p2pfs-cli: error: no passphrase was entered" in os.read(ours, 65536)
    os.close(ours)


@pytest.mark.parametrize("encrypt", [False, "link"])
def test_a_node_that_takes_nothing(node: FakeNode, encrypt: bool | str) -> None:
    is_over = threading.Event()

    def hang(talk: Talk, line: wire.Line) -> None:
        is_over.wait(WAIT_S)
        raise Gone

    node.hooks["STORE"] = hang
    ended: list[type[BaseException]] = []

    def store() -> None:
        source, sink = os.pipe()
        feeder = threading.Thread(target=_feed, args=(sink,))
        feeder.start()
        with Client(node.address, timeout_s=0.5) as client, open(source, "rb", buffering=0) as file:
            try:
                client.store(file, encrypt=encrypt)
            except errors.DeadlinePassed as error:
                ended.append(type(error))
        feeder.join(WAIT_S)

    thread = threading.Thread(target=store)
    thread.start()
    thread.join(5)
    is_over.set()
    thread.join(WAIT_S)
    assert ended == [errors.DeadlinePassed], "it waited for as long as the protocol lets a node take nothing"


def _feed(sink: int) -> None:
    with open(sink, "wb", buffering=0) as pipe:
        try:
            while pipe.write(bytes(65536)):
                pass
        except BrokenPipeError:
            pass
