"""For all tests: hypothesis does not time examples. A busy machine is no bug; what hangs meets pytest's timeout.

Its examples are the same in each run, so that a change is judged by what it changes; `make properties` seeks new ones.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("p2pfs", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("seek", settings.get_profile("p2pfs"), derandomize=False, max_examples=1000)
settings.load_profile("p2pfs")

# A script's `make test &` runs without SIGINT, and so would the commands here that are to be interrupted by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = 50
"""Bytes of the path of all tests' folders that leave room for `/popen-gw0/NAME-OF-TEST/control.sock` in 107."""


def pytest_configure(config: pytest.Config) -> None:
    """Say once what many tests would fail of, each in its way."""
    if hasattr(config, "workerinput") or "PYTEST_CURRENT_TEST" in os.environ:
        return  # a part of a run, or a run within a test: in a folder that was looked at
    default = f"{tempfile.gettempdir()}/pytest-of-{os.environ.get('USER', 'unknown')}/pytest-99"
    base = os.path.abspath(config.option.basetemp or default)
    if len(os.fsencode(base)) > LONGEST:
        pytest.exit(f"{base} is too long for sockets in it: set TMPDIR to a shorter path, or give --basetemp", 4)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file for encrypted content, as its owner has it."""
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return path
