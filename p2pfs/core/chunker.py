"""Where a file is cut into leaves.

Fixed sizes are arithmetic. FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
Based Storage Systems", IEEE TPDS 2020) cuts where the content says, so an insertion moves few cuts. Its parameters
fix the CIDs and never change under one chunker name: pyfastcdc (equal to the crate fastcdc's v2020), average 1 MiB,
minimum 256 KiB, maximum 2 MiB, normalised chunking level 1, seed 0.
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
    """Finds the next leaf at the start of a buffer. Not for several threads at once.

    The cut depends on the next `window_bytes` of the content alone, not on how it arrived.
    """

    def __init__(self, profile: Profile) -> None:
        self.window_bytes = profile.max_leaf_bytes
        """What a buffer must hold, unless the content ends before."""
        self._fastcdc = None
        if not profile.is_fixed:
            # Imported here: who cuts at fixed sizes, which is nearly everybody, does not pay for it.
            from pyfastcdc import FastCDC

            self._fastcdc = FastCDC(
                profile.chunk_bytes, min_size=profile.min_leaf_bytes, max_size=profile.max_leaf_bytes,
                normalized_chunking=NORMALIZATION, seed=SEED,
            )

    def cut(self, window: Buffer, is_end: bool) -> int:
        """Length of the leaf that starts where the window starts; 0 only for an empty window.

        With less than `window_bytes` in it, the window must go to the end of the content (`is_end`).
        """
        view = memoryview(window)[: self.window_bytes]
        if len(view) < self.window_bytes and not is_end:
            raise ValueError(f"a window of {len(view)} bytes before the end; {self.window_bytes} are needed")
        if self._fastcdc is None or not view:
            return len(view)
        return next(iter(self._fastcdc.cut_buf(view))).length
