"""`make bench-peers`: p2pfs and what people would use instead, the same jobs in the same run (docs/COMPARISON.md).

    python -m kit.peers [--install] [--runs=N] [--size=MIB] [--files=N] [--json=FILE] [NAME...]

Store a file of random bytes, fetch it at another node, put and get a directory of 4 KiB files; each system at its own
defaults, with two copies where it makes copies, on loopback, in a new folder for each run. Medians of the runs. What
is not installed is named with the command that installs it; `--install` runs that.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kit.bench.bench import WARM_FROM_MIB
from kit.bench.machine import empty_big_files, random_file, small_tree, warm_memory
from kit.peers.glusterfs import GlusterFS
from kit.peers.install import install
from kit.peers.libtorrent import Libtorrent
from kit.peers.nginx import Nginx
from kit.peers.own import P2pfs
from kit.peers.peer import Missing, Peer
from kit.peers.rsync import Rsync
from kit.peers.seaweedfs import SeaweedFS
from kit.peers.syncthing import Syncthing
from kit.peers.table import Result, markdown
from kit.peers.tahoe import Tahoe
from kit.processes import MIB

PEERS: dict[str, type[Peer]] = {
    "p2pfs": P2pfs, "seaweedfs": SeaweedFS, "glusterfs": GlusterFS, "syncthing": Syncthing, "libtorrent": Libtorrent,
    "tahoe": Tahoe, "rsync": Rsync, "nginx": Nginx,
}


def one_run(peer: Peer, result: Result, place: Path) -> None:
    """All jobs once. What comes back is compared with what was given, so that a wrong answer is no figure."""
    file = random_file(place / "data.bin", result.size)
    tree = small_tree(place / "tree", result.files)
    back, back_tree = place / "back" / "data.bin", place / "back" / "the-tree"
    back.parent.mkdir()
    result.add("store", peer.store(file))
    os.sync()  # what one leaves unwritten is no load for the next job
    result.add("fetch", peer.fetch(file, back))
    if not filecmp.cmp(file, back, shallow=False):
        raise RuntimeError(f"{peer.name} returned another file")
    os.sync()
    result.add("put", peer.put(tree))
    os.sync()
    result.add("get", peer.get(tree, back_tree))
    names = sorted(os.listdir(tree))
    if filecmp.cmpfiles(tree, back_tree, names, shallow=False)[0] != names:
        raise RuntimeError(f"{peer.name} returned another directory")


def compare(kind: type[Peer], result: Result, folder: Path) -> None:
    """One run in folders of its own; what is big there is emptied afterwards."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        (place / "daemons").mkdir()
        with kind(place / "daemons") as peer:
            one_run(peer, result, place)
    finally:
        empty_big_files(place)


def main(arguments: list[str] | None = None) -> int:
    """Run those that are wanted and installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install what is missing; of Debian only as root")
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure (3)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the big file (1024)")
    parser.add_argument("--files", type=int, default=10_000, help="number of small files (10000)")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    parser.add_argument("names", nargs="*", choices=[[], *PEERS], metavar="NAME", help=f"of {', '.join(PEERS)}")
    wanted = parser.parse_args(arguments)
    kinds = [PEERS[name] for name in wanted.names or PEERS]
    if wanted.install:
        install(kinds)
    results = []
    for kind in kinds:
        try:
            results.append(Result(kind, kind.version(), wanted.size * MIB, int(wanted.files * kind.tree_share) or 1))
        except Missing as missing:
            print(f"{kind.name} is missing: {missing}", file=sys.stderr)
    # Whatever ends the run: the daemons are ended, and what is known by then is said.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="p2pfs-peers-"))
    try:
        # In turn, so that a noisy minute is not one system's.
        for _ in range(wanted.runs):
            for result in results:
                try:
                    if wanted.size >= WARM_FROM_MIB:
                        warm_memory(folder)
                    begin = time.monotonic()
                    compare(result.peer, result, folder)
                    print(f"{result.peer.name}: a run in {time.monotonic() - begin:.0f} s", file=sys.stderr)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    print(f"{result.peer.name} failed: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(markdown(results), flush=True)
        if wanted.json:
            wanted.json.write_text(json.dumps([result.as_json() for result in results], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
