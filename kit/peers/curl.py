"""Many requests by one curl, 50 at once, as its `--parallel` does by default."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MANY = ("--parallel", "--no-progress-meter", "--fail-early", "--fail")


def uploads(config: Path, files: Iterable[Path], url: str) -> list[str]:
    """The words after `curl` that put each file below a URL; written to a file, since they are too many for a line."""
    config.write_text("".join(f'upload-file = "{file}"\nurl = "{url}/{file.name}"\n' for file in files))
    return [*MANY, "--config", str(config)]


def downloads(config: Path, names: Iterable[str], url: str, target: Path) -> list[str]:
    """The words that get each name below a URL into a directory, which is made."""
    target.mkdir()
    config.write_text("".join(f'output = "{target / name}"\nurl = "{url}/{name}"\n' for name in names))
    return [*MANY, "--config", str(config)]
