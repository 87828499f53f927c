"""Network namespaces whose links to each other delay what they carry, for kernels without netem.

Each namespace has a TUN device, and a thread carries packets between them, each after its delay. TCP runs in the kernel
from end to end, so its windows, its pacing and its slow start see the delay as they would on a long cable. Packets are
1500 bytes; those of one burst are carried as one, as a network card with segmentation offload takes them.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import struct
import subprocess
import threading
import time

from kit.processes import run

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CSUM_AND_TSO = 0x01 | 0x02 | 0x04
HEADER_BYTES = 10
"""Of `virtio_net_hdr`, which goes along unchanged."""
PACKET_BYTES = HEADER_BYTES + 65536
TURN = 64
"""Packets read from one device before the others have their turn."""


class Delayed:
    """So many namespaces, 10.78.0.1 and on, as far from each other as `round_trip_s`. Needs root. A context manager."""

    def __init__(self, count: int, round_trip_s: float) -> None:
        self.names = [f"delayed-{os.getpid() % 1_000_000}-{number}" for number in range(1, count + 1)]
        self._one_way_s = round_trip_s / 2
        self._devices: list[int] = []
        self._on_their_way: collections.deque[tuple[float, bytes]] = collections.deque()
        self._thread = threading.Thread(target=self._carry, name="delay", daemon=True)
        self._stop, self._stopped = os.pipe()

    @staticmethod
    def ip(number: int) -> str:
        """The address in the namespace of that number, 0 for the first."""
        return f"10.78.0.{number + 1}"

    def inside(self, number: int) -> list[str]:
        """What a command begins with that is to run there."""
        return ["ip", "netns", "exec", self.names[number]]

    def __enter__(self) -> Delayed:
        try:
            for number, name in enumerate(self.names):
                run("ip", "netns", "add", name)
                self._devices.append(_open_tun(f"d{os.getpid() % 1_000_000}-{number}", name))
                run("ip", "-n", name, "addr", "add", f"{self.ip(number)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    run("ip", "-n", name, "link", "set", device, "up")
            self._thread.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all of it; a device goes with its descriptor."""
        os.close(self._stopped)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)
        for device in self._devices:
            os.close(device)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=30)

    # --- the thread ----------------------------------------------------------------------------------

    def _carry(self) -> None:
        waiting = self._on_their_way
        while True:
            left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([*self._devices, self._stop], [], [], left_s)
            if self._stop in ready:
                return
            for device in ready:
                self._take(device)
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                self._deliver(waiting.popleft()[1])

    def _take(self, device: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(TURN):
                self._on_their_way.append((time.monotonic() + self._one_way_s, os.read(device, PACKET_BYTES)))

    def _deliver(self, packet: bytes) -> None:
        is_ipv4, last = packet[HEADER_BYTES] >> 4 == 4, packet[HEADER_BYTES + 19]
        if is_ipv4 and 0 < last <= len(self._devices):
            with contextlib.suppress(OSError):  # a packet is lost, as packets are
                os.write(self._devices[last - 1], packet)


def _open_tun(name: str, netns: str) -> int:
    """The descriptor of a new TUN device, which is `eth0` of the namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(device, TUNSETOFFLOAD, CSUM_AND_TSO)
    run("ip", "link", "set", name, "netns", netns, "name", "eth0")
    return device
