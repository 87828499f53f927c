"""Cutting a file that is open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p2pfs import errors
from p2pfs.core.profile import profile
from p2pfs.node.cutting import add_descriptor


def test_a_file_that_hides_its_bytes_is_not_stored_as_nothing() -> None:
    file: Any = SimpleNamespace(ingest=SimpleNamespace(profile=profile()))
    with open("/proc/version", "rb") as opened, pytest.raises(errors.Refused, match="send it as a stream"):
        add_descriptor(file, opened.fileno())
