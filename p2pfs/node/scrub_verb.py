"""The handler of SCRUB (docs/PROTOCOL.md section 5)."""

from __future__ import annotations

from p2pfs import errors
from p2pfs.core import wire
from p2pfs.core.wire import Line
from p2pfs.net.server import Session
from p2pfs.node.progress import Work, reporting
from p2pfs.node.services import Services

CHECK_S = 1.0


def scrub(services: Services, session: Session, line: Line) -> None:
    """SCRUB: read and hash every block of this node now; only with `wait` is the answer what came of it.

    A client that goes away does not end it.
    """
    is_waiting = wire.parse_json(session.body(), dict).get("wait", False)
    if not isinstance(is_waiting, bool):
        raise errors.UsageError(f"option 'wait' = {is_waiting!r}: give true or false")
    run = services.scrub.run_now()
    if is_waiting:
        client = Work()
        with reporting(session, run.progress, client.fail):
            while not run.over.wait(CHECK_S):
                client.check()
    session.reply(wire.dump_json(run.result()))
