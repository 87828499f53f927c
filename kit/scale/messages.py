"""Requests between members for each block of a store, a get and a pass of the audit, by nodes."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kit.cluster import Cluster
from kit.scale.measure import MIB, Row, requests
from p2pfs import Client

FILE_BYTES = 128 * MIB
VERBS = ("HAVE", "PUT", "GET", "PIN")


def per_block(folder: Path, nodes: int) -> Iterator[Row]:
    """A file of 128 leaves, 2 copies; at another node it is fetched."""
    folder.mkdir()
    try:
        with Cluster(folder, nodes, cluster__replicas="2", repair__audit_interval="30d") as cluster:
            path = folder / "file"
            path.write_bytes(os.urandom(FILE_BYTES))
            start = requests(cluster)
            with Client(str(cluster[0].control)) as client:
                stored = client.store(path)
            after_store = requests(cluster)
            with Client(str(cluster[nodes - 1].control)) as client:
                client.get(stored.cid, folder / "back")
            after_get = requests(cluster)
            for node in cluster:
                node.cli("audit", "--wait")
            after_audit = requests(cluster)
        yield _row("store", nodes, stored.blocks, after_store - start)
        yield _row("get", nodes, stored.blocks, after_get - after_store)
        yield _row("audit of all nodes", nodes, stored.blocks, after_audit - after_get)
    finally:
        shutil.rmtree(folder)


def _row(what: str, nodes: int, blocks: int, verbs: Counter[str]) -> Row:
    found = ", ".join(f"{verb} {verbs[verb]}" for verb in VERBS if verbs[verb])
    return Row(f"requests: {what}", nodes, sum(verbs[verb] for verb in VERBS) / blocks, "a block",
               f"{blocks} blocks, 2 copies: {found or 'none'}")
