"""Every error that p2pfs raises on purpose: one class a row, with its wire token and exit code.

A class fixes four things, so that no other place has to decide them again:

``token``      the word after ``ERR`` on the wire (docs/PROTOCOL.md)
``exit_code``  what ``p2pfs-cli`` and ``p2pfs-node`` exit with (docs/OPERATIONS.md)
``is_fatal``   the connection that carried it is out of step and must be closed
``is_retryable``  another node, or the same one later, may answer differently

The message says what happened, to what, and what to do about it.
"""

from __future__ import annotations


class P2pfsError(Exception):
    """Base of all; never raised itself."""

    token = "INTERNAL"
    exit_code = 1
    is_fatal = False
    is_retryable = False


class InternalError(P2pfsError):
    """A bug of ours: an exception that no code expected. Logged with its traceback where it happened."""

    is_fatal = True


class UsageError(P2pfsError):
    """The caller asked for something that makes no sense, whatever the state of the cluster."""

    token = "USAGE"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, override or environment variable that cannot be used."""

    token = "CONFIG"


class BadCid(UsageError):
    """Text or bytes that are no CID, or one of a form that p2pfs does not take."""

    token = "BAD_CID"


class NotFound(P2pfsError):
    """A block, pin, name or path that nobody who was asked has."""

    token = "NOT_FOUND"
    exit_code = 3


class DeadlinePassed(P2pfsError):
    """Something did not happen in its time. Nothing is known about whether it will."""

    token = "DEADLINE"
    exit_code = 4
    is_fatal = True
    is_retryable = True


class Corrupt(P2pfsError):
    """Bytes that do not have the hash that names them."""

    token = "CORRUPT"
    exit_code = 5
    is_retryable = True
    is_in_place = False
    """Set by a disk for a bad copy that it could not move to quarantine: `has` still says that it is here."""


class Malformed(P2pfsError):
    """Foreign bytes that have the right hash and the wrong form: a block, DAG or CAR that cannot be read."""

    token = "MALFORMED"
    exit_code = 5


class NoSpace(P2pfsError):
    """max_size, reserve_free or the disk itself leaves no room."""

    token = "NO_SPACE"
    exit_code = 6
    is_retryable = True


class Unreachable(P2pfsError):
    """No connection to a node, or a connection that ended before its answer."""

    token = "UNREACHABLE"
    exit_code = 7
    is_fatal = True
    is_retryable = True


class TurnedAway(Unreachable):
    """A connection that was closed in its handshake without a word: too many came before it, or a node is stopping."""

    token = "TURNED_AWAY"


class TooFewNodes(P2pfsError):
    """Fewer nodes took a block or a pin than the wanted durability needs."""

    token = "TOO_FEW_NODES"
    exit_code = 8
    is_retryable = True


class Refused(P2pfsError):
    """Understood, and not done: a limit, an identity, an existing file."""

    token = "REFUSED"
    exit_code = 9


class Forbidden(Refused):
    """Who asks has not the right that this verb needs; the text says which."""

    token = "FORBIDDEN"


class IdentityRefused(Refused):
    """Who is at the other end is not who it should be."""

    token = "IDENTITY"
    is_fatal = True


class Busy(Refused):
    """As many connections or requests as the limit allows are in work already."""

    token = "BUSY"
    is_fatal = True
    is_retryable = True


class ProtocolError(P2pfsError):
    """Bytes on a connection that the protocol does not allow; there is no way back into step."""

    token = "BAD_LINE"
    exit_code = 9
    is_fatal = True


class UnknownVerb(ProtocolError):
    """A request line whose first word is no verb."""

    token = "UNKNOWN_VERB"


class TooLong(ProtocolError):
    """A line over the limit."""

    token = "TOO_LONG"


class TooBig(ProtocolError):
    """A body longer than its verb allows."""

    token = "TOO_BIG"


class Interrupted(P2pfsError):
    """The user pressed Ctrl-C, or the other end went away in the middle."""

    token = "INTERRUPTED"
    exit_code = 130
    is_fatal = True


def _all(base: type[P2pfsError]) -> list[type[P2pfsError]]:
    found = []
    for child in base.__subclasses__():
        found += [child, *_all(child)]
    return found


BY_TOKEN: dict[str, type[P2pfsError]] = {cls.token: cls for cls in _all(P2pfsError)}
"""Wire token to class: how the client side of a connection raises again what the server side sent."""


def from_wire(token: str, message: str) -> P2pfsError:
    """The error that an ``ERR token message`` reply stands for; an unknown token is an InternalError."""
    cls = BY_TOKEN.get(token)
    return cls(message) if cls else InternalError(f"{token}: {message}")
