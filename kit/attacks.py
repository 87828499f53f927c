"""Those who mean harm to a node, for the tests and for `python -m kit.bench attack`.

`python -m kit.attacks NAME ADDRESS < SECRET` attacks until it is killed, with a real certificate of the cluster where
the attack is a member's. It says `begun` once it is under way.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kit.cluster import ROOT
from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.hlc import MAX_AHEAD_MS, stamp_of
from p2pfs.core.member import MAX_INCARNATION, Member, news_to_wire
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Pin
from p2pfs.net import certificates, tls
from p2pfs.net.connection import Connection, connect, split_address

GHOSTS = 10_000
ROWS = 1000
PINS_AT_ONCE = 250
SILENT = 300
"""Connections that one slow attacker keeps, or tries to."""
THREADS = 4
PAUSE_S = 0.2
CLIENT_HELLO = b"\x16\x03\x01\x3f\xff\x01" + bytes(1000)
"""How a TLS handshake begins that says it will be long."""


class Target:
    """A node, and what a member needs to talk to it."""

    def __init__(self, address: str, secret: str, folder: Path) -> None:
        self.address = address
        authority, key = certificates.derive_authority(secret), certificates.new_key()
        self.id = certificates.node_id_of(certificates.public_bytes(certificates.load_key(key)))
        now = datetime.datetime.now(datetime.UTC)
        contents = {
            "ca.pem": authority.pem, "key.pem": key,
            "cert.pem": certificates.issue(authority, certificates.load_key(key), self.id, now),
        }
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        self.context = tls.client_context_from_dir(str(folder))
        self.member = Member(self.id, "evil", ("127.0.0.1:9",), incarnation=int(time.time() * 1000))

    def plain(self) -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection(split_address(self.address), timeout=10.0)

    def connect(self) -> Connection:
        """As a member."""
        connection = connect(self.address, self.context, 10.0, None)
        try:
            connection.request("HELLO", wire.VERSION, self.id, "0" * 16, 0)
        except BaseException:
            connection.close()
            raise
        return connection

    def news(self, rows: list[Member]) -> bytes:
        """Membership news of this member."""
        return wire.dump_json(news_to_wire(self.member, rows))


# --- strangers ---------------------------------------------------------------------------------------

def trickle(target: Target) -> Iterator[None]:
    """Many connections that begin a handshake and send a byte now and then."""
    return _slowly(target.plain, CLIENT_HELLO)


def _slowly(open_one: Callable[[], socket.socket], text: bytes) -> Iterator[None]:
    socks: dict[socket.socket, int] = {}
    while True:
        with contextlib.suppress(OSError, errors.P2pfsError):
            while len(socks) < SILENT:
                socks[open_one()] = 0
        for sock, sent in list(socks.items()):
            try:
                sock.sendall(text[sent % len(text) : sent % len(text) + 1])
                socks[sock] += 1
                if select.select([sock], [], [], 0)[0] and not sock.recv(4096):
                    raise ConnectionResetError
            except OSError:
                sock.close()
                del socks[sock]
        yield
        time.sleep(PAUSE_S)


def handshakes(target: Target) -> Iterator[None]:
    """TLS handshakes without a certificate of the cluster, one after the other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while True:
        with contextlib.suppress(OSError), target.plain() as plain, context.wrap_socket(plain) as secure:
            secure.recv(1)
        yield


def knocks(target: Target) -> Iterator[None]:
    """Connections that are closed at once, one after the other."""
    while True:
        with contextlib.suppress(OSError):
            target.plain().close()
        yield


# --- members -----------------------------------------------------------------------------------------

def connections(target: Target) -> Iterator[None]:
    """As many connections as it can get, each of which then says nothing."""
    kept = []
    while True:
        with contextlib.suppress(errors.P2pfsError):
            kept.append(target.connect())
        yield


def crawl(target: Target) -> Iterator[None]:
    """As many connections as it can get, on each of which a request comes byte by byte."""
    context = target.context

    def open_one() -> socket.socket:
        return tls.connect(target.plain(), context, target.address, 10.0)

    return _slowly(open_one, b"STATUS")


def _speak(target: Target, say: Callable[[Connection], object]) -> Iterator[None]:
    """The same over and over, on one connection as long as it lasts."""
    while True:
        with contextlib.suppress(errors.P2pfsError), contextlib.closing(target.connect()) as connection:
            while True:
                with contextlib.suppress(errors.NotFound, errors.Refused):
                    say(connection)
                yield
        yield


def ghosts(target: Target) -> Iterator[None]:
    """Ten thousand members that do not exist, over and over, each with all the capacity that there may be."""
    numbers = itertools.count()

    def say(connection: Connection) -> None:
        start = next(numbers) * ROWS % GHOSTS
        rows = [
            Member(f"ghost-{number:040}", f"ghost-{number}", (f"127.0.0.1:{2 + number % 1000}",), capacity=10_000.0,
                   incarnation=target.member.incarnation)
            for number in range(start, start + ROWS)
        ]
        connection.request("MEMBERS", body=target.news(rows))

    return _speak(target, say)


def clocks(target: Target) -> Iterator[None]:
    """Incarnations and stamps of all times: the last one that is taken, the last one that there is, none."""
    numbers = itertools.count()

    def say(connection: Connection) -> None:
        now_ms = int(time.time() * 1000)
        for incarnation in (MAX_INCARNATION, 0, now_ms + MAX_AHEAD_MS + 60_000):
            connection.request("PING", body=target.news([target.member._replace(
                id=f"late-{next(numbers)}", incarnation=incarnation, state="dead", dead_s=MAX_INCARNATION
            )]))
        stamps = [0, stamp_of(now_ms + MAX_AHEAD_MS - 100), 2**63 - 1]
        connection.request("PIN", body=wire.dump_json([
            _pin(next(numbers), stamp, target.id).to_wire() for stamp in stamps
        ]))

    return _speak(target, say)


def pins(target: Target) -> Iterator[None]:
    """A million pins of roots that are nowhere, and more."""
    numbers = itertools.count()

    def say(connection: Connection) -> None:
        stamp = stamp_of(int(time.time() * 1000))
        connection.request("PIN", body=wire.dump_json([
            _pin(next(numbers), stamp, target.id).to_wire() for _ in range(PINS_AT_ONCE)
        ]))

    return _speak(target, say)


def _pin(number: int, stamp: int, origin: str) -> Pin:
    cid = CID(RAW, multihash(SHA2_256, b"%d" % number))
    return Pin(cid, f"evil-{os.getpid()}-{number}", 1, None, 1, 1, 1, stamp, origin)


def questions(target: Target) -> Iterator[None]:
    """Which of thousands of blocks are here, and all that is in the catalog, over and over."""
    body = b"\n".join(str(CID(RAW, multihash(SHA2_256, b"%d" % number))).encode() for number in range(4096))

    def say(connection: Connection) -> None:
        connection.request("HAVE", "check", body=body)
        list(connection.stream("BUCKET", os.getpid() % 256, body=b""))

    return _speak(target, say)


def readers(target: Target) -> Iterator[None]:
    """As many requests for large answers as it can make, of which it takes a little now and then."""
    with contextlib.closing(target.connect()) as connection:
        rows = [json.loads(line) for part in connection.stream("PINS") for line in part.splitlines()]
    largest = max(rows, key=lambda row: row["size"])["cid"]
    kept: list[Connection] = []
    while True:
        with contextlib.suppress(errors.P2pfsError):
            kept.append(target.connect())
            kept[-1].stream("READ", largest, 0, None)
        yield


ATTACKS: dict[str, Callable[[Target], Iterator[None]]] = {
    attack.__name__: attack for attack in (
        trickle, handshakes, knocks, connections, crawl, ghosts, clocks, pins, questions, readers,
    )
}
ALONE = {"trickle", "crawl"}
"""They do all of it in one thread."""


@contextlib.contextmanager
def under_attack(name: str, address: str, secret: str) -> Iterator[None]:
    """A process that attacks a node as long as the `with` block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kit.attacks", name, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(secret)
        process.stdin.close()
        if process.stdout.readline().strip() != "begun":
            raise RuntimeError(f"the attack {name} did not begin")
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the attack {name} ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main(name: str, address: str) -> None:
    """Attack, in some threads."""
    with tempfile.TemporaryDirectory() as folder:
        target = Target(address, sys.stdin.read().strip(), Path(folder))
    begun = threading.Event()

    def work() -> None:
        for _ in ATTACKS[name](target):
            begun.set()
        os._exit(1)

    for _ in range(1 if name in ALONE else THREADS):
        threading.Thread(target=work, daemon=True).start()
    begun.wait()
    print("begun", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
