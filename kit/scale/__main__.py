"""`make bench-scale`: cost as blocks, pins and members grow.

    python -m kit.scale [--least=N] [--most=N] [ROW...]

Each line: what, at which size, how much. CPU seconds are the figures to trust; wall times are of this machine as it is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kit.scale import blocks, members, messages, pins
from kit.scale.measure import Row

SIZES = (10, 1000, 10_000, 100_000, 1_000_000)
MEMBERS = (3, 10, 30, 100, 300, 1000)
ROWS: dict[str, tuple[tuple[int, ...], Callable[[Path, int], Iterator[Row]]]] = {
    "audit": (SIZES[2:], lambda folder, size: blocks.audit(folder, size, 1)),
    "audit3": (SIZES[2:4], lambda folder, size: blocks.audit(folder, size, 3)),
    "catalog": (SIZES, pins.catalog),
    "node": (SIZES, pins.node),
    "gossip": (MEMBERS, lambda _, size: members.gossip(size)),
    "orders": (MEMBERS, lambda _, size: members.orders(size)),
    "messages": ((1, 3, 5), messages.per_block),
}


def main() -> int:
    """Measure the rows that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="no larger sizes than this (1000000)")
    parser.add_argument("--least", type=int, default=1, help="no smaller ones (1)")
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help=f"of {', '.join(ROWS)}; default all")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="p2pfs-scale-"))
    try:
        print(f"{'what':<52} {'size':>10} {'value':>12} unit")
        for name in wanted.rows or ROWS:
            sizes, measure = ROWS[name]
            for size in (size for size in sizes if wanted.least <= size <= wanted.most):
                for row in measure(folder / f"{name}-{size}", size):
                    print(row, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
