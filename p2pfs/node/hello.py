"""The first words on a connection between members: who calls, and who is there."""

from __future__ import annotations

import re
import secrets
import time
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.member import ID, MAX_TEXT
from p2pfs.net.connection import Connection

MAX_TIME_MS = 2**53 - 1
"""Whole numbers that every JSON reader tells apart; later than anybody's clock."""
_INSTANCE = re.compile(r"[0-9a-f]{16}")


class Caller(NamedTuple):
    """How this node introduces itself."""

    id: str
    name: str
    instance: str


def new_instance(now: float) -> str:
    """16 hex digits, larger for later starts: 11 of milliseconds, 5 of chance."""
    return f"{int(now * 1000):011x}"[-11:] + secrets.token_hex(3)[:5]


class Hello(NamedTuple):
    """The answer to HELLO."""

    id: str
    instance: str
    time_ms: int
    name: str


def hello(connection: Connection, caller: Caller) -> Hello:
    """Introduce ourselves; who is there? Raises IdentityRefused, ProtocolError; closes the connection on failure."""
    try:
        body = connection.request("HELLO", wire.VERSION, caller.id, caller.instance, int(time.time() * 1000))
        return parse_hello(body)
    except BaseException:
        connection.close()
        raise


def parse_hello(body: bytes) -> Hello:
    """Check the JSON of a HELLO answer. Raises ProtocolError."""
    answer = wire.parse_json(body, dict)
    if answer.get("version") != wire.VERSION:
        raise errors.ProtocolError(f"it speaks {str(answer.get('version'))[:40]!r}, this node {wire.VERSION}")
    id, instance, time_ms, name = (answer.get(field) for field in ("id", "instance", "time_ms", "name"))
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise errors.ProtocolError("its HELLO answer has no id")
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        raise errors.ProtocolError("its HELLO answer has no instance of 16 hex digits")
    if type(time_ms) is not int or not 0 <= time_ms <= MAX_TIME_MS:
        raise errors.ProtocolError("its HELLO answer has no time_ms")
    if not isinstance(name, str) or len(name) > MAX_TEXT or not name.isprintable():
        raise errors.ProtocolError("its HELLO answer has no name")
    return Hello(id, instance, time_ms, name)
