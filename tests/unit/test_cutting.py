"""Cutting a file that is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core.profile import profile
from p2pfs.node import cutting
from p2pfs.node.cutting import add_descriptor
from p2pfs.store.jobs import read_range


def new_file(run: Callable[..., Any] = lambda job, *args: job(*args)) -> Any:
    local = SimpleNamespace(run=run)
    return SimpleNamespace(ingest=SimpleNamespace(profile=profile(), local=local), wait=lambda: None)


def test_a_file_that_hides_its_bytes_is_not_stored_as_nothing() -> None:
    says = r"'v' is empty, .*send it as a stream"
    with open("/proc/version", "rb") as opened, pytest.raises(errors.Refused, match=says):
        add_descriptor(new_file(), opened.fileno(), b"v")


def test_what_is_no_regular_file_is_refused_as_such() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(errors.Refused, match="no regular file"):
            add_descriptor(new_file(), ends[0], b"pipe")
    finally:
        for end in ends:
            os.close(end)


def test_an_empty_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as opened, pytest.raises(errors.Refused, match="'out' cannot be read: Bad file"):
        add_descriptor(new_file(), opened.fileno(), b"out")


def test_a_file_that_cannot_be_read_is_refused_with_the_place_and_the_reason(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb", buffering=0) as opened:
        opened.write(b"data")
        with pytest.raises(errors.Refused, match="cannot be read at byte 1: Bad file"):
            read_range(opened.fileno(), 1, memoryview(bytearray(3)))


def test_an_empty_file_is_read_by_a_native_job_and_not_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job: list[bool] = []

    def run(job: Callable[..., Any], *args: Any) -> Any:
        in_job.append(True)
        try:
            return job(*args)
        finally:
            in_job.pop()

    def looked(fd: int, size: int) -> bool:
        assert in_job, "on the hub"
        return False

    monkeypatch.setattr(cutting, "hides_bytes", looked)
    monkeypatch.setattr(cutting, "_add_fixed", lambda *_: None)
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as opened:
        add_descriptor(new_file(run), opened.fileno(), b"empty")


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x")
    ingest = SimpleNamespace(profile=profile(), check=lambda: None, buffers=SimpleNamespace(take=lambda: bytearray(1)))
    file: Any = SimpleNamespace(ingest=ingest, add=lambda *leaf: None, wait=lambda: os.utime(path, (1, 1)))
    with path.open("rb") as opened, pytest.raises(errors.Refused, match="'var/log' was changed while it was read"):
        add_descriptor(file, opened.fileno(), b"var/log")
