"""The catalog on disk: merging, reading, digests, damage, snapshots."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.cid import CID, DAG_PB, RAW
from p2pfs.core.hlc import stamp_of
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Pin, newer, record_digest
from p2pfs.store.catalog import ANEW, COMPARED, Catalog
from p2pfs.store.room import RESERVE_BYTES, ROOM_PAGES
from p2pfs.store.snapshot import Journal, read_snapshot, write_snapshot


def cid(number: int) -> CID:
    return CID(RAW if number % 2 else DAG_PB, multihash(SHA2_256, b"%d" % number))


def pin(number: int, name: str = "", stamp: int = 1, **fields: object) -> Pin:
    made = Pin(cid(number), name, 10, f"{number:064x}", 3, 1, 1_790_000_000, stamp, "node")
    return made._replace(**fields)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    made = Catalog(path)
    yield made
    made.close()


def expected_digests(pins: list[Pin]) -> int:
    total = 0
    for record in pins:
        total ^= record_digest(record)
    return total


def everything(catalog: Catalog) -> list[Pin]:
    return [record for number in range(256) for record in catalog.bucket(number)]


def test_merge_returns_what_changed_and_keeps_the_newest(catalog: Catalog) -> None:
    old, new = pin(1, "a", 5), pin(1, "a", 6, size=11)
    assert catalog.merge([old]) == [old]
    assert catalog.merge([old]) == []
    assert catalog.merge([new, old]) == [new]
    assert catalog.find_name("a") == new


ROWS = st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 5), st.booleans())


@given(st.lists(ROWS, max_size=15), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_two_catalogs_that_saw_the_same_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, int, bool]], chance: random.Random
) -> None:
    pins = [pin(number, name, stamp, removed=removed) for number, name, stamp, removed in rows]
    model: dict[tuple[CID, str], Pin] = {}
    for record in pins:
        if record.key not in model or newer(record, model[record.key]):
            model[record.key] = record
    shuffled = pins[:]
    chance.shuffle(shuffled)
    folder = tmp_path_factory.mktemp("catalogs")
    digests = []
    for name, order in (("one", pins), ("two", shuffled)):
        catalog = Catalog(folder / name)
        for start in range(0, len(order), 4):
            catalog.merge(order[start : start + 4])
        assert set(everything(catalog)) == set(model.values())
        digests.append(catalog.digests().buckets)
        catalog.close()
    assert digests[0] == digests[1]


def test_digests_are_kept_up_and_found_again(path: Path) -> None:
    catalog = Catalog(path)
    catalog.merge([pin(number) for number in range(50)])
    catalog.merge([pin(number, stamp=2, removed=True) for number in range(10)])
    before = catalog.digests().buckets
    total = 0
    for number, digest in enumerate(before):
        assert digest == expected_digests(catalog.bucket(number))
        total ^= digest
    assert total == expected_digests(everything(catalog)) != 0
    catalog.close()
    again = Catalog(path)
    assert again.digests().buckets == before
    again.close()


def test_a_merge_that_fails_leaves_nothing_behind(catalog: Catalog) -> None:
    catalog.merge([pin(1)])
    before = catalog.digests().buckets
    with pytest.raises(UnicodeEncodeError):
        catalog.merge([pin(2), pin(3, "\ud800")])
    assert catalog.digests().buckets == before
    assert catalog.counts() == (1, 0)
    catalog.merge([pin(2)])


def test_a_tombstone_hides_and_a_newer_pin_shows_again(catalog: Catalog) -> None:
    catalog.merge([pin(1, "a", 1)])
    catalog.merge([pin(1, "a", 2, removed=True)])
    assert catalog.find_name("a") is None
    assert catalog.find_cid(cid(1)) == []
    assert catalog.find_sha256(f"{1:064x}") is None
    assert catalog.pins() == []
    assert catalog.counts() == (0, 1)
    assert len(everything(catalog)) == 1
    assert catalog.merge([pin(1, "a", 1)]) == []
    catalog.merge([pin(1, "a", 3)])
    assert catalog.counts() == (1, 0)
    assert catalog.newest_stamp() == 3


def test_a_name_means_its_newest_pin_and_a_root_may_have_two_names(catalog: Catalog) -> None:
    catalog.merge([pin(1, "a", 1), pin(2, "a", 2), pin(1, "b", 3)])
    found = catalog.find_name("a")
    assert found is not None
    assert found.cid == cid(2)
    assert [record.name for record in catalog.find_cid(cid(1))] == ["b", "a"]
    catalog.merge([pin(2, "a", 4, removed=True)])
    found = catalog.find_name("a")
    assert found is not None
    assert found.cid == cid(1)


@pytest.mark.parametrize("name", ["", "nobody", "\ud800", "a\x00b", "' OR 1=1 --"])
def test_a_name_that_nothing_has_finds_nothing(catalog: Catalog, name: str) -> None:
    catalog.merge([pin(1), pin(2, "a")])
    assert catalog.find_name(name) is None


def test_pages_are_newest_first_and_complete(catalog: Catalog) -> None:
    pins = [pin(number, stamp=number // 3) for number in range(40)]
    catalog.merge(pins)
    catalog.merge([pin(7, stamp=99, removed=True)])
    seen: list[Pin] = []
    after = None
    while page := catalog.pins(after, 7):
        seen += page
        after = page[-1]
    wanted = sorted((p for p in pins if p.cid != cid(7)), key=lambda p: (-p.stamp, p.cid.encode(), p.name))
    assert seen == wanted


def test_pages_of_tombstones_are_newest_first_and_complete(catalog: Catalog) -> None:
    catalog.merge([pin(number, stamp=stamp_of(number // 3), removed=number % 2 == 0) for number in range(40)])
    seen: list[Pin] = []
    after = None
    while page := catalog.removed_since(4, after, 3):
        seen += page
        after = page[-1]
    wanted = [record for record in everything(catalog) if record.removed and record.stamp >= stamp_of(4)]
    assert seen == sorted(wanted, key=lambda p: (-p.stamp, p.cid.encode(), p.name))
    assert catalog.removed_since(14) == []


def test_tombstones_are_found_by_root_by_name_and_by_sha256(catalog: Catalog) -> None:
    first, second = pin(1, "a", 5, removed=True), pin(2, "a", 6, removed=True)
    catalog.merge([first, second, pin(1, "b", 7, removed=True), pin(3, "a", 8)])
    assert catalog.find_removed(name="a") == [second, first]
    assert [record.name for record in catalog.find_removed(cid=cid(1))] == ["b", "a"]
    assert catalog.find_removed(sha256=f"{2:064x}") == [second]
    assert catalog.find_removed(name="") == catalog.find_removed(name="\ud800") == []
    assert catalog.find_removed(cid=cid(3)) == []


def test_small_things_are_remembered(path: Path) -> None:
    catalog = Catalog(path)
    assert catalog.recall("a") is None
    catalog.remember("a", "1")
    catalog.remember("a", "2")
    catalog.close()
    catalog = Catalog(path)
    assert catalog.recall("a") == "2"
    catalog.close()


def test_a_catalog_of_the_first_release_is_taken_over(path: Path) -> None:
    catalog = Catalog(path)
    catalog.merge([pin(1), pin(2, removed=True)])
    catalog._db.execute("DROP TABLE meta")
    catalog._db.execute("DROP INDEX tombstones_by_age")
    catalog.close()
    catalog = Catalog(path)
    assert catalog.counts() == (1, 1)
    assert not catalog.is_new
    catalog.keep_journal(path.with_name("catalog.jsonl"))
    catalog.close()


def test_listing_and_finding_use_an_index(catalog: Catalog) -> None:
    queries: list[str] = []
    catalog._db.set_trace_callback(queries.append)
    catalog.merge([pin(1, "a")])
    catalog.pins(pin(1), 5)
    catalog.find_name("a")
    catalog.find_sha256("0")
    catalog.find_cid(cid(1))
    catalog.bucket(3)
    catalog.removed_since(0)
    catalog.removed_since(5, pin(1), 5)
    catalog.find_removed(cid=cid(1))
    catalog.recall("a")
    catalog._db.set_trace_callback(None)
    for query in (text for text in queries if text.startswith("SELECT")):
        plan = [row[3] for row in catalog._db.execute("EXPLAIN QUERY PLAN " + query)]
        assert all(step.startswith(("SEARCH", "USE TEMP B-TREE FOR")) for step in plan), (query, plan)


def test_a_hundred_thousand_pins(path: Path) -> None:
    base = pin(1)
    pins = [base._replace(name=f"file-{number}", stamp=number) for number in range(100_000)]
    catalog = Catalog(path)
    assert len(catalog.merge(iter(pins))) == len(pins)
    assert catalog.merge(pins[:20_000]) == []
    assert catalog.counts() == (100_000, 0)
    assert [record.stamp for record in catalog.pins(pins[500], 3)] == [499, 498, 497]
    digests = catalog.digests().buckets
    catalog.close()
    again = Catalog(path)
    assert again.digests().buckets == digests
    again.close()


def test_what_merge_returned_survives_sigkill(path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from p2pfs.core.cid import CID\n"
        "from p2pfs.core.pins import Pin\n"
        "from p2pfs.store.catalog import Catalog\n"
        "catalog = Catalog(Path(sys.argv[1]))\n"
        "root = CID.parse(sys.argv[2])\n"
        "catalog.merge([Pin(root, str(n), 1, None, 1, 1, 1, n, 'node') for n in range(500)])\n"
        "catalog._db.execute('BEGIN')\n"
        "catalog._db.execute('DELETE FROM pins')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path), str(cid(1))], timeout=60, check=False)
    assert killed.returncode == -9
    catalog = Catalog(path)
    assert catalog.counts() == (500, 0)
    assert catalog.quarantined is None
    catalog.close()


def test_a_second_process_is_refused(catalog: Catalog, path: Path) -> None:
    with pytest.raises(errors.Refused, match="another process"):
        Catalog(path)


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "truncated"])
def test_a_damaged_file_is_moved_aside_and_begun_anew(path: Path, damage: str) -> None:
    catalog = Catalog(path)
    catalog.merge([pin(number, f"name-{number}" * 20) for number in range(500)])
    catalog.close()
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data[:] = random.Random(1).randbytes(len(data))
    elif damage == "header":
        data[:100] = bytes(100)
    elif damage == "middle":
        data[4096:-4096] = b"\xa5" * (len(data) - 8192)
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    catalog = Catalog(path)
    assert catalog.is_new
    assert catalog.quarantined is not None
    assert catalog.quarantined.parent == path.parent / "quarantine"
    assert catalog.quarantined.stat().st_size == len(data)
    assert catalog.counts() == (0, 0)
    catalog.merge([pin(1)])
    catalog.close()


def test_two_damaged_files_are_both_kept(path: Path) -> None:
    for number in (1, 2):
        path.write_bytes(b"no database" * 100)
        catalog = Catalog(path)
        assert catalog.quarantined == path.parent / "quarantine" / f"catalog.sqlite.{number}"
        catalog.close()


def test_an_empty_file_is_a_new_catalog(path: Path) -> None:
    path.touch()
    catalog = Catalog(path)
    assert catalog.is_new
    assert catalog.quarantined is None
    catalog.close()


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (a)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(errors.Refused, match="another program"):
        Catalog(path)
    assert path.read_bytes() == before


def test_a_later_schema_is_left_alone(path: Path) -> None:
    Catalog(path).close()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(errors.Refused, match="schema 2"):
        Catalog(path)


def test_a_full_disk_is_no_space_and_nothing_is_lost(catalog: Catalog) -> None:
    catalog.merge([pin(1)])
    pages = catalog._db.execute("PRAGMA page_count").fetchone()[0]
    catalog._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.NoSpace, match="full"):
        catalog.merge([pin(number, "x" * 900) for number in range(100)])
    assert catalog.counts() == (1, 0)
    catalog._db.execute("PRAGMA max_page_count = 1000000")
    catalog.merge([pin(2)])
    assert catalog.counts() == (2, 0)


# --- the journal -------------------------------------------------------------------------------------

@pytest.fixture
def journal(path: Path) -> Path:
    return path.with_name("catalog.jsonl")


def opened(path: Path, journal: Path) -> Catalog:
    """As a node does it."""
    catalog = Catalog(path)
    catalog.refill(journal)
    catalog.keep_journal(journal)
    return catalog


@contextlib.contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file grows: what is written over bytes that are there is taken, and one more byte of anything else."""
    write = os.pwrite

    def cut(fd: int, data: bytes, offset: int) -> int:
        return write(fd, data[: max(1, os.fstat(fd).st_size - offset)], offset)

    with monkeypatch.context() as full:
        full.setattr("p2pfs.store.snapshot.os.pwrite", cut)
        yield


def readable_lines(journal: Path) -> list[Pin]:
    """The records of one that says not to be whole."""
    bad: list[str] = []
    pins = list(read_snapshot(journal, bad.append))
    assert len(bad) == 1 and "could not be added" in bad[0]
    return pins


def lose(path: Path) -> None:
    for part in path.parent.glob(path.name + "*"):
        part.unlink()


def all_lines(journal: Path) -> list[Pin]:
    bad: list[str] = []
    found = list(read_snapshot(journal, bad.append))
    assert bad == []
    return found


def test_the_differences_of_a_bucket_are_what_only_one_side_has(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(2000)])
    theirs = set(catalog.bucket(7)[2:])
    digests = {record_digest(record).to_bytes(16, "big") for record in theirs}
    assert digests < catalog.bucket_digests(7)
    alone = {b"a" * 16, b"b" * 16}
    records, unknown = catalog.differences(7, digests | alone)
    assert set(records) == set(catalog.bucket(7)) - theirs and len(records) == 2
    assert unknown == alone
    assert set(catalog.pick(7, digests | alone)) == theirs
    assert catalog.pick(8, digests) == []
    catalog.close()


def test_a_snapshot_and_what_came_later_restore_everything(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number, f"näme {number}", removed=number % 7 == 0) for number in range(50)])
    catalog.tend_journal()
    catalog.merge([pin(number, f"näme {number}", 5, removed=number % 3 == 0) for number in range(40, 100)])
    wanted = catalog.digests()
    assert sorted(found.name for found in path.parent.glob("catalog.jsonl*")) == ["catalog.jsonl"]
    lose(path)  # as if the node was killed: nothing was closed
    again = opened(path, journal)
    assert again.digests() == wanted
    assert again.counts() == catalog.counts()
    assert again.recall(ANEW) is None
    again.close()


def test_a_record_is_in_the_journal_when_merge_returns(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.tend_journal()
    catalog.merge([pin(1)])
    assert all_lines(journal) == [pin(1)]
    catalog.merge([pin(1), pin(2), pin(1, stamp=2, removed=True)])
    assert all_lines(journal) == [pin(1), pin(2), pin(1, stamp=2, removed=True)]
    catalog.close()


def test_a_clean_stop_leaves_a_journal_that_is_taken_as_it_is(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.close()
    inode = journal.stat().st_ino
    catalog = opened(path, journal)
    catalog.tend_journal()
    assert journal.stat().st_ino == inode
    catalog.merge([pin(10)])
    catalog.close()
    assert len(all_lines(journal)) == 11


@pytest.mark.parametrize("change", ["removed", "cut", "behind"])
def test_a_journal_that_is_not_current_at_the_start_is_written_anew(path: Path, journal: Path, change: str) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.close()
    if change == "removed":
        journal.unlink()
    elif change == "cut":
        journal.write_bytes(journal.read_bytes()[:-20])
    else:
        kept = journal.read_bytes()
        catalog = opened(path, journal)
        catalog.merge([pin(10)])
        catalog._db.close()
        journal.write_bytes(kept)  # power was lost before the line was on disk
    catalog = opened(path, journal)
    catalog.tend_journal()
    assert set(all_lines(journal)) == set(everything(catalog))
    catalog.close()


def test_the_journal_is_written_anew_when_most_of_it_is_history(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.tend_journal()
    longest = 0
    for stamp in range(40):
        catalog.merge([pin(number, stamp=stamp) for number in range(100)])
        catalog.tend_journal()
        longest = max(longest, len(all_lines(journal)))
    assert 1000 < longest <= 1300
    catalog.close()
    assert set(everything(opened(path, journal))) == {pin(number, stamp=39) for number in range(100)}


def test_pins_that_come_while_the_journal_is_written_anew_are_in_it(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.tend_journal()
    for stamp in (1, 2, 3, 4):
        catalog.merge([pin(number, stamp=stamp) for number in range(2500)])
    steps = catalog.journal_steps()
    assert (next(steps), next(steps)) == (1000, 2000)
    late = [pin(number, stamp=5) for number in (1, 2499, 9000, 9001)]
    catalog.merge(late)
    assert set(late) <= set(all_lines(journal)), "the old file is the journal until the new one is complete"
    assert [number >= 2504 for number in steps] == [True]
    assert set(late) <= set(all_lines(journal)) and len(all_lines(journal)) >= 2502
    wanted = catalog.digests()
    lose(path)
    assert opened(path, journal).digests() == wanted


def test_to_write_the_journal_anew_can_be_begun_again(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(1500)])
    given_up = catalog.journal_steps()
    next(given_up)
    steps = catalog.journal_steps()
    next(steps)
    assert list(given_up) == []
    assert next(steps) == 1500 and list(steps) == []
    assert len(all_lines(journal)) == 1500
    catalog.close()
    assert sorted(found.name for found in path.parent.glob("catalog.jsonl*")) == ["catalog.jsonl"]


def test_what_is_purged_while_the_journal_is_written_anew_is_not_in_it(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([*(pin(number) for number in range(1500)), pin(2000, stamp=stamp_of(5), removed=True)])
    steps = catalog.journal_steps()
    next(steps)
    assert catalog.purge(10) == 1
    assert list(steps) == []
    catalog.tend_journal()
    assert len(all_lines(journal)) == 1500 and pin(2000, stamp=stamp_of(5), removed=True) not in all_lines(journal)
    catalog.close()


def test_a_journal_that_cannot_be_written_stops_no_merge_and_catches_up(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1)])
    catalog.tend_journal()
    with full_disk(monkeypatch):
        assert catalog.merge([pin(2)]) == [pin(2)]
        assert catalog.merge([pin(3)]) == [pin(3)]
    assert caplog.text.count("not current") == 1
    assert readable_lines(journal) == [pin(1)]
    catalog.merge([pin(4)])
    assert readable_lines(journal) == [pin(1), pin(4)]
    catalog.tend_journal()
    assert set(all_lines(journal)) == set(everything(catalog)) == {pin(number) for number in (1, 2, 3, 4)}
    catalog.close()


@pytest.mark.parametrize("where", ["at a start", "while it runs"])
def test_a_journal_that_lacks_a_record_does_not_pass_for_a_whole_one(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1)])
    catalog.tend_journal()
    with full_disk(monkeypatch):
        catalog.merge([pin(2)])
    catalog.merge([pin(3)])
    if where == "at a start":
        lose(path)
        catalog = opened(path, journal)
    else:
        catalog.begin_anew()
    assert set(everything(catalog)) == {pin(1), pin(3)}
    assert catalog.recall(ANEW) == "yes"
    catalog.close()
    assert len(all_lines(journal)) == 2


def test_a_journal_with_notes_about_thousands_of_members_is_read_and_marked(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = {f"{COMPARED}via.{number:0128}": "1790000000000" for number in range(8192)}
    write_snapshot(journal, [pin(1)], 1, notes)
    found: list[dict[str, str]] = []
    assert list(read_snapshot(journal, pytest.fail, found.append)) == [pin(1)]
    assert found == [notes]
    with full_disk(monkeypatch), contextlib.closing(Journal(journal, 1)) as kept:
        kept.append([pin(2)])
    assert readable_lines(journal) == [pin(1)]


def test_a_journal_is_whole_again_once_it_was_written_anew(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = opened(path, journal)
    with full_disk(monkeypatch):
        catalog.merge([pin(1)])
    catalog.tend_journal()
    lose(path)
    catalog = opened(path, journal)
    assert everything(catalog) == [pin(1)]
    assert catalog.recall(ANEW) != "yes"
    catalog.close()


def test_a_journal_that_somebody_removed_is_written_again(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1)])
    catalog.tend_journal()
    catalog.merge([pin(2)])
    journal.unlink()
    catalog.merge([pin(3)])
    catalog.tend_journal()
    assert len(all_lines(journal)) == 3
    catalog.close()


@pytest.mark.parametrize("is_removed", ["before it was opened", "meanwhile"])
def test_a_journal_that_was_begun_in_the_place_of_a_removed_one_does_not_pass_for_a_whole_one(
    path: Path, journal: Path, is_removed: str
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1)])
    if is_removed == "before it was opened":
        catalog.close()
        journal.unlink()
        catalog = opened(path, journal)
    else:
        journal.unlink()
        catalog.merge([pin(2)])
    catalog.merge([pin(3)])
    lose(path)
    catalog = opened(path, journal)
    assert everything(catalog) == [pin(3)]
    assert catalog.recall(ANEW) == "yes"
    catalog.close()


def test_a_journal_that_was_replaced_in_vain_does_not_pass_for_a_whole_one(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1)])

    def break_down(folder: str) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as broken:
        broken.setattr("p2pfs.store.snapshot.sync_folder", break_down)
        with pytest.raises(errors.NoSpace):
            catalog.tend_journal()
    catalog.merge([pin(2)])
    assert readable_lines(journal) == [pin(1)]
    catalog.close()


def test_purged_tombstones_do_not_come_back_by_the_journal(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    gone, kept = pin(1, stamp=stamp_of(5), removed=True), pin(2, stamp=stamp_of(10), removed=True)
    catalog.merge([gone, kept, pin(3)])
    catalog.tend_journal()
    catalog.remember(COMPARED + "other", "77")
    assert catalog.purge(10) == 1
    assert catalog.merge([gone]) == []
    catalog.tend_journal()
    wanted = catalog.digests()
    lose(path)
    again = opened(path, journal)
    assert again.digests() == wanted
    assert again.digests().purged_ms == 10
    assert again.recall(COMPARED + "other") == "77"
    assert again.counts() == (1, 1)
    assert again.merge([gone]) == []
    assert again.purge(3) == 0
    assert again.digests().purged_ms == 10
    assert again.merge([pin(3, stamp=stamp_of(5), removed=True)]) != []
    again.close()


def test_after_tombstones_went_by_a_clock_that_was_ahead_young_ones_live_as_long_as_others(catalog: Catalog) -> None:
    catalog.merge([pin(1, stamp=stamp_of(5), removed=True)])
    assert catalog.purge(1000) == 1
    catalog.merge([pin(2, stamp=stamp_of(10)), pin(3, stamp=stamp_of(20))])
    catalog.merge([pin(2, stamp=stamp_of(11), removed=True), pin(3, stamp=stamp_of(21), removed=True)])
    assert catalog.purge(15) == 1
    assert (catalog.counts(), catalog.digests().purged_ms) == ((0, 1), 1000)


def test_a_new_database_counts_as_new_until_it_was_filled(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(1), pin(2)])
    lose(path)
    killed_while_reading = Catalog(path)
    killed_while_reading.merge([pin(1)])
    killed_while_reading.close()
    catalog = opened(path, journal)
    assert catalog.counts() == (2, 0)
    assert not catalog.is_new
    catalog.close()


def test_damage_that_a_query_meets_is_got_over_with_the_journal(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number, f"name-{number}" * 20) for number in range(500)])
    wanted = catalog.digests()
    catalog.close()
    catalog = opened(path, journal)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    catalog._db.execute("PRAGMA shrink_memory")
    with pytest.raises(errors.Corrupt):
        everything(catalog)
    assert catalog.is_damaged
    catalog.begin_anew()
    assert not catalog.is_damaged
    assert catalog.digests() == wanted
    assert len(everything(catalog)) == 500
    assert catalog.quarantined is not None
    assert catalog.recall(ANEW) == "no"
    catalog.merge([pin(1000)])
    catalog.tend_journal()
    assert set(all_lines(journal)) == set(everything(catalog))
    catalog.close()


def test_a_catalog_that_could_not_be_filled_again_says_that_it_lacks_records(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    before = journal.read_bytes()

    def fail(*args: object) -> int:
        raise OSError("the disk is failing")

    monkeypatch.setattr(catalog, "read_snapshot", fail)
    with pytest.raises(OSError, match="failing"):
        catalog.begin_anew()
    # Nobody may collect by this, and nobody may write over what can still be read one day.
    assert catalog.recall(ANEW) == "yes"
    catalog.tend_journal()
    catalog.close()
    assert journal.read_bytes() == before
    again = opened(path, journal)
    assert again.counts() == (10, 0)
    again.close()


@pytest.mark.parametrize("step", ["to open the new one", "to note that records lack", "to end the filling"])
def test_what_keeps_a_catalog_from_being_filled_again_is_got_over_by_the_next_call(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.tend_journal()
    for number in range(2000):  # so many that it would be written anew, from what the catalog has
        catalog.merge([pin(1, stamp=2 + number)])
    before = journal.read_bytes()

    def fail(*args: object) -> None:
        raise errors.NoSpace("the disk is full")

    def remember(key: str, value: str) -> None:
        fail() if (key, value) == (ANEW, "yes") else Catalog.remember(catalog, key, value)

    with monkeypatch.context() as full:
        if step == "to open the new one":
            full.setattr("p2pfs.store.catalog.open_database", fail)
        elif step == "to note that records lack":
            full.setattr(catalog, "remember", remember)
        else:
            full.setattr(catalog, "keep_journal", fail)
        for _ in range(2):
            with pytest.raises(errors.NoSpace):
                catalog.begin_anew()
            assert catalog.is_damaged, "nobody may go on with what is here now"
    if step != "to open the new one":
        assert catalog.lacks_records()
    catalog.tend_journal()
    assert journal.read_bytes() == before
    catalog.begin_anew()
    assert not catalog.is_damaged and not catalog.lacks_records()
    assert catalog.counts() == (10, 0)
    catalog.merge([pin(100)])
    catalog.tend_journal()
    assert set(all_lines(journal)) == set(everything(catalog))
    assert [kept.name for kept in (path.parent / "quarantine").glob("*.[0-9]")] == ["catalog.sqlite.1"]
    catalog.close()


def test_a_node_that_ends_before_its_catalog_was_filled_again_fills_it_at_the_next_start(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.tend_journal()

    def fail(*args: object) -> None:
        raise errors.NoSpace("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(catalog, "remember", fail)
        with pytest.raises(errors.NoSpace):
            catalog.begin_anew()
        catalog.close()
    again = Catalog(path)
    assert again.lacks_records()
    assert again.refill(journal) == 10
    again.keep_journal(journal)
    assert not again.lacks_records()
    again.close()


def test_a_name_that_is_no_text_any_more_is_damage(catalog: Catalog) -> None:
    catalog.merge([pin(1, "name")])
    catalog._db.execute("UPDATE pins SET name = CAST(x'ff' AS TEXT)")
    with pytest.raises(errors.Corrupt, match="UTF-8"):
        catalog.pins()
    assert catalog.is_damaged


def test_what_kept_room_for_a_full_disk_does_not_keep_it_from_being_made_later(path: Path) -> None:
    """A node was killed between two steps, and left the table that had taken the room."""
    Catalog(path).close()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE room (x BLOB)")
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    db.execute("INSERT INTO room VALUES (zeroblob(?))", (free * 4096,))
    db.commit()
    assert db.execute("PRAGMA freelist_count").fetchone()[0] < ROOM_PAGES
    db.close()
    catalog = Catalog(path)
    assert catalog._db.execute("PRAGMA freelist_count").fetchone()[0] >= ROOM_PAGES
    assert path.with_name(path.name + ".reserve").stat().st_size == RESERVE_BYTES
    catalog.close()


def test_a_catalog_without_its_journal_says_that_it_lacks_records(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.tend_journal()
    journal.unlink()
    catalog.begin_anew()
    assert catalog.counts() == (0, 0)
    assert catalog.recall(ANEW) == "yes"
    catalog.close()


def test_a_journal_that_is_put_back_makes_a_catalog_whole_again(path: Path, journal: Path) -> None:
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(10)])
    catalog.close()
    kept = journal.read_bytes()
    lose(path)
    journal.unlink()
    catalog = opened(path, journal)
    catalog.remember(ANEW, "yes")
    catalog.close()
    # Its own journal proves nothing.
    catalog = opened(path, journal)
    assert catalog.recall(ANEW) == "yes"
    catalog.close()
    journal.write_bytes(kept)
    catalog = opened(path, journal)
    assert catalog.counts() == (10, 0)
    assert catalog.recall(ANEW) == "no"
    catalog.close()
    assert len(all_lines(journal)) == 10


def test_a_last_line_that_was_cut_off_costs_that_line_only(path: Path, journal: Path) -> None:
    write_snapshot(journal, [pin(number) for number in range(10)], 10)
    journal.write_bytes(journal.read_bytes()[:-20])
    catalog = opened(path, journal)
    assert catalog.counts() == (9, 0)
    catalog.merge([pin(20)])
    assert catalog.quarantined is None
    catalog.close()
    assert len(all_lines(journal)) == 10


def test_a_bad_line_costs_that_line_only_and_the_file_is_kept(
    path: Path, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_snapshot(journal, [pin(number) for number in range(10)], 10)
    data = journal.read_bytes().replace(b'"created"', b'"cre\x00ted"', 3)
    journal.write_bytes(data)
    catalog = opened(path, journal)
    assert catalog.counts() == (7, 0)
    assert catalog.recall(ANEW) == "yes"
    assert "3 lines of the catalog's journal are lost" in caplog.text
    assert (path.parent / "quarantine" / "catalog.jsonl.1").read_bytes() == data
    catalog.close()
    assert len(all_lines(journal)) == 7


def test_with_lines_that_are_lost_nothing_counts_as_seen_or_let_go_of(path: Path, journal: Path) -> None:
    """Else those who have these pins would take them for removed ones when they come back."""
    write_snapshot(journal, [pin(number) for number in range(10)], 10, {"purged_until": "77", COMPARED + "other": "78"})
    journal.write_bytes(journal.read_bytes().replace(b'"created"', b'"cre\x00ted"', 1))
    catalog = opened(path, journal)
    assert catalog.counts() == (9, 0)
    assert (catalog.digests().purged_ms, catalog.recall_all(COMPARED)) == (0, {})
    assert catalog.merge([pin(1, stamp=stamp_of(5) + 1, removed=True)]) != []
    catalog.close()


@pytest.mark.parametrize("while_it_runs", [False, True])
def test_a_journal_for_which_there_is_no_room_is_kept_and_the_catalog_says_that_it_lacks_records(
    path: Path, journal: Path, while_it_runs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """`max_pins` was lowered, and then the database was lost."""
    catalog = opened(path, journal)
    catalog.merge([pin(number) for number in range(5)])
    if while_it_runs:
        catalog.tend_journal()
        catalog.max_records = 3
        catalog.begin_anew()
    else:
        catalog.close()
        lose(path)
        catalog = Catalog(path)
        catalog.max_records = 3
        catalog.refill(journal)
        catalog.keep_journal(journal)
    assert catalog.counts() == (3, 0)
    assert catalog.lacks_records(), "or the blocks of the other two would be collected"
    assert "2 lines of the catalog's journal are lost" in caplog.text
    assert len(all_lines(path.parent / "quarantine" / "catalog.jsonl.1")) == 5
    catalog.close()


def test_a_disk_that_fails_in_the_middle_of_a_journal_costs_what_follows(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(journal, [pin(number) for number in range(10)], 10)

    class Failing(io.BytesIO):
        left = 8

        def readline(self, size: int | None = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readline(size)

    def failing(fd: int, mode: str) -> Failing:
        os.close(fd)
        return Failing(journal.read_bytes())

    with monkeypatch.context() as broken:
        broken.setattr("p2pfs.store.snapshot.open", failing, raising=False)
        catalog = opened(path, journal)
    assert catalog.counts() == (7, 0)
    assert catalog.lacks_records()
    assert (path.parent / "quarantine" / "catalog.jsonl.1").exists()
    catalog.close()


def test_a_snapshot_of_the_first_release_is_read(path: Path, journal: Path) -> None:
    lines = [b'{"format": "p2pfs-catalog", "records": 2, "version": 1}', pin(1).to_bytes(), pin(2).to_bytes()]
    journal.write_bytes(b"\n".join(lines) + b"\n")
    catalog = opened(path, journal)
    assert catalog.counts() == (2, 0)
    catalog.close()


def test_no_snapshot_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        all_lines(tmp_path / "none")


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60)
def test_any_file_is_a_snapshot_or_malformed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, headed: bool
) -> None:
    snapshot = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    header = b'{"format": "p2pfs-catalog", "records": 2, "version": 2}\n'
    snapshot.write_bytes((header if headed else b"") + data)
    bad: list[str] = []
    if headed:
        assert list(read_snapshot(snapshot, bad.append)) == []
        assert len(bad) == data.count(b"\n")
    else:
        with pytest.raises(errors.Malformed):
            list(read_snapshot(snapshot, bad.append))


@pytest.mark.parametrize("header", [
    '{"format": "p2pfs-catalog", "records": 0, "version": 3}', '{"format": "p2pfs-catalog"}', "[]", "[" * 10_000,
])
def test_a_bad_header_is_malformed(tmp_path: Path, header: str) -> None:
    snapshot = tmp_path / "catalog.jsonl"
    snapshot.write_text(header + "\n")
    with pytest.raises(errors.Malformed):
        all_lines(snapshot)
