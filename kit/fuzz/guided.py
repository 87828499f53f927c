"""One target in a process of its own, for some seconds, guided by coverage: atheris (libFuzzer for Python).

    python -m kit.fuzz.guided TARGET SECONDS FOLDER

Found inputs go to FOLDER/found, one that breaks a promise to FOLDER/crash-…, and the exit code is not 0 then. With
SECONDS `merge`, what covers more among the found ones is added to the corpus in tests/. Without atheris the inputs are
seeded mutations of the corpus.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import logging
import random
import shlex
import sys
import time
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kit.fuzz.harness import Target, limit_memory, limits, try_input, try_measured
from kit.fuzz.mutate import mutations

HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
"""There is no wheel of it for some Pythons and machines."""
STANDARD = ["urllib.parse"]
"""A parser of the standard library, written in Python: covered like ours."""
MEASURED_EACH = 1000
"""Memory is looked at for one input of so many: that is slow."""
HANG_S = 60
"""Where CPU time is spent in C, without a look at signals, libFuzzer ends the process."""


def search(target: Target, seconds: int, folder: Path, flags: list[str]) -> None:
    """libFuzzer's loop; it does not return. `flags`: its own words to a part of itself, which a merge starts."""
    import atheris

    atheris.Setup(["fuzz", *flags] if flags else _command(target, seconds, folder), _one(target))
    with limits():
        atheris.Fuzz()


def _command(target: Target, seconds: int, folder: Path) -> list[str]:
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    words = folder / "words.dict"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    options = [f"-max_len={target.max_bytes}", f"-artifact_prefix={folder}/", f"-timeout={HANG_S}", "-rss_limit_mb=0"]
    options += [f"-dict={words}"] if target.words else []
    # The first folder is the one that is added to: by a merge with few files, so that each line and branch is covered.
    if seconds:
        options += [f"-max_total_time={seconds}", "-print_final_stats=1", str(found), str(target.corpus)]
    else:
        options += ["-set_cover_merge=1", "-use_counters=0", str(target.corpus), str(found)]
    again = shlex.join([sys.executable, "-m", "kit.fuzz.guided", target.name, "merge", str(folder)])
    return [again, *options]


def _quoted(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode("latin-1"))


def _one(target: Target) -> Any:
    count = itertools.count(1)

    def one(data: bytes) -> None:
        if next(count) % MEASURED_EACH:
            try_input(target, data)
        else:
            try_measured(target, data)

    return one


def mutate(target: Target, seconds: int, folder: Path) -> None:
    """The same without a guide. Exits with 1 at the first input that breaks a promise."""
    end, count, one = time.monotonic() + seconds, 0, _one(target)
    with limits():
        for data in mutations(target, target.seeds(), random.Random()):
            try:
                one(data)
            except BaseException:  # noqa: BLE001  # whatever it is, it is what is looked for
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"crash-{hashlib.sha1(data).hexdigest()}"
                path.write_bytes(data)
                traceback.print_exc()
                print(f"\nTest unit written to {path}", file=sys.stderr)  # as libFuzzer says it
                raise SystemExit(1) from None
            count += 1
            if not count % 256 and time.monotonic() > end:
                break
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)


def main() -> None:
    """See above."""
    name, time_s, folder, *flags = sys.argv[1:]
    logging.disable()
    with instrumented():
        from kit.fuzz.targets import TARGETS
    limit_memory()
    target, seconds = TARGETS[name], 0 if time_s == "merge" else int(time_s)
    if HAS_ATHERIS:
        search(target, seconds, Path(folder), flags)
    else:
        mutate(target, seconds, Path(folder))


def instrumented() -> AbstractContextManager[object]:
    """What is imported within is covered."""
    if not HAS_ATHERIS:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["p2pfs", *STANDARD])  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
