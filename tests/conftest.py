"""For all tests: hypothesis does not time examples. A busy machine is no bug; what hangs meets pytest's timeout.

Its examples are the same in each run, so that a change is judged by what it changes; `make properties` seeks new ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("p2pfs", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("seek", settings.get_profile("p2pfs"), derandomize=False, max_examples=1000)
settings.load_profile("p2pfs")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file for encrypted content, as its owner has it."""
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return path
