"""A request that takes long: the work that its greenlets share, and its progress.

Progress is a PART each half second, which also shows whether the client is still there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from p2pfs import errors, green
from p2pfs.core import wire
from p2pfs.net.server import Session

PROGRESS_S = 0.5
LAST_PART_S = 10.0


class Work:
    """Something that several greenlets do together; the first error of any of them ends it."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def fail(self, name: str, error: BaseException) -> None:
        """Remember the first error; the next `check` raises it."""
        self._error = self._error or error

    def check(self) -> None:
        """Raise the first error."""
        if self._error is not None:
            raise self._error


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
