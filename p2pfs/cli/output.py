"""What the commands show: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from p2pfs import errors
from p2pfs.terminal import message, printable

if TYPE_CHECKING:
    from p2pfs.client.answers import Progress

PROGRESS_AFTER_S = 0.5
"""What is over sooner shows no progress."""


Told = TypeVar("Told")


class Step(NamedTuple):
    """How far the node's work is, as a bar shows it."""

    label: str
    done: int
    total: int | None
    unit: str = "B"
    """`B` for bytes; empty for a plain count."""


class Output:
    """Where results, remarks, progress and errors of one command go, and in which form."""

    def __init__(self, is_json: bool, is_quiet: bool) -> None:
        self.is_json = is_json
        self._is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._is_watched = sys.stderr.isatty() and not is_quiet
        for stream in filter(None, (sys.stdout, sys.stderr)):
            # File names are UTF-8, wherever they are shown; bytes that are no text come out as they went in.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")

    def result(self, row: dict[str, Any], text: str) -> None:
        """One result: a JSON object or a line of text, out at once."""
        line = json.dumps(row) if self.is_json else self.clean(text)
        print(line, flush=True)

    def rows(self, rows: Iterable[tuple[dict[str, Any], str]]) -> None:
        """Many results, buffered; each is one line, whatever a name in it holds: --json tells the name as it is."""
        for row, text in rows:
            print(json.dumps(row) if self.is_json else one_line(self.clean(text)))

    def table(self, titles: Sequence[str], rows: Iterable[tuple[dict[str, Any], Sequence[str]]]) -> None:
        """Results in columns as wide as their widest cell; JSON lines with --json."""
        rows = list(rows)
        if self.is_json:
            return self.rows((row, "") for row, _ in rows)
        cells = [tuple(titles), *(tuple(texts) for _, texts in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
        for line in cells:
            texts = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print(one_line(self.clean("  ".join(texts).rstrip())))
        return None

    def clean(self, text: str) -> str:
        """A result as standard output may see it: a stored name cannot command a terminal, a pipe gets it as it is."""
        return printable(text) if self._is_terminal else text

    def remark(self, text: str) -> None:
        """Something good to know, for a person who watches."""
        if self._is_watched:
            say(printable(text))

    def finding(self, text: str) -> None:
        """What a check found wrong: said wherever standard error goes, as the exit code needs its reason."""
        say(f"p2pfs-cli: {printable(text)}")

    def error(self, error: errors.P2pfsError) -> None:
        """What went wrong: for people, and with --json for programs."""
        say(f"p2pfs-cli: error: {message(str(error))}")
        if self.is_json:
            say(json.dumps({"error": error.token, "message": str(error)}))

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[Progress], None] | None]:
        """A callback that draws a bar with rate and time left; None when nobody watches."""
        if not self._is_watched:
            yield None
            return
        bar = Bar(label)
        try:
            yield bar.show
        finally:
            bar.close()

    @contextlib.contextmanager
    def steps(self, step_of: Callable[[Told], Step]) -> Iterator[Callable[[Told], None] | None]:
        """A callback that draws what the node tells, a bar for each label in turn; None when nobody watches."""
        if not self._is_watched:
            yield None
            return
        bar: Bar | None = None

        def show(told: Told) -> None:
            nonlocal bar
            step = step_of(told)
            if bar is None or bar.label != step.label:
                if bar is not None:
                    bar.close()
                bar = Bar(step.label, step.unit)
            bar.draw(step.done, step.total)

        try:
            yield show
        finally:
            if bar is not None:
                bar.close()


class Bar:
    """A progress bar that appears once the work turns out to be long."""

    def __init__(self, label: str, unit: str = "B") -> None:
        self.label = label
        self._unit = unit
        self._begin_s = time.monotonic()
        self._bar: Any = None

    def show(self, progress: Progress) -> None:
        """Draw how far a transfer is."""
        self.draw(progress.bytes, progress.size)

    def draw(self, done: int, total: int | None) -> None:
        """Draw how far it is; without a total only how much. A terminal that went away ends no transfer."""
        with contextlib.suppress(OSError):
            self._draw(done, total)

    def _draw(self, done: int, total: int | None) -> None:
        if self._bar is None:
            if time.monotonic() - self._begin_s < PROGRESS_AFTER_S:
                return
            from tqdm import tqdm

            tqdm.monitor_interval = 0
            # A serial console says that its size is 0 by 0, where tqdm shows nothing.
            is_known = min(os.get_terminal_size(sys.stderr.fileno())) > 1
            self._bar = tqdm(
                desc=printable(self.label), total=total, unit=self._unit, unit_scale=bool(self._unit),
                unit_divisor=1024, leave=False, dynamic_ncols=is_known, ncols=None if is_known else 80,
                nrows=None if is_known else 20, file=sys.stderr,
            )
            # It has been under way for longer than its bar: the first rate counts from the beginning too.
            self._bar.start_t = self._bar.last_print_t = time.time() - (time.monotonic() - self._begin_s)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


def say(text: str) -> None:
    """A line on standard error. Where that takes nothing, results and exit code are the truth all the same."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Nothing that is still buffered may complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def one_line(text: str) -> str:
    """Text that ends no line: a name with a line end in it cannot pass for two results."""
    return text.replace("\n", "?").replace("\r", "?")


def open_stderr() -> None:
    """With standard error closed (`2>&-`) nobody wants messages; without this they would go to standard output."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def require_stdout() -> None:
    """Raise UsageError when standard output is closed (`>&-`): the results, and a CID is one, would be lost."""
    if sys.stdout is None:
        raise errors.UsageError("standard output is closed; give it a file, a pipe or /dev/null")


def silence_stdout() -> None:
    """After standard output failed: nothing that is still buffered may complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
