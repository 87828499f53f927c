"""`make fuzz`: search by coverage for an input that breaks a promise of a parser (docs/FUZZING.md).

    python -m kit.fuzz [--minutes=60] [--jobs=N] [--folder=.fuzz] [TARGET...]
    python -m kit.fuzz --try=FILE TARGET       one input, for example one that was found: what comes of it
    python -m kit.fuzz --keep [TARGET...]      add found inputs that cover more to tests/corpus
    python -m kit.fuzz --list                  the targets

Without a TARGET it is all of them in turn. Inputs that were found are kept in the folder and used again. The exit code
is 1 when something broke; the input is kept, and its target is not searched any further.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kit.fuzz.guided import HAS_ATHERIS
from kit.fuzz.harness import limits, try_measured
from kit.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SLICE_S = (8, 60)
"""So long one target is searched before it is the next one's turn, at least and at most."""
INTERRUPTED = (72, 130)
"""Exit codes after SIGINT: of libFuzzer, of atheris."""
START_S = 120
"""What a process may take beyond its time."""


class Slice(NamedTuple):
    """What came of one target's turn."""

    target: str
    inputs: int
    seconds: float
    coverage: str
    corpus: str
    broke: list[Path]
    """Inputs that break a promise."""
    output: str


def run_slice(target: str, seconds: int, folder: Path) -> Slice:
    """Search one target in a process of its own."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "kit.fuzz.guided", target, str(seconds), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds + START_S, check=False,
    )
    text = done.stdout + done.stderr
    coverage, corpus = (re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", text) or [("?", "?")])[-1]
    inputs = re.findall(r"stat::number_of_executed_units: +(\d+)", text) or re.findall(r"^#(\d+)\t", text, re.MULTILINE)
    broke = [Path(path) for path in re.findall(r"Test unit written to (.*/(?:crash|timeout|oom)-.+)", text)]
    if done.returncode not in (0, *INTERRUPTED) and not broke:
        raise RuntimeError(f"{' '.join(command)} exited {done.returncode}:\n{text[-3000:]}")
    return Slice(target, int(inputs[-1]) if inputs else 0, time.monotonic() - begin, coverage, corpus, broke, text)


class Campaign:
    """Turns of the targets until the time is over, and what came of them so far."""

    def __init__(self, names: list[str], seconds: float, jobs: int, folder: Path) -> None:
        self.end = time.monotonic() + seconds
        self.slice_s = int(min(SLICE_S[1], max(SLICE_S[0], seconds * jobs / len(names))))
        self.broken: list[Slice] = []
        self._jobs, self._folder = jobs, folder
        self._guard = threading.Lock()
        self.counts = self._read()
        self._waiting = sorted(names, key=lambda name: self.counts.get(name, 0))

    def _read(self) -> dict[str, int]:
        """Inputs of each target so far, those of earlier runs among them."""
        path = self._folder / "counts.json"
        return {name: int(count) for name, count in json.loads(path.read_text()).items()} if path.exists() else {}

    def run(self) -> None:
        """Until the time is over, or every target is broken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._jobs) as pool:
            workers = [pool.submit(self._work) for _ in range(self._jobs)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                self.end = 0.0  # Ctrl-C, or a worker that failed: the others end with their slice

    def _work(self) -> None:
        while True:
            left_s = self.end - time.monotonic()
            with self._guard:
                if left_s < 1 or not self._waiting:
                    return
                name = self._waiting.pop(0)
            one = run_slice(name, max(1, int(min(self.slice_s, left_s))), self._folder / name)
            with self._guard:
                self._note(one)

    def _note(self, one: Slice) -> None:
        self.counts[one.target] = self.counts.get(one.target, 0) + one.inputs
        (self._folder / "counts.json").write_text(json.dumps(self.counts, indent=1, sort_keys=True) + "\n")
        if one.broke:
            self.broken.append(one)
        else:
            self._waiting.append(one.target)
        print(
            f"{one.target:12} {one.inputs:>10,} inputs {one.inputs / one.seconds:>8,.0f}/s   coverage {one.coverage:>5}"
            f"   corpus {one.corpus:>5}   {max(0.0, self.end - time.monotonic()) / 60:.1f} min left", flush=True,
        )
        for path in one.broke:
            print(f"BROKEN: {path}\n{tail(one.output)}\nto see it again: {again(one.target, path)}", flush=True)


def tail(output: str) -> str:
    """The traceback in what a process said."""
    found = re.search(r"(?s)Traceback .*?(?=\n\n|\n==|\Z)|==\d+== ?ERROR.*?(?=\n\n)", output)
    return found[0].strip() if found else output[-1500:]


def again(target: str, path: Path) -> str:
    """The command that tries an input."""
    return f"{sys.executable} -m kit.fuzz --try={path} {target}"


def try_file(target: str, path: Path) -> None:
    """Say what comes of one input; a broken promise is raised."""
    with limits():
        peak = try_measured(TARGETS[target], path.read_bytes())
    print(f"{target}: {path} is parsed or refused as it should be; {peak:,} bytes of memory at most")


def keep(names: list[str], folder: Path) -> None:
    """Add to the corpus in tests/ what covers more."""
    for name in names:
        before = len(list(TARGETS[name].corpus.iterdir()))
        subprocess.run(
            [sys.executable, "-m", "kit.fuzz.guided", name, "merge", str(folder / name)], cwd=ROOT, check=True,
            capture_output=True,
        )
        print(f"{name}: {len(list(TARGETS[name].corpus.iterdir())) - before} inputs more in {TARGETS[name].corpus}")


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz")
    parser.add_argument("--try", type=Path, dest="file")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    args = parser.parse_args()
    names = args.targets or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if args.list:
        print("\n".join(TARGETS))
    elif args.file:
        try_file(names[0], args.file)
    elif args.keep:
        keep(names, args.folder.resolve())
    else:
        if not HAS_ATHERIS:
            print("atheris is not installed: blind mutations of the corpus instead, without coverage", flush=True)
        campaign = Campaign(names, args.minutes * 60, min(args.jobs, len(names)), args.folder.resolve())
        try:
            campaign.run()
        except KeyboardInterrupt:
            print("interrupted")
        total = sum(campaign.counts.values())
        print(f"{total:,} inputs so far, with those of earlier runs; {len(campaign.broken)} targets broken")
        return 1 if campaign.broken else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
