"""Jobs of one segment each, done by a few threads, their results in order. They read and encrypt without the GIL."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from p2pfs.crypt.segments import SEGMENT_BYTES

THREADS = min(4, os.cpu_count() or 1)
AHEAD = 2
"""Results that wait for their turn, beside those in work."""

Job = Callable[[memoryview], memoryview]
"""Does its work in a buffer of SEGMENT_BYTES, and returns the part of it that counts."""


def in_order(jobs: Iterable[Job], threads: int = THREADS) -> Iterator[memoryview]:
    """What the jobs return, in their order; each is valid until the next is asked for.

    Memory: threads + AHEAD buffers. Leaving the iterator early waits for the jobs in work, and for no other.
    """
    source = iter(jobs)
    first = list(itertools.islice(source, 2))
    if len(first) < 2 or threads < 2:
        # A single segment, which is most files: no thread is worth it.
        out = memoryview(bytearray(SEGMENT_BYTES if len(first) > 1 else 0))
        for job in itertools.chain(first, source):
            yield job(out or memoryview(bytearray(SEGMENT_BYTES)))
        return
    yield from _threaded(itertools.chain(first, source), threads)


def _threaded(source: Iterator[Job], threads: int) -> Iterator[memoryview]:
    free = [memoryview(bytearray(SEGMENT_BYTES)) for _ in range(threads + AHEAD)]
    waiting: collections.deque[tuple[memoryview, Future[memoryview]]] = collections.deque()
    pool = ThreadPoolExecutor(threads, "segment")
    try:
        while True:
            while free and (job := next(source, None)) is not None:
                out = free.pop()
                waiting.append((out, pool.submit(job, out)))
            if not waiting:
                return
            out, future = waiting.popleft()
            yield future.result()
            free.append(out)
    finally:
        pool.shutdown(cancel_futures=True)
