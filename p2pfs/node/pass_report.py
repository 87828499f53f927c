"""What came of one pass of the audit, and the wish of somebody who waits for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2pfs import errors, green
from p2pfs.core.cid import CID
from p2pfs.node.backlog import NOTHING, Amount


@dataclass
class Report:
    """Filled as the pass goes on."""

    pins: int = 0
    blocks: int = 0
    """Distinct blocks that pins want."""
    bytes: int = 0
    fetched: Amount = NOTHING
    given_up: Amount = NOTHING
    collected: Amount = NOTHING
    waiting: Amount = NOTHING
    """Unwanted, and not collected yet: not old enough, held up, or kept for `restore`."""
    unreadable: list[CID] = field(default_factory=list)
    held_up: str = ""
    """Why nothing was collected."""
    is_cut: bool = False
    """There is more to collect than one pass does."""
    seconds: float = 0.0

    def to_wire(self) -> dict[str, Any]:
        """As JSON holds it."""
        amounts = {
            f"{name}_{what}": getattr(getattr(self, name), what)
            for name in ("fetched", "given_up", "collected", "waiting") for what in ("blocks", "bytes")
        }
        return {
            "pins": self.pins, "blocks": self.blocks, "bytes": self.bytes, **amounts,
            "unreadable": [str(cid) for cid in self.unreadable], "held_up": self.held_up,
            "seconds": round(self.seconds, 3),
        }


class Request:
    """Somebody waits for a pass."""

    def __init__(self, is_dry: bool, is_walk: bool) -> None:
        self.is_dry = is_dry
        self.is_walk = is_walk
        self.done = green.Event()
        self._report: Report | None = None
        self._error: errors.P2pfsError | None = None

    def is_like(self, other: Request) -> bool:
        """One pass can answer both."""
        return (self.is_dry, self.is_walk) == (other.is_dry, other.is_walk)

    def succeed(self, report: Report) -> None:
        """The pass is over."""
        self._report = report
        self.done.set()

    def fail(self, error: errors.P2pfsError) -> None:
        """There is none, or it failed."""
        self._error = error
        self.done.set()

    @property
    def report(self) -> Report:
        """What came of it; only once it is done. Raises what the pass failed with."""
        if self._report is None:
            raise self._error or errors.InternalError("the pass is not over")
        return self._report
