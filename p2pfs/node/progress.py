"""Progress of a request that takes long: a PART each half second, which also shows whether its client is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.net.server import Session

PROGRESS_S = 0.5
LAST_PART_S = 10.0


@contextlib.contextmanager
def reporting(
    session: Session, snapshot: Callable[[], dict[str, Any]], on_gone: Callable[[str, BaseException], None]
) -> Iterator[None]:
    """Send what `snapshot` gives while the body of a `with` block runs; it may not send anything itself.

    `on_gone` is called, once, when the client does not take it.
    """
    is_over = green.Event()

    def report() -> None:
        try:
            while not is_over.wait(PROGRESS_S):
                session.part(wire.dump_json(snapshot()))
        except errors.P2pfsError as error:
            on_gone("progress", error)

    group = green.Group("progress", on_gone)
    reporter = group.spawn("progress", report)
    try:
        yield
    finally:
        is_over.set()
        reporter.join(LAST_PART_S)
        group.close()
