"""Where a file is cut into leaves.

Fixed sizes are arithmetic. FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
Based Storage Systems", IEEE TPDS 2020) cuts where the content says, so an insertion moves few cuts. Its parameters
fix the CIDs and never change under one chunker name: pyfastcdc (equal to the crate fastcdc's v2020), normalised
chunking level 1, seed 0; `fastcdc-1MiB`: average 1 MiB, minimum 256 KiB, maximum 2 MiB; `fastcdc-256KiB`: a quarter
of each (docs/decisions/026-a-smaller-average.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from p2pfs.core.multihash import Buffer
from p2pfs.core.profile import Profile

NORMALIZATION: Literal[1] = 1
SEED = 0


def fixed_cuts(size: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of every leaf of a file; an empty file is one empty leaf."""
    yield 0, min(size, chunk_bytes)
    for offset in range(chunk_bytes, size, chunk_bytes):
        yield offset, min(chunk_bytes, size - offset)


class Cutter:
    """Finds the leaves at the start of a buffer. Not for several threads at once.

    Where a leaf ends depends on the `window_bytes` of the content from its start on alone, not on how they arrived.
    """

    def __init__(self, profile: Profile) -> None:
        self.window_bytes = profile.max_leaf_bytes
        """What a buffer must hold, unless the content ends before."""
        self._chunk_bytes = profile.chunk_bytes
        self._fastcdc = None
        if not profile.is_fixed:
            # Imported here: who cuts at fixed sizes, which is nearly everybody, does not pay for it.
            from pyfastcdc import FastCDC

            self._fastcdc = FastCDC(
                profile.chunk_bytes, min_size=profile.min_leaf_bytes, max_size=profile.max_leaf_bytes,
                normalized_chunking=NORMALIZATION, seed=SEED,
            )

    def cuts(self, window: Buffer, is_end: bool) -> list[int]:
        """Lengths of the leaves from the window's start on, as far as it tells for certain.

        What is left over begins the next window; at the end of the content (`is_end`) nothing is left over. There is
        at least one, unless the window is empty: before the end it must hold `window_bytes` or more.
        """
        view = memoryview(window)
        if len(view) < self.window_bytes and not is_end:
            raise ValueError(f"a window of {len(view)} bytes before the end; {self.window_bytes} are needed")
        lengths = []
        left = len(view)
        for length in self._lengths(view):
            # A leaf that goes up to the window's end ends there for want of bytes, unless it is of full length.
            if length == left and length < self.window_bytes and not is_end:
                break
            lengths.append(length)
            left -= length
            if left < self._chunk_bytes and not is_end:
                break  # it would probably be searched in vain, and once more as part of the next window
        return lengths

    def _lengths(self, view: memoryview) -> Iterator[int]:
        if self._fastcdc is None:
            return (length for _, length in fixed_cuts(len(view), self.window_bytes) if length)
        # The GIL is free while it searches.
        return (chunk.length for chunk in self._fastcdc.cut_buf(view)) if view else iter(())
