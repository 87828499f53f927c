"""A few rounds of `make kills`, the same ones each time."""

from __future__ import annotations

from pathlib import Path

from kit.kills import Kills

ROUNDS, SEED = 12, 20


def test_what_was_acknowledged_survives_kills_at_any_moment(tmp_path: Path) -> None:
    print(f"python -m kit.kills --rounds={ROUNDS} --seed={SEED}")
    kills = Kills(tmp_path, SEED)
    kills.run(ROUNDS, say_every=ROUNDS)
    assert kills.figures["rounds"] == ROUNDS
    assert kills.figures["killed_nodes"] >= 8
    assert kills.figures["acknowledged"] >= 3
