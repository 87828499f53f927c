"""How long a suspected member has to refute, and how far a node trusts itself: Lifeguard's two dampers.

Source: Dadgar, Phillips and Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection",
2018, sections IV-A (local health multiplier) and IV-B (suspicion). All times in seconds, on any clock that
only goes forward; nothing here reads one.
"""

from __future__ import annotations

import math

MAX_LOCAL_HEALTH = 8
"""Lifeguard's S: a node that trusts itself least probes nine times slower."""


def suspicion_timeout_s(confirmations: int, wanted: int, min_s: float, max_s: float) -> float:
    """How long after its start a suspicion becomes a death.

    `confirmations`: members, other than the first, that accuse independently; `wanted`: Lifeguard's K, the
    number of them from which on it is `min_s`. Falls with the logarithm, for the first ones say the most.
    """
    if confirmations >= wanted:
        return min_s
    return max(min_s, max_s - (max_s - min_s) * math.log(confirmations + 1) / math.log(wanted + 1))


class Suspicion:
    """One suspected member: since when, and who accuses it."""

    def __init__(self, since: float, accuser: str, wanted: int, min_s: float, max_s: float) -> None:
        self._since = since
        self._accusers = {accuser}
        self._wanted = wanted
        self._min_s = min_s
        self._max_s = max_s

    def confirm(self, accuser: str) -> bool:
        """Count an accuser; True when it is news that others should hear: a new one, among the first K."""
        if accuser in self._accusers or len(self._accusers) > self._wanted:
            return False
        self._accusers.add(accuser)
        return True

    def delay(self, by_s: float) -> None:
        """Give more time: we stood still ourselves, and heard no refutation meanwhile."""
        self._since += by_s

    @property
    def deadline(self) -> float:
        """When the suspect is dead."""
        confirmations = len(self._accusers) - 1
        return self._since + suspicion_timeout_s(confirmations, self._wanted, self._min_s, self._max_s)


class LocalHealth:
    """Lifeguard's local health multiplier: how far our own slowness may be what makes others look dead."""

    def __init__(self) -> None:
        self._score = 0

    @property
    def multiplier(self) -> int:
        """What to stretch the probe interval and timeout by: 1 to MAX_LOCAL_HEALTH + 1."""
        return self._score + 1

    def better(self) -> None:
        """A probe was answered in time."""
        self._score = max(0, self._score - 1)

    def worse(self) -> None:
        """A helper was silent, we had to refute, or we stood still."""
        self._score = min(MAX_LOCAL_HEALTH, self._score + 1)
