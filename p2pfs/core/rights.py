"""Who may do what: the rights that a verb needs, and those that somebody has by role or by door."""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Sequence


class Right(enum.Flag):
    """One right, or a set of them. The table of verbs (`core/wire.py`) says which ones each verb needs."""

    READ = enum.auto()
    """To see whatever is stored, and how the cluster is."""
    STORE = enum.auto()
    """To add and pin. It removes nothing: pins have no owners, so who may remove one may remove all."""
    ADMINISTER = enum.auto()
    """To remove, and to command nodes."""
    MEMBER = enum.auto()
    """To speak as one node to another."""
    LOCAL = enum.auto()
    """To pass open files along: on the same machine only."""
    JOIN = enum.auto()
    """To ask for membership with an invitation."""


ROLES: dict[str, Right] = {
    "read": Right.READ,
    "store": Right.READ | Right.STORE,
    "admin": Right.READ | Right.STORE | Right.ADMINISTER,
}
"""What a client may, by its role; each has the rights of the one before."""
OF_MEMBER = ROLES["admin"] | Right.MEMBER
"""A member holds every block and pin: what it may not ask for it could do."""
OF_GUEST = Right.JOIN
"""A machine that was invited and is no member yet."""

_WORDS: dict[Right, str] = {Right.READ: "read", Right.STORE: "store", Right.ADMINISTER: "administer"}
_DOORS: dict[Right, str] = {
    Right.MEMBER: "is for members of the cluster only",
    Right.LOCAL: "needs the control socket of a node on the same machine",
    Right.JOIN: "is for machines that were invited",
}


def of_roles(names: Sequence[str]) -> Right:
    """What somebody with these roles, one at least, may: what each of them allows. An unknown one allows nothing."""
    return functools.reduce(operator.and_, (ROLES.get(name, Right(0)) for name in names))


def refusal(needs: Right, has: Right) -> str | None:
    """Why somebody with these rights may not do what needs those, to follow the verb's name; None: it may."""
    lacking = needs & ~has
    if not lacking:
        return None
    for right, why in _DOORS.items():
        if right in lacking:
            return why
    wanted = next(word for right, word in _WORDS.items() if right in lacking)
    may = " and ".join(word for right, word in _WORDS.items() if right in has)
    return f"needs the right to {wanted}; you may {may or 'do nothing'}" + (" only" if may else "")
