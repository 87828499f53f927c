"""For all tests: hypothesis does not time examples. A busy machine is no bug; what hangs meets pytest's timeout."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("p2pfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("p2pfs")

# A script's `make test &` runs without SIGINT, and so would the commands here that are to be interrupted by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file for encrypted content, as its owner has it."""
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return path
