"""The list of members on disk, when news of several come at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfs import green
from p2pfs.node import node as node_module


def test_news_of_several_members_are_written_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, saved = ["me"], [[""]]
    writing = threading.Lock()

    def save(folder: Path, members: list[str]) -> None:
        assert writing.acquire(blocking=False), "two writers at a time"
        time.sleep(0.02)
        saved.append(list(members))
        writing.release()

    monkeypatch.setattr(node_module, "save_members", save)
    pool = green.NativePool("disk", 4)
    node = node_module.Node(cast(Any, SimpleNamespace(node=SimpleNamespace(data_dir=tmp_path))))
    membership = SimpleNamespace(snapshot=lambda: list(rows))
    node.services = cast(Any, SimpleNamespace(
        cluster=SimpleNamespace(absent=list, membership=membership), local=SimpleNamespace(run=pool.run)
    ))
    failures: list[BaseException] = []
    group = green.Group("test", lambda name, error: failures.append(error))

    def hear(name: str) -> None:
        rows.append(name)
        node._changed([cast(Any, SimpleNamespace(old="", new="dead"))])
        assert name in saved[-1]

    for name in "abcde":
        group.spawn(name, hear, name)
    assert group.join(30)
    assert failures == []
    assert saved[-1] == list("abcde")
    pool.close()
