"""The catalog by pins: alone, between two, and under a node."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from kit.cluster import Cluster, Node
from kit.scale.layout import ROOTS, fill_pins, some_pins
from kit.scale.measure import MIB, Row, Span, seconds_of
from p2pfs import Client
from p2pfs.core import wire
from p2pfs.core.cid import CID, RAW
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import BUCKETS, Pin, split_digests
from p2pfs.store.catalog import Catalog

STORES = 100
DIFFERENCES = (1, 100, 1000)


def catalog(folder: Path, pins: int) -> Iterator[Row]:
    """Calls of the catalog itself, as its thread makes them."""
    folder.mkdir()
    try:
        kept = Catalog(folder / "catalog.sqlite")
        kept.keep_journal(folder / "catalog.jsonl")
        roots = [CID(RAW, multihash(SHA2_256, b"%d" % number)) for number in range(min(ROOTS, pins))]
        batch = max(250, pins // BUCKETS)  # as a new node takes them from another
        with Span() as span:
            for start in range(0, pins, batch):
                kept.merge(some_pins(min(batch, pins - start), roots, start))
        yield Row("catalog: a pin of many that come from a peer", pins, 1e6 * span.cpu_s / pins, "us CPU",
                  f"{batch:,} at a time")
        with Span() as span:
            for pin in some_pins(100, roots, pins):
                kept.merge([pin])
        yield Row("catalog: a pin that comes alone", pins, 1e4 * span.cpu_s, "us CPU")
        pages = 0
        with Span() as span:
            after: Pin | None = None
            while page := kept.pins(after):
                after, pages = page[-1], pages + 1
        yield Row("catalog: all pins, newest first", pins, span.cpu_s, "s CPU",
                  f"{pages} pages, memory +{span.memory_bytes / MIB:.1f} MiB")
        with Span() as span:
            for _ in range(1000):
                kept.digests()
        yield Row("catalog: DIGESTS", pins, 1000 * span.cpu_s, "us CPU")
        with Span() as span:
            for number in range(100):
                kept.find_name(f"some/folder/of-files/file-{number:07}.bin")
        yield Row("catalog: a pin by name", pins, 1e4 * span.cpu_s, "us CPU")
        kept.tend_journal()
        for differences in DIFFERENCES:
            if differences <= pins:
                yield _comparison(kept, pins, differences)
        with Span() as span:
            kept.close()
            kept = Catalog(folder / "catalog.sqlite")
            kept.keep_journal(folder / "catalog.jsonl")
            kept.newest_stamp()
        size = (folder / "catalog.sqlite").stat().st_size
        yield Row("catalog: closed and opened", pins, span.cpu_s, "s CPU", f"{size / MIB:.0f} MiB on disk")
        kept.close()
    finally:
        shutil.rmtree(folder)


def _comparison(kept: Catalog, pins: int, differences: int) -> Row:
    """What travels, and is done at both ends, when another node lacks so many records, spread over all buckets."""
    size = 0
    with Span() as span:
        for number in range(min(differences, BUCKETS)):
            ours = kept.bucket_digests(number)
            theirs = set(list(ours)[max(1, differences // BUCKETS):])  # as the other node would read of its own catalog
            body = b"".join(theirs)
            records, _ = kept.differences(number, split_digests(body))
            answer = wire.dump_json([record.to_wire() for record in records])
            size += len(body) + len(answer)
            for row in wire.parse_json(answer, list):
                Pin.from_wire(row)
    return Row(f"catalog: comparison, {differences:,} records lacking", pins, span.cpu_s, "s CPU",
               f"both ends, without merging; {size / MIB:.2f} MiB")


def node(folder: Path, pins: int) -> Iterator[Row]:
    """A node with so many pins: start, store of a small file, `ls`, and a pin while the journal is written anew."""
    folder.mkdir()
    try:
        with Cluster(folder, 1, repair__audit_interval="30d", storage__scrub_period="365d") as cluster:
            one = cluster[0]
            one.stop()
            with Span() as span:
                fill_pins(one.data_dir, pins)
            one.start()
            while_rewritten = _stores(one, folder, STORES)  # the journal lacks all that was laid out
            yield Row("node: start to READY", pins, one.ready_s, "s", f"laid out in {span.seconds:.0f} s")
            one.cli("audit", "--wait", timeout=3600)
            _wait_journal(one, pins)
            idle = one.memory() / MIB
            cpu_s = one.cpu_s()
            times = _stores(one, folder, STORES)
            yield Row("node: store of a 1 KiB file", pins, 1000 * (one.cpu_s() - cpu_s) / STORES, "ms CPU",
                      f"wall, median of {STORES}: {1000 * statistics.median(times):.1f} ms, slowest "
                      f"{1000 * max(times):.0f}")
            yield Row("node: the same at the start, slowest", pins, 1000 * max(while_rewritten), "ms",
                      "the journal is written anew, all pins are walked")
            with Client(str(one.control)) as client:
                yield Row("node: status", pins, 1000 * statistics.median(
                    seconds_of(client.status) for _ in range(STORES)), "ms")
                cpu_s, begin = one.cpu_s(), time.monotonic()
                rows = sum(1 for _ in client.pins())
                yield Row("node: ls", rows, time.monotonic() - begin, "s",
                          f"node's CPU {one.cpu_s() - cpu_s:.1f} s, its memory {one.memory() / MIB - idle:+.1f} MiB")
                cpu_s = one.cpu_s()
                client.audit(wait=True)
                yield Row("node: audit", pins, one.cpu_s() - cpu_s, "s CPU",
                          f"memory {one.memory() / MIB:.0f} MiB, peak {one.memory('VmHWM') / MIB:.0f}")
    finally:
        shutil.rmtree(folder)


def _stores(one: Node, folder: Path, count: int) -> list[float]:
    times = []
    with Client(str(one.control)) as client:
        for _ in range(count):
            path = folder / "small"
            path.write_bytes(os.urandom(1024))
            times.append(seconds_of(lambda path=path: client.store(path)))  # type: ignore[misc]
            path.unlink()
    return times


def _wait_journal(one: Node, pins: int) -> None:
    """Until the new journal has taken the place of the old one."""
    end = time.monotonic() + 600
    while (one.data_dir / "catalog.jsonl").stat().st_size < 100 * pins:
        if time.monotonic() > end:
            raise TimeoutError("the journal was not written anew")
        time.sleep(0.1)
