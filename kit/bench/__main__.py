"""`make bench`: what p2pfs costs, each figure beside the wanted one and a reference taken in the same minute.

    python -m kit.bench [--runs=N] [--size=MIB] [--json=FILE] [ROW...]

The machine may be noisy and its disk may be slow: trust the ratios. Each figure is the median of the runs, with the
smallest and the largest. `CPU s` is of all nodes and the client together; `node` and `client` are peaks of resident
memory in MiB, `node` of the node that had the most. Wanted figures are for the full size (1024).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kit.bench.attack import attack
from kit.bench.auditing import audit
from kit.bench.bench import FULL_MIB, Bench
from kit.bench.crowd import crowd
from kit.bench.delay import delay
from kit.bench.encrypted import encrypted
from kit.bench.four_clients import four
from kit.bench.growth import doubling, sparse
from kit.bench.healing import heal
from kit.bench.one_node import one
from kit.bench.references import ids, loopback
from kit.bench.small_files import small
from kit.bench.starting import overhead, ready
from kit.bench.table import HEAD, line
from kit.bench.three_nodes import far, three
from kit.bench.workers import workers

ROWS: dict[str, Callable[[Bench], None]] = {
    row.__name__: row for row in (loopback, ids, ready, overhead, one, encrypted, three, far, small, crowd, four)
}
SLOW: dict[str, Callable[[Bench], None]] = {
    row.__name__: row for row in (heal, audit, doubling, sparse, attack, delay, workers)
}
"""Minutes for each run: only when asked for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the rows that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure (5)")
    parser.add_argument("--size", type=int, default=FULL_MIB, help=f"MiB of the big file ({FULL_MIB})")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS, *SLOW], metavar="ROW",
                        help=f"of {', '.join(ROWS)} (the default is all these); {', '.join(SLOW)} (slow)")
    wanted = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="p2pfs-bench-"))
    try:
        bench = Bench(folder, wanted.size, wanted.runs)
        bench.warm()
        print(line(HEAD))
        for name in wanted.rows or ROWS:
            {**ROWS, **SLOW}[name](bench)
        if wanted.json:
            wanted.json.write_text(json.dumps([row.as_json() for row in bench.rows], indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
