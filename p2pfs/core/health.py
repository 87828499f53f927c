"""What the audits of all nodes found, added up, and what that means: the verdict of `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from p2pfs import errors
from p2pfs.units import format_duration, format_size

_MAX_COUNT = 2**63 - 1


class Figures(NamedTuple):
    """What one node's audit found. Blocks that it is in charge of, by their reachable copies:"""

    live_blocks: int = 0
    live_bytes: int = 0
    below_blocks: int = 0
    """Fewer copies than wanted; the three kinds that follow are among them."""
    below_bytes: int = 0
    single_blocks: int = 0
    """Exactly one copy, and more are wanted."""
    single_bytes: int = 0
    silent_blocks: int = 0
    """No copy, but somebody is away or did not answer."""
    silent_bytes: int = 0
    lost_blocks: int = 0
    """No copy, and everybody was asked."""
    lost_bytes: int = 0
    missing_blocks: int = 0
    """Blocks that this node should hold, does not, and is going to fetch."""
    missing_bytes: int = 0
    displaced_blocks: int = 0
    """Blocks that this node should hold and has no room for, not among the missing ones: other ranks hold them."""
    displaced_bytes: int = 0

    def to_wire(self) -> dict[str, int]:
        """A JSON object."""
        return self._asdict()

    @classmethod
    def from_wire(cls, value: object) -> Figures:
        """Check a parsed JSON value. Fields that are not known here are ignored. Raises ProtocolError."""
        if not isinstance(value, dict):
            raise errors.ProtocolError("the figures of an audit are no object")
        return cls(**{field: _count(field, value) for field in cls._fields})


def _count(field: str, value: dict[str, Any]) -> int:
    count = value.get(field)
    if type(count) is not int or not 0 <= count <= _MAX_COUNT:
        raise errors.ProtocolError(f"the figure {field} of an audit cannot be {ascii(count)[:60]}")
    return count


def total(figures: Iterable[Figures]) -> Figures:
    """All of them added up."""
    return Figures(*map(sum, zip(Figures(), *figures, strict=True)))


class Away(NamedTuple):
    """A member that is dead and not forgotten."""

    name: str
    left_s: float
    """Seconds until others take over its shards; 0 or less: they have."""


class Health(NamedTuple):
    """How the cluster is."""

    verdict: str
    """`lost`: some blocks are nowhere. `at-risk`: some have one copy that can be reached, or none. `degraded`: some
    have fewer than wanted, or somebody is away. `healthy`: none of these."""
    reasons: tuple[str, ...]
    """For the operator, the gravest first: what is wrong, how much of it, until when, what to do."""
    left_bytes: int
    """What has to be copied or moved still."""
    time_to_go_s: float | None
    """Until that is done, if nothing else happens; None when it cannot be known."""


def judge(
    figures: Mapping[str, Figures], away: Sequence[Away], silent: Sequence[str], wanted: int, replicas: int, rate: int,
    is_current: bool, unaudited: Sequence[str] = (),
) -> Health:
    """What the figures mean.

    `figures`: of every node that answered, by its name. `silent`: names of those that live and did not answer.
    `replicas` copies are configured, `wanted` of them are possible. `rate`: bytes a second that each node fetches at
    most. `is_current`: the audits have seen the last change of members and pins. `unaudited`: names of those whose
    audit was not through yet since they started, so that they know of nothing.
    """
    sums = total(figures.values())
    left_bytes = max(sums.below_bytes, sums.missing_bytes)
    time_to_go_s = _time_to_go_s(figures, sums, away, silent, rate)
    absent = sorted([*(one.name for one in away), *silent])
    reasons = [*_of_blocks(sums, absent), *_of_members(away, silent, unaudited), *_of_work(figures, sums, time_to_go_s)]
    if wanted < replicas:
        reasons.append(f"{replicas} copies are wanted, the members there are can hold {wanted}")
    if not is_current:
        reasons.append("the audit is not through with the last change yet")
    return Health(_verdict(sums, [*away, *silent, *unaudited]), tuple(reasons), left_bytes, time_to_go_s)


def _verdict(sums: Figures, unknown: Sequence[object]) -> str:
    if sums.lost_blocks:
        return "lost"
    if sums.silent_blocks or sums.single_blocks:
        return "at-risk"
    # Missing blocks alone only move: enough copies are elsewhere until they are here.
    return "degraded" if sums.below_blocks or unknown else "healthy"


def _time_to_go_s(
    figures: Mapping[str, Figures], sums: Figures, away: Sequence[Away], silent: Sequence[str], rate: int
) -> float | None:
    if sums.lost_blocks or sums.silent_blocks or silent:
        return None
    if sums.missing_blocks:
        return max(one.missing_bytes for one in figures.values()) / rate
    if not sums.below_blocks:
        return 0.0
    # Nobody fetches yet: the shards of who is away have to be taken over first, and by all alike, as far as is known.
    waits = [one.left_s for one in away if one.left_s > 0]
    return min(waits, default=0.0) + sums.below_bytes / max(1, len(figures)) / rate


def _of_blocks(sums: Figures, absent: Sequence[str]) -> Iterable[str]:
    if sums.lost_blocks:
        yield f"{_are(sums.lost_blocks, sums.lost_bytes)} on no member; store the files again that have them"
    if sums.silent_blocks:
        what_to_do = f"; bring back {', '.join(absent)}" if absent else ""
        yield f"{_are(sums.silent_blocks, sums.silent_bytes)} on no member that answered{what_to_do}"
    if sums.single_blocks:
        yield f"{_have(sums.single_blocks, sums.single_bytes)} one copy left"
    if sums.below_blocks:
        yield f"{_have(sums.below_blocks, sums.below_bytes)} fewer copies than wanted"


def _of_members(away: Sequence[Away], silent: Sequence[str], unaudited: Sequence[str]) -> Iterable[str]:
    for one in sorted(away, key=lambda one: one.left_s):
        if one.left_s > 0:
            until = f"are taken over in {format_duration(one.left_s)} unless it comes back"
        else:
            until = "are the others' now; bring it back, or `forget` it"
        yield f"away: {one.name}; its shards {until}"
    if unaudited:
        yield f"{', '.join(unaudited)} started a short while ago, and the first audit is under way"
    if silent:
        yield f"no answer from {', '.join(sorted(silent))}: what they lack is not in these figures"


def _of_work(figures: Mapping[str, Figures], sums: Figures, time_to_go_s: float | None) -> Iterable[str]:
    if sums.missing_blocks:
        names = ", ".join(sorted(name for name, one in figures.items() if one.missing_blocks))
        what = "being restored" if sums.below_blocks else "moving in"
        until = "" if time_to_go_s is None else f", {format_duration(time_to_go_s)} to go"
        yield f"{what}: {_quantity(sums.missing_blocks, sums.missing_bytes)} to {names}{until}"
    if sums.displaced_blocks:
        names = ", ".join(sorted(name for name, one in figures.items() if one.displaced_blocks))
        amount = _quantity(sums.displaced_blocks, sums.displaced_bytes)
        yield f"no room for {amount} on {names}, others hold them; give it more room, or add a node"


def _quantity(blocks: int, size: int) -> str:
    return f"{blocks:,} block{'' if blocks == 1 else 's'} ({format_size(size)})"


def _are(blocks: int, size: int) -> str:
    return f"{_quantity(blocks, size)} {'is' if blocks == 1 else 'are'}"


def _have(blocks: int, size: int) -> str:
    return f"{_quantity(blocks, size)} {'has' if blocks == 1 else 'have'}"
