"""Rows of 10,000 files of 4 KiB, kept as one directory."""

from __future__ import annotations

from kit.bench.bench import Bench, cli, far_cluster, leaves_there
from kit.bench.machine import copy_tree_s
from kit.bench.table import Series, Wanted
from kit.cluster import Cluster

FILE_BYTES = 4096


def small(bench: Bench) -> None:
    """On one node, and on three."""
    files = f"{bench.tree_work.amount:,.0f} x 4 KiB"
    _one(bench, files)
    _three(bench, files)
    _far(bench, files)


def _one(bench: Bench, files: str) -> None:
    store = Series(f"one node: store {files}, durable", bench.tree_work, "cp -r", Wanted(">=", 3000))
    get = Series(f"one node: get {files}", bench.tree_work, "cp -r")
    for _ in range(bench.runs):
        with bench.place() as place, Cluster(place, 1) as cluster:
            tree = bench.tree(place)
            reference_s = copy_tree_s(tree)
            store.add(cli(cluster, 0, "store", str(tree)), reference_s)
            get.add(cli(cluster, 0, "get", tree.name, "-o", str(place / "back")), reference_s)
    bench.add(store.row())
    bench.add(get.row())


def _three(bench: Bench, files: str) -> None:
    store = Series(f"three nodes, 2 copies: store {files}", bench.tree_work, "cp -r", Wanted(">=", 1200))
    for _ in range(bench.runs):
        with bench.place() as place, Cluster(place, 3, cluster__replicas="2") as cluster:
            tree = bench.tree(place)
            reference_s = copy_tree_s(tree)
            store.add(cli(cluster, 0, "store", str(tree)), reference_s)
    bench.add(store.row())


def _far(bench: Bench, files: str) -> None:
    get = Series(f"three nodes: get {files} where none is", bench.tree_work, "cp -r", Wanted(">=", 2500))
    there = 0
    for _ in range(bench.runs):
        with bench.place() as place, far_cluster(place) as cluster:
            tree = bench.tree(place)
            cli(cluster, 0, "store", str(tree))
            reference_s = copy_tree_s(tree)
            get.add(cli(cluster, 2, "get", tree.name, "-o", str(place / "back")), reference_s)
            there = max(there, leaves_there(cluster[2], FILE_BYTES))
    bench.add(get.row(f"leaves on its disk, counted: {there}"))
