"""Series of versions, made on the spot: releases from package registries, a machine's disk, a database dump.

What is generated comes from a seed; what is downloaded are fixed releases, which registries do not change.
"""

from __future__ import annotations

import gzip
import mmap
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
PAGE = 4096
VERSIONS = 6
"""Of what is generated."""
DOWNLOAD_S = 300.0

DJANGO = tuple(f"5.2.{patch}" for patch in range(10, 18))
TYPESCRIPT = ("5.2.2", "5.3.2", "5.3.3", "5.4.2", "5.4.3", "5.4.4", "5.4.5", "5.5.2", "5.5.3", "5.5.4")


class Unavailable(Exception):
    """A series, or a tool, cannot be had here; the text says what would help."""


class Series(NamedTuple):
    """A way to make a series."""

    name: str
    what: str
    make: Callable[[Path, random.Random], Iterator[Path]]
    """The versions, oldest first, in a folder; each is made when it is asked for, and a generated one then replaces
    the one before."""
    is_download: bool = False
    """What its folder has got is worth keeping for a next run."""


# --- releases ----------------------------------------------------------------------------------------

def django(folder: Path, _: random.Random) -> Iterator[Path]:
    """Source releases from PyPI. Each header of such a tar names the release and a new time."""
    for release in DJANGO:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--no-binary=:all:", "--dest", str(folder), f"django=={release}")
        yield _tar(folder, "django", release, pip)


def sources(folder: Path, chance: random.Random) -> Iterator[Path]:
    """The same releases, unpacked, each as a directory."""
    target = folder / "sources"
    for path in django(folder, chance):
        with tarfile.open(path) as tar:
            tar.extractall(target, filter="data")
        yield target / path.stem
        shutil.rmtree(target)


def typescript(folder: Path, _: random.Random) -> Iterator[Path]:
    """Releases from npm, whose tars have the same times and paths in each."""
    for release in TYPESCRIPT:
        npm = ("npm", "pack", "--silent", f"--pack-destination={folder}", f"typescript@{release}")
        yield _tar(folder, "typescript", release, npm)


def _tar(folder: Path, name: str, release: str, download: tuple[str, ...]) -> Path:
    """The release as an uncompressed tar. Raises Unavailable."""
    target = folder / f"{name}-{release}.tar"
    if not target.exists():
        if shutil.which(download[0]) is None:
            raise Unavailable(f"no {download[0]} here: apt-get install {download[0]}")
        done = subprocess.run(download, capture_output=True, text=True, check=False, timeout=DOWNLOAD_S)
        packed = next(folder.glob(f"{name}-{release}.t*gz"), None)
        if packed is None:
            raise Unavailable(f"{' '.join(download)} brought nothing: {done.stderr.strip()[-200:]}")
        part = target.with_suffix(".part")
        with gzip.open(packed) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, MIB)
        part.rename(target)
        packed.unlink()
    return target


# --- a machine's disk --------------------------------------------------------------------------------

def machine(folder: Path, chance: random.Random, size: int = 1024 * MIB) -> Iterator[Path]:
    """An image whose pages are written in place: some here and there, most in runs, as a file system does."""
    path = folder / "machine-0.img"
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(_disk_piece(chance))
    yield path
    for number in range(1, VERSIONS):
        path = path.rename(folder / f"machine-{number}.img")
        with path.open("r+b") as file:
            for _ in range(32):
                _write_pages(file.fileno(), chance.randrange(size // PAGE), 1, chance)
            for _ in range(12):
                begin = chance.randrange(size // PAGE - 1024)
                for _ in range(64):
                    _write_pages(file.fileno(), begin + chance.randrange(1016), chance.randint(1, 8), chance)
        yield path


def _disk_piece(chance: random.Random) -> bytes:
    """One MiB of what disks are full of: compressed files, text, and nothing."""
    kind = chance.random()
    if kind < 0.15:
        return bytes(MIB)
    if kind < 0.6:
        return chance.randbytes(MIB)
    return b"".join(_row(number, chance) for number in range(MIB // 100))[:MIB].ljust(MIB, b"\0")


def _write_pages(fd: int, page: int, count: int, chance: random.Random) -> None:
    os.pwrite(fd, chance.randbytes(count * PAGE), page * PAGE)


# --- a database dump ---------------------------------------------------------------------------------

def dump(folder: Path, chance: random.Random, rows: int = 1_500_000) -> Iterator[Path]:
    """A table as SQL text: in each version some rows are new, some are longer or shorter, and the table has grown."""
    path = folder / "dump-0.sql"
    with path.open("wb") as file:
        file.write(b"CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, state TEXT, note TEXT);\n")
        for number in range(rows):
            file.write(_row(number, chance))
    yield path
    for number in range(1, VERSIONS):
        before, path = path, folder / f"dump-{number}.sql"
        _edit_rows(before, path, number, chance)
        before.unlink()
        yield path


def _row(number: int, chance: random.Random) -> bytes:
    words = " ".join(chance.choices(WORDS, k=8))
    return b"INSERT INTO orders VALUES (%d,'%08x','%s','%s');\n" % (
        number, chance.getrandbits(32), chance.choice(STATES).encode(), words.encode())


def _edit_rows(before: Path, after: Path, version: int, chance: random.Random) -> None:
    """Replace or insert rows at 60 places, and append 5000."""
    with before.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as old, \
            after.open("wb") as file:
        done = 0
        for place in sorted(chance.randrange(len(old)) for _ in range(60)):
            begin = old.find(b"\n", place) + 1
            if begin < done or begin == 0:
                continue
            file.write(old[done:begin])
            is_update = chance.random() < 0.5
            done = max(begin, old.find(b"\n", begin) + 1) if is_update else begin
            for number in range(1 if is_update else chance.randint(1, 100)):
                file.write(_row(version * 10**7 + number, chance))
        file.write(old[done:])
        for number in range(5000):
            file.write(_row(version * 10**8 + number, chance))


WORDS = [f"{first}{second}" for first in ("pa", "to", "mi", "re", "su", "ka", "lo", "ven") for second in
         ("rin", "dor", "sha", "ment", "lic", "port", "ness", "tar", "gen", "vity", "so", "li")]
STATES = ("new", "paid", "packed", "sent", "returned")


ALL = {
    made.name: made for made in (
        Series("django", "source releases from PyPI, as tars", django, True),
        Series("sources", "the same, unpacked", sources, True),
        Series("typescript", "releases from npm, as tars", typescript, True),
        Series("machine", "an image of a machine's disk, 4 KiB pages written", machine),
        Series("dump", "a database dump, rows inserted and updated", dump),
    )
}
