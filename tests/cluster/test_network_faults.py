"""Links that are slow, lose packets or are cut while connections live on them, and are as before when that is over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit.chaos.faults import Faults, Step
from kit.chaos.world import World
from kit.cluster import wait_until
from kit.network import Network
from kit.truth import Truth

CLONE_NEWNET = 0x40000000
DELAY_S = 0.15
PACKETS = 200
QUIET_S = 1.0
"""A packet that is so late is lost."""
CONNECT = """
import socket, sys, time
def connect_s():
    begin = time.monotonic()
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60).close()
    return time.monotonic() - begin
print(min(connect_s() for _ in range(3)))
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip") or not os.path.exists("/dev/net/tun"),
                       reason="network namespaces and their links take root, ip and /dev/net/tun"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2) as network:
        yield network


def socket_in(netns: str, kind: socket.SocketKind) -> socket.socket:
    """A socket belongs to the namespace of the thread that made it, by setns(2)."""

    def make() -> socket.socket:
        descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        with open(descriptor, "rb"):
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            made = socket.socket(socket.AF_INET, kind)
            made.settimeout(60)
            return made

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


@contextlib.contextmanager
def connection(network: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection between the two: the end in the first, and that in the second."""
    with socket_in(network.names[0], socket.SOCK_STREAM) as listener, \
            socket_in(network.names[1], socket.SOCK_STREAM) as there:
        listener.bind((network.ip(0), 0))
        listener.listen()
        there.connect(listener.getsockname())
        here, _ = listener.accept()
        with here:
            yield here, there


def round_trip_s(here: socket.socket, there: socket.socket) -> float:
    """The quickest of some."""
    times = []
    for _ in range(5):
        begin = time.monotonic()
        for sender, receiver in ((here, there), (there, here)):
            sender.sendall(b"?")
            assert receiver.recv(1) == b"?"
        times.append(time.monotonic() - begin)
    return min(times)


def arriving(network: Network, sender: int, receiver: int) -> int:
    """How many of the packets that are sent arrive."""
    with socket_in(network.names[receiver], socket.SOCK_DGRAM) as into, \
            socket_in(network.names[sender], socket.SOCK_DGRAM) as out:
        into.bind((network.ip(receiver), 0))
        into.settimeout(QUIET_S)
        for _ in range(PACKETS):
            out.sendto(b"!", into.getsockname())
        count = 0
        with contextlib.suppress(TimeoutError):
            while count < PACKETS:
                count += len(into.recv(1))
        return count


def test_a_connection_lives_on_while_its_way_gets_longer_and_shorter(network: Network) -> None:
    with connection(network) as (here, there):
        assert round_trip_s(here, there) < DELAY_S
        with network.slow(0, DELAY_S):
            assert DELAY_S <= round_trip_s(here, there) < 2 * DELAY_S
            with network.slow(1, DELAY_S):
                assert round_trip_s(here, there) >= 2 * DELAY_S
            assert round_trip_s(here, there) < 2 * DELAY_S
        assert round_trip_s(here, there) < DELAY_S


def test_some_of_what_a_slow_node_sends_is_lost(network: Network) -> None:
    assert arriving(network, 0, 1) == PACKETS
    with network.slow(0, 0.01, loss=0.25):
        assert PACKETS // 2 < arriving(network, 0, 1) < PACKETS
        assert arriving(network, 1, 0) == PACKETS
    assert arriving(network, 0, 1) == PACKETS


def test_what_comes_over_a_lossy_way_is_what_was_sent(network: Network) -> None:
    sent = os.urandom(4 << 20)
    with connection(network) as (here, there), network.slow(0, 0.005, loss=0.05), network.slow(1, 0.005, loss=0.05):
        sender = threading.Thread(target=here.sendall, args=(sent,))
        sender.start()
        came = bytearray()
        while len(came) < len(sent):
            came += there.recv(1 << 20)
        sender.join()
    assert came == sent


def test_a_slow_way_can_be_cut_too(network: Network) -> None:
    with network.slow(0, 0.001), network.cut(0, 1):
        assert arriving(network, 0, 1) == 0
        assert arriving(network, 1, 0) == PACKETS
    assert arriving(network, 0, 1) == PACKETS


def test_chaos_makes_a_node_slow_for_as_long_as_it_says(tmp_path: Path) -> None:
    with World(tmp_path, 3, use_netns=True) as world:
        slow, other = world.nodes[:2]
        truth, leave = Truth(), threading.Event()
        faults = Faults(world, leave, lambda node: truth.disk(node.data_dir, node.name))
        assert "slow" in faults.possible(["slow"])

        def connect_s() -> float:
            command = [*other.prefix, sys.executable, "-c", CONNECT, *slow.address.split(":")]
            return float(subprocess.run(command, capture_output=True, check=True, text=True, timeout=120).stdout)

        assert connect_s() < DELAY_S
        fault = threading.Thread(target=faults.play, args=(Step("slow", (0,), 60.0, 0.0, 1.0),))
        fault.start()
        try:
            wait_until(lambda: connect_s() >= DELAY_S, 30, "the way to the node is slow")
            assert connect_s() >= DELAY_S
        finally:
            leave.set()
            fault.join()
        assert connect_s() < DELAY_S
