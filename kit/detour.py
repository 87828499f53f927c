"""A detour for what a network namespace sends: each packet waits there, and some are lost. Takes root and TUN.

It does what netem does, also where the kernel has none. A rule leads what is sent in the namespace into a TUN device of
its own. A thread reads a packet there, lets its delay pass, and writes it back to the same device; the kernel then
forwards it as it would have been sent without the rule. So addresses, neighbours and connections stay as they are when
a detour begins or ends, and who makes none pays nothing. TCP runs in the kernel from end to end: its windows, its
pacing and its slow start see the delay as on a long cable. Packets are 1500 bytes; those of one burst are carried, or
lost, as one, as a network card with segmentation offload takes them.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import random
import select
import struct
import threading
import time
from collections.abc import Iterator

from kit.processes import run

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CSUM_AND_TSO = 0x01 | 0x02 | 0x04
PACKET_BYTES = 10 + 65536
"""With `virtio_net_hdr`, which goes along unchanged."""
TURN = 64
"""Packets read before those have their turn whose time has come."""
DEVICE = "detour"
TABLE = "100"
SENT_HERE = ("iif", "lo", "lookup", TABLE)
"""The rule; what the thread writes back comes from `DEVICE`, and is none of its business."""
SETTINGS = {
    # To take what has an own address as its sender, and to pass it on.
    f"conf/{DEVICE}/accept_local": 1, f"conf/{DEVICE}/rp_filter": 0, "conf/all/rp_filter": 0, "ip_forward": 1,
}


@contextlib.contextmanager
def detour(netns: str, subnet: str, delay_s: float, loss: float) -> Iterator[None]:
    """What the namespace sends to the subnet comes so much later, and this share of it, 0 to 1, not at all.

    At the end, what is on its way arrives at once. One detour a namespace at a time.
    """
    with contextlib.ExitStack() as stack:
        device = _open_tun(netns)
        stack.callback(os.close, device)  # it goes with its descriptor, and the route with it
        stop, stopped = os.pipe()
        stack.callback(os.close, stop)
        for name, value in SETTINGS.items():
            run("ip", "netns", "exec", netns, "sh", "-c", f"echo {value} >/proc/sys/net/ipv4/{name}")
        run("ip", "-n", netns, "link", "set", DEVICE, "up")
        run("ip", "-n", netns, "route", "add", subnet, "dev", DEVICE, "table", TABLE)
        thread = threading.Thread(target=_carry, args=(device, stop, delay_s, loss), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(os.close, stopped)
        run("ip", "-n", netns, "rule", "add", *SENT_HERE)
        stack.callback(run, "ip", "-n", netns, "rule", "del", *SENT_HERE)
        yield


def _open_tun(netns: str) -> int:
    """The descriptor of a new TUN device, which is `DEVICE` of the namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        request = struct.pack("16sH22x", b"detour%d", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)
        name = fcntl.ioctl(device, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        fcntl.ioctl(device, TUNSETOFFLOAD, CSUM_AND_TSO)
        run("ip", "link", "set", name, "netns", netns, "name", DEVICE)
    except BaseException:
        os.close(device)
        raise
    return device


def _carry(device: int, stop: int, delay_s: float, loss: float) -> None:
    """Until `stop` can be read."""
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    ready: list[int] = []
    while stop not in ready:
        left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([device, stop], [], [], left_s)
        for packet in _packets(device):
            if random.random() >= loss:
                waiting.append((time.monotonic() + delay_s, packet))
        now = time.monotonic()
        while waiting and (waiting[0][0] <= now or stop in ready):
            with contextlib.suppress(OSError):  # a packet is lost, as packets are
                os.write(device, waiting.popleft()[1])


def _packets(device: int) -> Iterator[bytes]:
    """Some that wait in the device."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(TURN):
            yield os.read(device, PACKET_BYTES)
