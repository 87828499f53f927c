"""One request after the other on a connection: read, checked, given to its verb's handler, refused with a reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from p2pfs import errors, metrics
from p2pfs.core import rights, wire
from p2pfs.core.wire import Line
from p2pfs.net import doorman
from p2pfs.net.doorman import Doorman
from p2pfs.net.session import Session
from p2pfs.net.stream import Limits, Stream

log = logging.getLogger(__name__)

MESSAGE_WEIGHTS = {"HAVE": 1 / 3, "DISCARD": 1.0, "PIN": 2.0}
"""What a byte of a message counts for (`doorman.MESSAGES_PER_S`), by what it costs; of another control verb 1,
of any other verb nothing."""
ANSWER_WEIGHT = 1 / 4
"""The same, for the answer to a message."""
PROBES = ("HELLO", "PING", "PINGREQ", "MEMBERS")
"""Messages that do not wait behind others: who answers a probe late is taken for dead."""

Handler = Callable[[Session, Line], None]


class Dispatcher:
    """Answers the requests of all connections."""

    def __init__(self, handlers: Mapping[str, Handler], doorman: Doorman, limits: Limits) -> None:
        """`handlers`: by verb."""
        self._handlers = handlers
        self._doorman = doorman
        self._limits = limits

    def serve_one(self, session: Session, stream: Stream) -> bool:
        """Answer one request; False when the connection is over: ended by the client, or out of step."""
        verb, outcome = "?", "OK"
        session.begin()
        try:
            text = stream.read_line(self._limits.idle_s)
            if not text:
                return False
            session.is_busy = True
            line = wire.parse_request(text)
            verb = line.verb.name
            session.unread_bytes = line.length
            _check_caller(session, line)
            self._handle(session, line)
            if not session.has_replied:
                raise RuntimeError(f"the handler of {verb} gave no answer")
            return not session.unread_bytes
        except errors.P2pfsError as error:
            outcome = error.token
            return self._refuse(session, stream, error, verb)
        except Exception as error:
            outcome = errors.InternalError.token
            log.exception("%s from %s failed", verb, stream.peer_name)
            failure = errors.InternalError(f"{verb} failed: {error!r}; see the node's log")
            return self._refuse(session, stream, failure, verb)
        finally:
            if session.is_busy:
                session.is_busy = False
                metrics.REQUESTS.labels(verb, outcome).inc()

    def _refuse(self, session: Session, stream: Stream, error: errors.P2pfsError, verb: str) -> bool:
        """Send an ERR line; False when the connection cannot go on after it."""
        log.debug("%s from %s: %s: %s", verb, stream.peer_name, error.token, error)
        if session.has_replied or stream.is_gone:
            return False
        if isinstance(error, errors.DeadlinePassed) and not session.is_busy:
            return False  # an idle connection, or half a line
        stream.send(wire.format_error(error))
        if error.is_fatal or wire.VERBS[verb].streams_in:
            stream.linger()
            return False
        stream.skip(session.unread_bytes)
        return True

    def _handle(self, session: Session, line: Line) -> None:
        """Have the request answered; a message that comes too fast after others of the same member waits before."""
        party, name = session.party, line.verb.name
        weight = MESSAGE_WEIGHTS.get(name, float(line.verb.is_control)) if party.kind == "member" else 0.0
        kind, size = "probes" if name in PROBES else "messages", doorman.REQUEST_BYTES + weight * line.length
        if weight and (wait_s := self._doorman.charge(party, kind, size)) > 0:
            time.sleep(wait_s)
        self._handlers[name](session, line)
        if weight:
            self._doorman.charge(party, kind, ANSWER_WEIGHT * session.sent_bytes)


def _check_caller(session: Session, line: Line) -> None:
    # TLS looked at the time once; a connection may be kept busy for as long as somebody likes.
    if time.time() > session.party.ends:
        raise errors.IdentityRefused("the certificate has expired since the connection began")
    refusal = rights.refusal(line.verb.needs, session.party.rights)
    if refusal is not None:
        raise errors.Forbidden(f"{line.verb.name} {refusal}")
