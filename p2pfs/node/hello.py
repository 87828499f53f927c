"""The first words on a connection between members: who calls, and who is there."""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.net.connection import Connection


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
    for field, kind in (("id", str), ("instance", str), ("time_ms", int), ("name", str)):
        if type(answer.get(field)) is not kind:
            raise errors.ProtocolError(f"its HELLO answer has no {field}")
    return Hello(answer["id"], answer["instance"], answer["time_ms"], answer["name"])
