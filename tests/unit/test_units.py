"""Sizes and durations: what people write, and that every printed value is read as the same one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors, units


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("64KiB", 65536), ("1.5 GiB", 3 << 29), ("1GB", 10**9), ("2gib", 2 << 30), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1K", "1.5", "GiB", "1e9", "9" * 21, "8192PiB", "1 000", "٣", "1KiBx"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(errors.UsageError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("10m", 600), ("24h", 86400), ("30d", 2592000), ("2.5", 2.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "10 min", "1w", "s", "nan", "inf", "999999d", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(errors.UsageError, match="duration"):
        units.parse_duration(text)


@given(st.integers(0, (1 << 63) - 1))
def test_exact_size_is_read_as_the_same(size: int) -> None:
    assert units.parse_size(units.exact_size(size)) == size


@given(st.integers(0, 10**15))
def test_exact_duration_is_read_as_the_same(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert units.parse_duration(units.exact_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    for parse in (units.parse_size, units.parse_duration):
        try:
            assert parse(text) >= 0
        except errors.UsageError:
            continue


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (64 << 20, "64.0 MiB"), ((1 << 30) - 1, "1.00 GiB"),
     (999 << 20, "999 MiB"), (5 << 50, "5.00 PiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.35, "350 ms"), (0.9999, "1.0 s"), (9.96, "10 s"), (250, "4 m 10 s"), (59.9, "1 m"),
     (11100, "3 h 5 m"), (12 * 86400, "12 d"), (86400 + 59, "1 d")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text
