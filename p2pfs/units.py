"""Sizes and durations as people write and read them: configuration, command line and tables use these.

`parse_*` raise UsageError with what is allowed; `exact_*` are their inverses (what is parsed again is equal);
`format_*` are for eyes and round.
"""

from __future__ import annotations

import re
from fractions import Fraction

from p2pfs import errors

SIZE_ALLOWED = "plain bytes, or a number with B, KiB, MiB, GiB, TiB, PiB (1024) or kB, MB, GB, TB, PB (1000)"
DURATION_ALLOWED = "a number with ms, s, m, h or d; without a unit it is seconds"

_BINARY = {"PiB": 1 << 50, "TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DECIMAL = {"PB": 10**15, "TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}
_SIZES = {"": 1, "b": 1} | {unit.lower(): factor for unit, factor in (_BINARY | _DECIMAL).items()}
_DURATIONS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
# More digits than any value has: what is too large is told from what is no number.
_NUMBER = re.compile(r"([0-9]{1,1000}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")
_MAX_SIZE = 1 << 63
_MAX_DURATION_MS = 100 * 366 * 86_400_000


def _amount(text: str, factors: dict[str, int], what: str, allowed: str, most: int) -> Fraction:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in factors:
        raise errors.UsageError(f"{text[:40]!r} is no {what}; allowed: {allowed}")
    amount = Fraction(match[1]) * factors[match[2]]
    if amount >= most:
        raise errors.UsageError(f"{text[:40]!r} is too large for a {what}")
    return amount


def parse_size(text: str) -> int:
    """Bytes of `64KiB`, `2GiB`, `1.5GB` or `4096`; units in any case. Raises UsageError."""
    amount = _amount(text.lower(), _SIZES, "size", SIZE_ALLOWED, _MAX_SIZE)
    if amount.denominator != 1:
        raise errors.UsageError(f"{text[:40]!r} is not a whole number of bytes")
    return int(amount)


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `10s`, `10m`, `24h`, `30d` or `2.5`. Raises UsageError."""
    factors = _DURATIONS_MS | {"": 1000}
    return float(_amount(text, factors, "duration", DURATION_ALLOWED, _MAX_DURATION_MS) / 1000)


def exact_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as exactly this: `64MiB`, `1GB`, `4097`."""
    for unit, factor in sorted((_BINARY | _DECIMAL).items(), key=lambda item: -item[1]):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def exact_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as this, to the microsecond: `500ms`, `10m`, `2.5s`."""
    thousandths = round(seconds * 1_000_000)
    for unit, factor in _DURATIONS_MS.items():
        if thousandths and thousandths % (factor * 1000) == 0:
            return f"{thousandths // (factor * 1000)}{unit}"
    return f"{thousandths / 1_000_000:.6f}".rstrip("0").rstrip(".") + "s"


def format_size(size_bytes: float) -> str:
    """For people, three digits: `512 B`, `1.25 GiB`, `64.0 MiB`."""
    for unit, factor in _BINARY.items():
        # 1023.7 MiB would print as four digits: it is 1.00 GiB.
        if abs(size_bytes) >= 0.9995 * factor:
            amount = size_bytes / factor
            decimals = 2 if abs(amount) < 9.995 else 1 if abs(amount) < 99.95 else 0
            return f"{amount:.{decimals}f} {unit}"
    return f"{size_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """For people, two units at most: `350 ms`, `2.5 s`, `4 m 10 s`, `3 h 5 m`, `12 d`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, factor)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)
