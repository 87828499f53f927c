"""Offline CIDs equal what the layout builds, in bounded memory, whatever the source."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfs import errors, identify
from p2pfs.core.directory import Entry, build_directory, build_symlink
from p2pfs.core.profile import CHUNKERS, MIB, Profile, profile
from tests.unit.dags import Blocks, add_file

NOISE = random.Random(2).randbytes(5 * MIB + 77)
SMALL = Profile(max_links=3).with_chunk(1000)


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._source = io.BytesIO(data)

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        return self._source.readinto(memoryview(buffer)[:70_001])


@pytest.mark.parametrize("hash", ["sha2-256", "blake3"])
@pytest.mark.parametrize("chunker", CHUNKERS)
@pytest.mark.parametrize("size", [0, 1, 65536, 65537, MIB, MIB + 1, len(NOISE)])
def test_files_and_streams_have_the_cid_of_the_layout(tmp_path: Path, chunker: str, hash: str, size: int) -> None:
    made = profile(chunker, hash)
    path = tmp_path / "file"
    path.write_bytes(NOISE[:size])
    expected = add_file([NOISE[:size]], made, Blocks(), keeps=False)
    seen: list[int] = []
    assert identify.identify(path, made, seen.append) == (expected.cid, size)
    assert sum(seen) == size
    assert identify.identify(io.BytesIO(NOISE[:size]), made) == (expected.cid, size)
    assert identify.identify(Dribble(NOISE[:size]), made) == (expected.cid, size)


def test_a_directory_has_the_cid_of_its_parts(tmp_path: Path) -> None:
    (tmp_path / "sub" / "empty").mkdir(parents=True)
    (tmp_path / "sub" / "big").write_bytes(NOISE[:123_456])
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "link").symlink_to("small")
    big = add_file([NOISE[:123_456]], SMALL, Blocks())
    small = add_file([b"small"], SMALL, Blocks())
    empty = build_directory([], SMALL)[0]
    sub = build_directory([Entry(b"big", big.cid, big.tsize), Entry(b"empty", empty.cid, empty.tsize)], SMALL)[0]
    link = build_symlink(b"small", SMALL)[0]
    top = build_directory([
        Entry(b"sub", sub.cid, sub.tsize), Entry(b"small", small.cid, small.tsize),
        Entry(b"link", link.cid, link.tsize),
    ], SMALL)[0]
    assert identify.identify(str(tmp_path), SMALL) == (top.cid, 123_456 + 5)


def test_a_file_of_proc_without_a_size_is_read_to_its_end() -> None:
    found = identify.identify("/proc/self/cmdline", profile())
    assert found.size > 0


CDC = Profile("fastcdc", 300, 64, 1024, is_fixed=False)


@pytest.mark.parametrize("made", [SMALL, CDC], ids=["fixed", "fastcdc"])
@pytest.mark.parametrize(("size", "changed"), [(999, 998), (4000, 1), (4000, 5000), (99_999, 5000), (65_537, 70_000)])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, made: Profile, size: int, changed: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(NOISE[:size])
    with pytest.raises(errors.Refused, match=r"changed|shorter"):
        identify.identify(path, made, _once(lambda: os.truncate(path, changed)))


def _once(act: Callable[[], None]) -> Callable[[int], None]:
    left = [act]
    return lambda _: left.pop()() if left else None


def test_a_stream_that_has_nothing_now_is_refused() -> None:
    class Nothing(io.RawIOBase):
        def readinto(self, buffer) -> None:  # type: ignore[no-untyped-def]
            return None

    with pytest.raises(errors.Refused, match="non-blocking"):
        identify.identify(Nothing(), SMALL)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError()], ids=["ctrl-c", "a broken pipe"])
def test_an_error_of_the_caller_ends_it(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_bytes(NOISE)

    def progress(count: int) -> None:
        raise error

    with pytest.raises(type(error)):
        identify.identify(tmp_path / "file", profile(), progress)


SCRIPT = """
import sys
from p2pfs.core.profile import profile
from p2pfs.identify import identify
found = identify(sys.argv[1], profile(sys.argv[2]))
banned = {"gevent", "cryptography", "xxhash"} & set(sys.modules)
# Not getrusage: its figure is not below that of the process which started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found.size, int(peak.split()[1]) // 1024, *banned)
"""


@pytest.mark.parametrize("chunker", CHUNKERS)
def test_memory_is_a_few_leaves_and_imports_are_few(tmp_path: Path, chunker: str) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        for _ in range(48):
            file.write(NOISE)
    run = subprocess.run([sys.executable, "-c", SCRIPT, path, chunker], capture_output=True, text=True, check=True)
    size, rss_mib, *banned = run.stdout.split()
    assert int(size) == 48 * len(NOISE)
    assert int(rss_mib) < 45
    assert not banned
