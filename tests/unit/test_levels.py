"""What a node has seen of the catalogs of others: learned, told, kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import errors
from p2pfs.core.pins import CLOCK_SLACK_MS
from p2pfs.node import levels
from p2pfs.node.levels import KEEP_VIA_MS, Levels, parse_seen
from p2pfs.store.catalog import COMPARED, Catalog

NOW_MS = 1_800_000_000_000


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog.sqlite")


def opened(catalog: Catalog, now_ms: int = 2 * NOW_MS) -> Levels:
    def run(job: Callable[..., Any], *args: Any) -> Any:
        return job(*args)

    return Levels(cast(Any, SimpleNamespace(catalog=catalog, run=run, now_ms=lambda: now_ms)), "me")


def test_what_others_have_seen_is_taken_over_and_all_is_kept(catalog: Catalog) -> None:
    catalog.remember(f"{COMPARED}old", "5")
    made = opened(catalog)
    made.note("a", NOW_MS, {"c": 7, "old": 4, "me": NOW_MS, "ahead": NOW_MS + CLOCK_SLACK_MS + 1}, None)
    wanted = {"old": 5, "c": 7, "a": NOW_MS}
    assert made.seen() == wanted
    assert (made.direct_ms("a"), made.direct_ms("c"), made.direct_ms("old")) == (NOW_MS, 0, 5)
    made.note("b", NOW_MS + 1, {"c": 6, "a": NOW_MS + 1}, None)
    wanted |= {"b": NOW_MS + 1, "a": NOW_MS + 1}
    assert made.seen() == wanted
    catalog.remember(f"{COMPARED}via.c", str(KEEP_VIA_MS))
    assert opened(catalog).seen() == wanted | {"c": KEEP_VIA_MS}
    made.forget()
    assert made.seen() == wanted | {"c": KEEP_VIA_MS}


def test_times_through_others_are_not_written_down_each_time(catalog: Catalog) -> None:
    made = opened(catalog)
    for ms in (NOW_MS, NOW_MS + KEEP_VIA_MS - 1):
        made.note("a", ms, {"c": ms}, None)
    assert opened(catalog).seen()["c"] == NOW_MS
    made.note("a", NOW_MS + KEEP_VIA_MS, {"c": NOW_MS + KEEP_VIA_MS}, None)
    assert opened(catalog).seen()["c"] == NOW_MS + KEEP_VIA_MS


def test_nothing_is_known_of_a_catalog_that_was_begun_anew_since_it_was_compared(catalog: Catalog) -> None:
    made = opened(catalog)
    before, catalog.quarantined = catalog.quarantined, Path("quarantine/catalog.sqlite.1")
    made.note("a", NOW_MS, {"c": NOW_MS}, before)
    assert made.seen() == opened(catalog).seen() == {}
    catalog.keep_sights({f"{COMPARED}a": NOW_MS}, before)
    assert opened(catalog).seen() == {}
    made.note("a", NOW_MS, {"c": NOW_MS}, catalog.quarantined)
    assert made.seen() == opened(catalog).seen() == {"a": NOW_MS, "c": NOW_MS}


def test_notes_that_were_read_before_a_catalog_was_begun_anew_are_not_taken_for_its_own(catalog: Catalog) -> None:
    catalog.remember(f"{COMPARED}a", "5")
    made = opened(catalog)
    run, made._pinning.run = made._pinning.run, lambda *job: begun_anew(*job)  # type: ignore[method-assign]

    def begun_anew(*job: Any) -> Any:
        made._pinning.run = run  # type: ignore[method-assign]
        found = run(*job)
        catalog.remember(f"{COMPARED}a", "0")
        catalog.quarantined = Path("quarantine/catalog.sqlite.1")
        made.forget()  # by another greenlet, before this one goes on
        return found

    assert made.direct_ms("a") == 0


def test_notes_about_thousands_of_members_are_one_write(catalog: Catalog) -> None:
    writes: list[str] = []
    catalog._db.set_trace_callback(lambda statement: writes.append(statement) if statement == "COMMIT" else None)
    opened(catalog).note("a", NOW_MS, dict.fromkeys(map(str, range(1000)), NOW_MS), None)
    assert len(opened(catalog).seen()) == 1001
    assert len(writes) == 1


def test_a_node_tells_of_the_latest_and_learns_of_so_many(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "MOST", 3)
    made = opened(catalog)
    made.note("a", NOW_MS, {f"c{number}": number + 1 for number in range(9)}, None)
    assert made.seen() == {"c1": 2, "c2": 3, "a": NOW_MS}


def test_what_was_seen_of_us_counts_for_what_we_have(catalog: Catalog) -> None:
    made = opened(catalog)
    made.note("a", 10, {"c": 7, "o": 6}, None)
    ours, theirs = made.sights("c", {"me": 3, "o": 2})
    assert ours == (0, 7, {"a": 10, "c": 7, "o": 6, "me": 7})
    assert theirs == (0, 3, {"me": 3, "o": 2, "c": 3})
    assert made.sights("a", None)[1] == (10, 10, None)
    assert made.sights("c", {})[1].holder_ms == 0, "what we have seen of it says nothing about what it has seen of us"


def test_times_that_are_still_to_come_count_for_nothing_and_are_forgotten(catalog: Catalog) -> None:
    ahead = opened(catalog)
    ahead.note("a", NOW_MS + CLOCK_SLACK_MS, {"b": NOW_MS + CLOCK_SLACK_MS + 1, "c": NOW_MS}, None)
    ahead.note("d", NOW_MS + CLOCK_SLACK_MS + 1, None, None)
    right = opened(catalog, NOW_MS)
    assert right.seen() == {"a": NOW_MS + CLOCK_SLACK_MS, "c": NOW_MS}
    assert (right.direct_ms("a"), right.direct_ms("d")) == (NOW_MS + CLOCK_SLACK_MS, 0)
    assert right.sights("c", {"me": 2 * NOW_MS, "o": 2 * NOW_MS, "p": 3})[1] == (0, 0, {"me": 0, "c": 0, "p": 3})
    assert not any(opened(catalog).seen()[id] for id in ("b", "d")), "nor do they count once that time has come"
    right.note("d", NOW_MS, {"b": NOW_MS}, None)
    assert opened(catalog).seen() == {"a": NOW_MS + CLOCK_SLACK_MS, "b": NOW_MS, "c": NOW_MS, "d": NOW_MS}


def test_what_a_member_tells_is_checked() -> None:
    assert parse_seen(b'{"changed":0}') is None
    assert parse_seen(b'{"seen":{"a":1}}') == {"a": 1}
    most = {str(number): number for number in range(levels.MOST)}
    assert parse_seen(json.dumps({"seen": most}).encode()) == most
    bad_times = [{"a": ms} for ms in (-1, 1.0, True, 10**15, "1", None)]
    for bad in ([], 3, {"a b": 1}, {"": 1}, most | {"x": 1}, *bad_times):
        with pytest.raises(errors.ProtocolError):
            parse_seen(json.dumps({"seen": bad}).encode())
