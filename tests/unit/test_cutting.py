"""Cutting a file that is open."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core.profile import profile
from p2pfs.node.cutting import add_descriptor


def test_a_file_that_hides_its_bytes_is_not_stored_as_nothing() -> None:
    file: Any = SimpleNamespace(ingest=SimpleNamespace(profile=profile()))
    says = r"'v' is empty, .*send it as a stream"
    with open("/proc/version", "rb") as opened, pytest.raises(errors.Refused, match=says):
        add_descriptor(file, opened.fileno(), b"v")


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x")
    ingest = SimpleNamespace(profile=profile(), check=lambda: None, buffers=SimpleNamespace(take=lambda: bytearray(1)))
    file: Any = SimpleNamespace(ingest=ingest, add=lambda *leaf: None, wait=lambda: os.utime(path, (1, 1)))
    with path.open("rb") as opened, pytest.raises(errors.Refused, match="'var/log' was changed while it was read"):
        add_descriptor(file, opened.fileno(), b"var/log")
