"""Who may do what: the rights that a verb needs, and those that somebody has by role or by door."""

from __future__ import annotations

import enum


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

_LACKING: dict[Right, str] = {
    Right.MEMBER: "is for members of the cluster only",
    Right.LOCAL: "needs the control socket of a node on the same machine",
    Right.JOIN: "is for machines that were invited",
    Right.ADMINISTER: "needs the right to administer: a client with the role admin",
    Right.STORE: "needs the right to store: a client with the role store or admin",
    Right.READ: "needs the right to read: a client with the role read, store or admin",
}


def refusal(needs: Right, has: Right) -> str | None:
    """Why somebody with these rights may not do what needs those, to follow the verb's name; None: it may."""
    lacking = needs & ~has
    return next((why for right, why in _LACKING.items() if right in lacking), None)
