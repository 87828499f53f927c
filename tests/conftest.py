"""For all tests: hypothesis does not time examples. A busy machine is no bug; what hangs meets pytest's timeout."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("p2pfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("p2pfs")
