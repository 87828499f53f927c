"""Nodes that go for good, come back, or flap: what is copied then, what is not, and how soon."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from kit.cluster import Cluster, wait_until
from kit.truth import Truth
from tests.cluster.disks import (
    MIB,
    above,
    below,
    branches,
    content,
    disks,
    id_of,
    is_at_rest,
    leaves,
    make_file,
    peers,
    placement,
    requests,
    share,
    state,
    store,
    total,
)

DETECTION_S = 5.0
"""What a killed node may last before it counts as dead everywhere (test_nodes_that_fail.py)."""
COMING_S = 60.0
FLAPS = 4
LOOK_AGAIN_S = 2.0
"""An audit that found something amiss looks at those parts again after so long (UNSETTLED_S)."""


def four(folder: Path, out_after: str, **options: str) -> Cluster:
    """Four nodes, two copies."""
    return Cluster(folder, 4, **{
        "cluster__replicas": "2", "cluster__write_quorum": "2", "repair__out_after": out_after,
        "repair__sync_interval": "500ms", **options,
    })


def test_what_a_lost_node_held_is_back_within_the_time_that_the_formula_gives(tmp_path: Path) -> None:
    rate, out_after_s = 4 * MIB, 2.0
    with four(tmp_path, "2s", repair__rate="4MiB") as cluster:
        living, lost = list(cluster)[:3], cluster[3]
        roots = [store(cluster[number % 4], make_file(tmp_path / f"f{number}", 12 * MIB)) for number in range(4)]
        wait_until(lambda: not below(disks(cluster), roots, 2), COMING_S, "all copies are there at first")
        sizes = leaves(disks(cluster), roots)
        rows = peers(living[0])
        before, after = placement(rows), placement([row for row in rows if row.name != lost.name])
        to_fetch = [
            sum(sizes[leaf] for leaf in share(sizes, after, row.id, 2) - share(sizes, before, row.id, 2))
            for row in rows if row.name != lost.name
        ]
        truth = Truth()
        disks(living, truth)  # so that the looks below hash what is new only
        begin = time.monotonic()
        lost.kill()
        wait_until(lambda: not below(disks(living, truth), roots, 2), 60, "all is back")
        took_s = time.monotonic() - begin
        # Beyond the formula: half a second that changes are let settle, one pass, and, when a block could not be
        # fetched at first, the next look, 2 s later.
        assert took_s <= 1.25 * (DETECTION_S + out_after_s + max(to_fetch) / rate) + 3.0
        assert sum(to_fetch) > 8 * MIB
        wait_until(lambda: all(is_at_rest(node) for node in living), 60, "they know that all is well")
        # Each of them fetched what it owns now and did not before, and nothing else.
        assert [int(node.metric("p2pfs_bytes_repaired_total")) for node in living] == [
            to_fetch[[row.name for row in rows if row.name != lost.name].index(node.name)] for node in living
        ]


def test_a_node_that_comes_back_in_time_fetches_what_it_missed_and_nothing_else_is_copied(tmp_path: Path) -> None:
    with four(tmp_path, "10m") as cluster:
        others, away = list(cluster)[:3], cluster[3]
        old = store(cluster[0], make_file(tmp_path / "old", 8 * MIB))
        wait_until(lambda: not below(disks(cluster), [old], 2), COMING_S, "all copies are there at first")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest")
        was_repaired = total(others, "p2pfs_blocks_repaired_total")
        away.kill()
        for node in others:
            wait_until(lambda node=node: state(node, away) == "dead", 60, f"{node.name} notices")
        data = make_file(tmp_path / "new", 8 * MIB).read_bytes()
        new = store(cluster[1], tmp_path / "new")
        audits = [node.metric("p2pfs_audits_total") for node in others]
        for node in others:
            node.cli("audit", "--wait")  # even if it is looked at: its shards are still its own
        assert all(node.metric("p2pfs_audits_total") > was for node, was in zip(others, audits, strict=True))

        away.start()
        found = disks(cluster)
        missed = share(leaves(found, [new]), placement(peers(cluster[0])), id_of(cluster[0], away), 2)
        assert missed
        wait_until(lambda: missed <= disks([away])[0].blocks.keys(), COMING_S, "it has the leaves that it missed")
        wait_until(lambda: branches(found, [new]) <= disks([away])[0].blocks.keys(), 60, "and the branches")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest again")
        assert total(others, "p2pfs_blocks_repaired_total") == was_repaired
        assert away.metric("p2pfs_blocks_repaired_total") <= len(missed) + len(branches(found, [new]))
        wait_until(lambda: above(disks(cluster), [new], 2) == 0, 60, "who stood in for it gave that up")
        assert content(away, new) == data


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.slow), "pause"])
def test_a_node_that_flaps_causes_no_storm(tmp_path: Path, fault: str) -> None:
    quick = {"repair__probe_interval": "200ms", "repair__probe_timeout": "200ms", "repair__suspicion_min": "600ms"}
    with four(tmp_path, "60s", **quick) as cluster:
        others, flapping = list(cluster)[:3], cluster[3]
        root = store(cluster[0], make_file(tmp_path / "f", 16 * MIB))
        wait_until(lambda: not below(disks(cluster), [root], 2), COMING_S, "all copies are there at first")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest")
        repaired = total(others, "p2pfs_bytes_repaired_total")
        asked, begin = [requests(node, "HAVE") for node in others], time.monotonic()
        for _ in range(FLAPS):
            if fault == "kill":
                flapping.kill()
            else:
                flapping.signal(signal.SIGSTOP)
            wait_until(lambda: state(cluster[1], flapping) == "dead", 60, "it counts as dead")
            if fault == "kill":
                flapping.start()
            else:
                flapping.signal(signal.SIGCONT)
            wait_until(lambda: state(cluster[1], flapping) == "alive", 60, "it is back")
        wait_until(lambda: all(is_at_rest(node) for node in cluster), COMING_S, "the audits are at rest again")
        took_s = time.monotonic() - begin
        assert total(others, "p2pfs_bytes_repaired_total") == repaired
        assert below(disks(cluster), [root], 2) == 0
        # Any of the three others looks after each change, and every 2 s while copies are away; each look asks twice
        # at most, owners first, then everybody. A storm would be a question a block, or a copy.
        most = 3 * 2 * (took_s / LOOK_AGAIN_S + 2 * (FLAPS + 1))
        for node, was in zip(others, asked, strict=True):
            assert requests(node, "HAVE") - was <= most
