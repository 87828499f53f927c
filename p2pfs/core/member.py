"""A row of the membership table: what one member says of itself, and what is said of it; its form as JSON.

Rows are merged by taking the larger `precedence`, so that merging is commutative, associative and idempotent,
and a table only ever moves up. The order is SWIM's (Das, Gupta and Motivala, "SWIM: Scalable
Weakly-consistent Infection-style Process Group Membership Protocol", 2002, section 4.2), made total by the
row's content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from p2pfs import errors

STATES = ("alive", "suspect", "dead", "left")
"""In rising precedence, within one incarnation."""
MAX_INCARNATION = 2**53 - 1
MAX_ROWS = 1024
"""Rows of one message that are read, and of the table."""
MAX_NEWS = 64
"""Rows of a PING that are read."""
MAX_TEXT = 64
"""Characters of a name, a zone, a version."""
MAX_ADDRESSES = 8
"""Of one member."""
MAX_DEAD_S = 10 * 365 * 24 * 3600
"""For how long a member can be said to be dead: whoever is for longer, is for so long."""
MAX_CAPACITY = 10_000.0
"""As `[node] capacity` allows it: who claimed more would own everything."""
ID = re.compile(r"[0-9A-Za-z._-]{1,128}")
ADDRESS = re.compile(
    r"(?:\[[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._-]{1,16})?\]|[0-9A-Za-z._-]{1,253}):([0-9]{1,5})"
)
"""HOST:PORT; the port is still to be compared with its limits."""


class Member(NamedTuple):
    """A row. Only the member itself raises its incarnation, and changes what follows it, up to `free_bytes`."""

    id: str
    """Node id: hash of its public key."""
    name: str
    addresses: tuple[str, ...]
    """`host:port`, the best one first."""
    state: str = "alive"
    """One of STATES."""
    incarnation: int = 0
    """Begins with the wall clock's milliseconds at start, so that a later life outranks the rows of an earlier one."""
    zone: str = ""
    capacity: float = 1.0
    """Weight in placement."""
    version: str = ""
    drains: bool = False
    """It gives its shards away. A wish and no state: it holds while the member is suspect or dead, too."""
    used_bytes: int = 0
    """Space figures travel along and have no part in precedence; the member's own word for them is the newest."""
    free_bytes: int = 0
    accuser: str = ""
    """Of a suspect row: who accuses, so that Lifeguard can count independent accusers."""
    dead_s: int = 0
    """Of a dead row, and of one that left: for how long by now, as far as the sender knows."""

    @property
    def precedence(self) -> tuple[Any, ...]:
        """Of two rows with one id, the one in which this is larger holds."""
        return (self.incarnation, STATES.index(self.state), self.drains, self.capacity, self.zone, self.name,
                self.addresses, self.version)

    @property
    def is_reachable(self) -> bool:
        """Worth talking to: alive, or only suspect."""
        return self.state in ("alive", "suspect")

    @property
    def shown_state(self) -> str:
        """What `peers` prints: its state, or `draining` when it is alive and drains."""
        return "draining" if self.drains and self.state == "alive" else self.state

    def to_wire(self) -> dict[str, Any]:
        """A JSON object; fields that are as in a new row are left out."""
        row = self._asdict()
        short = {field: row[field] for field in row if row[field] != Member._field_defaults.get(field)}
        always = {"addresses": list(self.addresses), "state": self.state, "incarnation": self.incarnation}
        return short | always

    @classmethod
    def from_wire(cls, value: object) -> Member:
        """Check a parsed JSON value. Fields that are not known here are ignored. Raises ProtocolError."""
        if not isinstance(value, dict):
            raise errors.ProtocolError("a membership row is no object")
        missing = [field for field in _REQUIRED if field not in value]
        if missing:
            raise errors.ProtocolError(f"a membership row lacks {', '.join(missing)}")
        given = {field: check(field, value[field]) for field, check in _CHECKS.items() if field in value}
        return cls(**given)


def news_to_wire(me: Member, rows: Iterable[Member]) -> dict[str, Any]:
    """The body of PING and MEMBERS, and of their answers."""
    return {"from": me.to_wire(), "rows": [row.to_wire() for row in rows]}


def news_from_wire(value: object, most: int = MAX_ROWS) -> tuple[Member, list[Member]]:
    """The sender's own row, and the other rows. Raises ProtocolError."""
    rows = value.get("rows") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(rows, list) or len(rows) > most:
        raise errors.ProtocolError(f"membership news are a sender and a list of at most {most} rows")
    return Member.from_wire(value.get("from")), [Member.from_wire(row) for row in rows]


# --- checks of the fields of a foreign row -----------------------------------------------------------

def _bad(field: str, value: object) -> errors.ProtocolError:
    return errors.ProtocolError(f"a membership row's {field} cannot be {ascii(value)[:60]}")


def _id(field: str, value: object) -> str:
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise _bad(field, value)
    return value


def _id_or_none(field: str, value: object) -> str:
    return "" if value == "" else _id(field, value)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _bad(field, value)
    return value


def _addresses(field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise _bad(field, value)
    for address in value:
        match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 1 <= int(match[1]) <= 65535:
            raise _bad(field, address)
    return tuple(value)


def _state(field: str, value: object) -> str:
    if not isinstance(value, str) or value not in STATES:
        raise _bad(field, value)
    return value


def _number(field: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INCARNATION:
        raise _bad(field, value)
    return value


def _age(field: str, value: object) -> int:
    return min(_number(field, value), MAX_DEAD_S)


def _weight(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_CAPACITY:
        raise _bad(field, value)
    return float(value)


def _truth(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(field, value)
    return value


_REQUIRED = ("id", "name", "addresses", "state", "incarnation")
_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "id": _id, "name": _text, "addresses": _addresses, "state": _state, "incarnation": _number, "zone": _text,
    "capacity": _weight, "version": _text, "drains": _truth, "used_bytes": _number, "free_bytes": _number,
    "accuser": _id_or_none, "dead_s": _age,
}
