"""Blocks by plain TCP, without nodes: what a way can carry, and what is left of it when each block waits for an answer.

`python -m kit.bench.plain serve` answers each MiB that comes with a byte, and says `ready` when it listens;
`python -m kit.bench.plain ask HOST CONNECTIONS BLOCKS all` sends all blocks of a connection and then waits for all
answers, with `each` in place of `all` it waits after each block; it prints the seconds.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from kit.cluster import ROOT
from kit.processes import MIB

PORT = 5001


def plain_s(receiver: list[str], sender: list[str], host: str, connections: int, blocks: int, waits: str) -> float:
    """Seconds for so many blocks. `receiver` and `sender`: what their commands begin with (`ip netns exec NAME`)."""
    command = [sys.executable, "-m", "kit.bench.plain"]
    with subprocess.Popen([*receiver, *command, "serve"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            ask = [*sender, *command, "ask", host, str(connections), str(blocks), waits]
            return float(subprocess.run(ask, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        finally:
            server.kill()


def serve() -> None:
    """Until it is killed."""
    with socket.create_server(("", PORT)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    block = memoryview(bytearray(MIB))
    done = 0
    while count := connection.recv_into(block[done:]):
        done += count
        if done == MIB:
            connection.sendall(b"!")
            done = 0


def ask(host: str, connections: int, blocks: int, waits: str) -> float:
    """Seconds from when all are connected to the last answer."""
    left = iter(range(blocks))
    sockets = [socket.create_connection((host, PORT)) for _ in range(connections)]
    threads = [threading.Thread(target=_send, args=(each, left, waits == "each")) for each in sockets]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begin


def _send(connection: socket.socket, left: Iterator[int], waits: bool) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    block = bytes(MIB)
    unanswered = 0
    for _ in left:
        connection.sendall(block)
        unanswered += 1
        if waits:
            unanswered -= len(connection.recv(1))
    while unanswered:
        unanswered -= len(connection.recv(unanswered))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        print(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
