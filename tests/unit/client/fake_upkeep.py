"""What the node in memory answers about its upkeep."""

from __future__ import annotations

from typing import Any

MIB = 1024 * 1024

STEPS: dict[str, list[dict[str, Any]]] = {
    "AUDIT": [
        {"phase": "walk", "done": 1, "total": 2, "fetched_bytes": 0, "left_bytes": 0},
        {"phase": "repair", "done": 1, "total": 4, "fetched_bytes": MIB, "left_bytes": 3 * MIB},
    ],
    "SCRUB": [{"done": 1024, "total": 4096, "blocks": 10, "bytes": 10 * MIB, "bad_blocks": 0}],
    "GC": [{"phase": "collect", "done": 1, "total": 2, "fetched_bytes": 0, "left_bytes": 0}],
    "DRAIN": [{"left_blocks": 4, "left_bytes": 4 * MIB}, {"left_blocks": 1, "left_bytes": MIB}],
}
"""The parts of one request that waits."""

ENDS: dict[str, dict[str, Any]] = {
    "AUDIT": {
        "pins": 2, "blocks": 100, "bytes": 100 * MIB, "fetched_blocks": 12, "fetched_bytes": 12 * MIB,
        "given_up_blocks": 3, "given_up_bytes": 3 * MIB, "collected_blocks": 0, "collected_bytes": 0,
        "missing_blocks": 0, "missing_bytes": 0, "unreadable": [], "held_up": "", "seconds": 2.5, "is_done": True,
        "of a later version": 1,
    },
    "SCRUB": {
        "blocks": 40, "bytes": 40 * MIB, "bad_blocks": 2, "healed_blocks": 2, "seconds": 3, "is_done": True,
    },
    "GC": {
        "collected_blocks": 5, "collected_bytes": 5 * MIB, "waiting_blocks": 1, "waiting_bytes": MIB, "held_up": "",
        "dry_run": False,
    },
    "DRAIN": {"is_draining": True, "is_drained": True, "left_blocks": 0, "left_bytes": 0},
    "FORGET": {"id": "b" * 32, "name": "b"},
    "REVOKE": {"id": "b" * 32, "name": "b", "untold": []},
    "GRANT": {
        "id": "c" * 32, "name": "", "role": "", "expires": 1800000000, "certificate": "the certificate\n",
        "ca": "the ca\n",
    },
    "INVITE": {
        "token": "p2pfs-join-abc", "id": "c" * 32, "expires": 1700000000, "once": True, "cluster": "d" * 64,
        "address": "127.0.0.1:4801",
    },
}
"""The last words."""

FIGURES = {
    f"{kind}_{what}": 0
    for kind in ("live", "below", "single", "silent", "lost", "missing", "displaced") for what in ("blocks", "bytes")
}

STATUS: dict[str, Any] = {
    "verdict": "healthy", "reasons": [], "node": "a", "id": "a" * 32, "version": "0.2.0",
    "address": "127.0.0.1:4801", "uptime_s": 3700.0, "members": {"alive": 3}, "replicas": 3, "replicas_possible": 3,
    "write_quorum": 2, "pins": 2, "tombstones": 1, "blocks": 90, "stored_bytes": 90 * MIB, "is_counted": True,
    "free_bytes": 1000 * MIB, "quarantined": 0, "buffers_in_use": 0, "memory_bytes": 64 * MIB,
}
"""As a node says it that has no audit yet."""

AUDITED: dict[str, Any] = {
    "left_bytes": 0, "time_to_go_s": 0.0, "health": {**FIGURES, "live_blocks": 100, "live_bytes": 100 * MIB},
    "lost_pins": [],
    "audit": {
        "is_running": False, "phase": "", "done": 0, "total": 0, "last_end": 1700000000.0, "last_s": 2.5,
        "is_current": True, "held_up": "", "unreadable": [],
    },
    "scrub": {
        "oldest_s": 86400.0 * 3, "period_s": 86400.0 * 30, "blocks": 10, "bytes": 10 * MIB, "bad_blocks": 0,
        "is_running": True,
    },
    "is_draining": False,
}
"""What one says beside that which has."""
