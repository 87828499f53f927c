"""`make chaos`: real nodes, a workload, seeded faults; exit 0 when every promise held, 1 with the one that broke.

    python -m kit.chaos [--nodes=5] [--minutes=1] [--seed=N] [--faults=LIST] [--loopback|--netns] [--keep=DIR]

docs/CHAOS.md says what each fault does and what is checked. As root, nodes get network namespaces and small disks of
their own; without, all are on loopback, and the faults that need more are left out. The same seed, nodes and faults
make the same plan of faults (--plan shows it) and the same choices of the users.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.chaos.checks import MOST_MORE, Judge, Watch, check_logs, greenlets
from kit.chaos.faults import ALL, Faults, Step, lanes
from kit.chaos.workload import Key, Worker
from kit.chaos.world import World

WORKERS = 3
"""Threads of users."""
FIRST_S = 3.0
"""Quiet at the begin, so that there is something to hurt."""


class Chaos:
    """One run. After `run`, `broken` says which promises did not hold, and `report` all figures."""

    def __init__(self, folder: Path, seed: int, size: int, kinds: list[str], use_netns: bool | None = None) -> None:
        self.folder = folder
        self.seed = seed
        self.broken: list[tuple[str, str]] = []
        """(promise, evidence)"""
        self.report: dict[str, Any] = {}
        self._leave = threading.Event()
        self._lines = (folder / "chaos.log").open("a", encoding="utf-8")
        self._begin = time.monotonic()
        self._size = size
        self.world = World(folder, size, use_netns=use_netns)
        self._workers = [Worker(self.world, seed, number, self.fail) for number in range(WORKERS)]
        self._judge = Judge(self.world, self._keys, self.fail, lambda: bool(self.broken))
        self._faults = Faults(self.world, self._leave, self._judge.census)
        self._kinds = kinds
        self._played: Counter[str] = Counter()

    def _keys(self) -> list[Key]:
        return [key for worker in self._workers for key in list(worker.keys)]

    def say(self, text: str) -> None:
        """A line, with the time since the begin, into the folder's chaos.log."""
        self._lines.write(f"{time.monotonic() - self._begin:8.2f} {text}\n")
        self._lines.flush()

    def fail(self, promise: str, evidence: str) -> None:
        """Remember what broke, and end the run."""
        self.say(f"BROKEN {promise}: {evidence}")
        self.broken.append((promise, evidence))
        self._leave.set()

    # --- the run ---------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """The whole of it."""
        with self._lines, self.world:
            self._begin = time.monotonic()
            self._kinds = self._faults.possible(self._kinds)
            watch = Watch(self.world)
            try:
                idle = {node.name: greenlets(node) for node in self.world.nodes}
                self._play(seconds, watch)
                self._end(idle)
            except Exception as error:  # noqa: BLE001  # the report has to be written, this in it
                self.fail("the kit works", repr(error))
            self.report |= {
                "seed": self.seed, "nodes": self._size, "seconds": round(time.monotonic() - self._begin, 1),
                "faults": dict(self._played), "remarks": self.world.remarks,
                "longest_damage_heal_s": round(self._judge.longest_heal_s, 1),
                "longest_unreadable_s": round(max(worker.slowest_s for worker in self._workers), 1),
                "resources": watch.judge(self.fail), "operations": self._operations(),
                "broken": [{"promise": promise, "evidence": evidence} for promise, evidence in self.broken],
            }
            if self.broken:
                self.world.save_evidence()

    def _play(self, seconds: float, watch: Watch) -> None:
        users = threading.Event()
        threads = [threading.Thread(target=worker.run, args=(users,)) for worker in self._workers]
        threads.append(threading.Thread(target=watch.run, args=(users,)))
        plans = lanes(self.seed, self._kinds, self._size).values()
        trouble = [threading.Thread(target=self._lane, args=(lane,)) for lane in plans]
        for thread in threads + trouble:
            thread.start()
        try:
            self._leave.wait(seconds)
        finally:
            self._leave.set()
            # Users go on until the last fault is over: what is broken then was not broken by the end.
            for thread in trouble:
                thread.join()
            users.set()
            for thread in threads:
                thread.join()

    def _lane(self, steps: Iterator[Step]) -> None:
        try:
            self._leave.wait(FIRST_S)
            for step in steps:
                if self._leave.is_set():
                    return
                self._step(step)
                self._leave.wait(step.gap_s)
        except Exception as error:  # noqa: BLE001  # a node that does not start, say; the run has to end and tell it
            self.fail("a node starts again after anything", repr(error))

    def _step(self, step: Step) -> None:
        self.say(f"begin {step}")
        self._faults.play(step)
        self._played[step.kind] += 1
        self.say(f"end   {step}")
        if step.is_damage:
            damaged, self._faults.damaged = self._faults.damaged, []
            self._judge.wait_healed(self.world.nodes[step.nodes[0]], damaged)
            self.say(f"healed {len(damaged)} blocks of {step}")

    def _end(self, idle: dict[str, int]) -> None:
        """All trouble is over: what has to be true now."""
        self.say("the end: waiting until all is healthy")
        self.report["heal_at_end_s"] = round(self._judge.wait_healthy(), 1)
        self.report["disks"] = self._judge.check_disks()
        for worker in self._workers:
            for key in [key for key in worker.keys if key.state == "kept"]:
                worker.check(key)
        if self._played["clock"]:
            # Stamps do not go back when a clock does: what was removed since looks as if it were removed in the future.
            self.world.remarks.append("collection is not waited for: a wrong clock delays it by as much")
        else:
            self.report["collect_at_end_s"] = round(self._judge.wait_collected(), 1)
        now = {node.name: greenlets(node) for node in self.world.nodes}
        self.report["greenlets"] = {name: f"{count} at first, {now[name]} at the end" for name, count in idle.items()}
        if any(now[name] > count + MOST_MORE for name, count in idle.items()):
            self.fail("no greenlets leak", str(self.report["greenlets"]))
        self._judge.check_stop()
        self._judge.check_catalogs()
        check_logs(self.world, self.fail)

    def _operations(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for worker in self._workers:
            for (what, outcome), count in worker.outcomes.items():
                row = found.setdefault(what, {})
                row[outcome] = row.get(outcome, 0) + count
        return {what: dict(sorted(row.items())) for what, row in sorted(found.items())}


def show(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"  {key:<22} {value}" for key, value in report.items()
             if not isinstance(value, (dict, list))]
    for section in ("faults", "disks", "resources", "greenlets", "operations"):
        lines.append(f"  {section}")
        for key, value in report.get(section, {}).items():
            text = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
            lines.append(f"    {key:<20} {f'{text:.1f}' if isinstance(text, float) else text}")
    return "\n".join([*lines, *(f"  remark: {remark}" for remark in report["remarks"])])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m kit.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5, help="how many (5); at least 3")
    parser.add_argument("--minutes", type=float, default=1.0, help="of faults (1); healing comes on top")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the plan and of the workload")
    parser.add_argument("--faults", default=",".join(ALL), metavar="LIST", help=f"of {','.join(ALL)}; default all")
    parser.add_argument("--netns", action="store_const", const=True, dest="netns", help="fail without namespaces")
    parser.add_argument("--loopback", action="store_const", const=False, dest="netns", help="use no namespaces")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder, and leave it there")
    parser.add_argument("--plan", action="store_true", help="only show the first 20 faults of each lane")
    wanted = parser.parse_args(argv)
    wanted.faults = [kind for kind in wanted.faults.split(",") if kind]
    if unknown := set(wanted.faults) - set(ALL):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if wanted.nodes < 3:
        parser.error("with fewer than 3 nodes nothing can be lost that is not needed")
    return wanted


def main() -> int:
    """Run it and tell how it ended."""
    wanted = parse()
    if wanted.plan:
        for name, lane in lanes(wanted.seed, wanted.faults, wanted.nodes).items():
            for step in itertools.islice(lane, 20):
                print(f"{name}: {step}, then {step.gap_s:.1f} s")
        return 0
    # So that a terminated run removes its namespaces and disks, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    if wanted.keep:
        wanted.keep.mkdir(parents=True)
    folder = (wanted.keep or Path(tempfile.mkdtemp(prefix="p2pfs-chaos-"))).resolve()
    again = f"python -m kit.chaos --nodes={wanted.nodes} --seed={wanted.seed} --faults={','.join(wanted.faults)}"
    print(f"chaos for {wanted.minutes:g} minutes in {folder}\nagain: {again}", flush=True)
    chaos = Chaos(folder, wanted.seed, wanted.nodes, wanted.faults, wanted.netns)
    chaos.run(60 * wanted.minutes)
    (folder / "report.json").write_text(json.dumps(chaos.report, indent=1))
    print(show(chaos.report))
    if chaos.broken:
        for promise, evidence in chaos.broken:
            print(f"BROKEN: {promise}\n  {evidence}")
        print(f"evidence: {folder} (chaos.log, node-*.log, report.json)\nagain: {again}")
        return 1
    print("every promise held")
    if not wanted.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
