"""The layers of docs/ARCHITECTURE.md, read from the imports of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "p2pfs"

LEAVES = {"errors", "units", "config", "metrics", "private", "terminal", "version"}
IMPURE = {
    "asyncio", "concurrent", "datetime", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "ssl", "subprocess", "tempfile",
    "threading", "time", "uuid",
}


class Layer(NamedTuple):
    """What the modules of one layer may import of this package, and why not more."""

    may: set[str]
    why: str


LAYERS = {
    "errors": Layer(set(), "errors is a leaf: everything imports it"),
    "version": Layer(set(), "version is a leaf"),
    "metrics": Layer(set(), "metrics is a leaf"),
    "terminal": Layer(set(), "terminal is a leaf"),
    "units": Layer({"errors"}, "units is a leaf: it may only raise our errors"),
    "private": Layer({"errors"}, "private is a leaf: it may only raise our errors"),
    "config": Layer({"errors", "units", "private", "config"}, "config is a leaf: it may only raise our errors"),
    "logs": Layer({"errors"}, "logs serves the tops and knows nothing of a node"),
    "systemd": Layer({"errors"}, "systemd serves the daemon and knows nothing of a node"),
    "core": Layer({"errors", "units", "core"}, "core is pure: values in, values out, so that a simulator can run it"),
    "store": Layer(LEAVES | {"core", "store"}, "store is blocking disk code: it knows neither net nor node nor green"),
    "net": Layer(LEAVES | {"core", "net"}, "net is blocking socket code: it knows neither store nor node nor green"),
    "green": Layer({"errors", "metrics"}, "green is the seam to gevent and knows nothing of what runs on it"),
    "tree": Layer(LEAVES | {"core"}, "tree walks local files, with or without a node"),
    "identify": Layer(LEAVES | {"core", "tree"}, "identify needs no node"),
    "crypt": Layer({"errors", "core", "crypt"}, "crypt is formats and keys for the client: nodes see neither"),
    "node": Layer(LEAVES | {"core", "store", "net", "green", "node", "tree"}, "nothing imports the tops"),
    "client": Layer({"errors", "units", "version", "core", "crypt", "net", "client", "tree"},
                    "client is for anyone's Python: no gevent, no node, no store"),
    "cli": Layer(LEAVES | {"core", "crypt", "client", "cli", "tree", "identify", "logs"},
                 "cli is a client, not a node"),
    "setup": Layer(LEAVES | {"core", "store", "net", "node", "setup"}, "setup makes a node's files, and runs none"),
    "daemon": Layer(LEAVES | {"core", "green", "node", "setup", "logs", "systemd"},
                    "daemon runs a node, and nothing imports it"),
    "__init__": Layer({"client", "core", "errors", "version"}, "the package offers the client and patches nothing"),
    "__main__": Layer({"cli"}, "python -m p2pfs is the command line"),
}


class Import(NamedTuple):
    """One imported module, with where it stands."""

    module: str
    place: str
    layer: str


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, at whatever depth; `from p2pfs import x` is p2pfs.x."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "p2pfs":
                yield from ((node.lineno, f"p2pfs.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def all_imports() -> list[Import]:
    found = []
    for path, layer in modules():
        package = ["p2pfs", *path.relative_to(PACKAGE).parts[:-1]]
        for line, module in imports_of(path.read_text(), package):
            found.append(Import(module, f"{path.relative_to(PACKAGE.parent)}:{line}", layer))
    return found


def test_every_module_belongs_to_a_layer() -> None:
    unknown = sorted({str(path.relative_to(PACKAGE.parent)) for path, layer in modules() if layer not in LAYERS})
    assert not unknown, f"{unknown} belong to no layer: add a row to LAYERS, with its reason"


def test_imports_go_downwards() -> None:
    wrong = []
    for module, place, layer in all_imports():
        if module.startswith("p2pfs."):
            target = module.split(".")[1]
            if layer in LAYERS and target not in LAYERS[layer].may:
                wrong.append(f"{place} imports {module}: {LAYERS[layer].why}")
    assert not wrong, "\n".join(wrong)


def test_core_is_pure() -> None:
    wrong = [
        f"{place} imports {module}: core takes time, chance and bytes as arguments"
        for module, place, layer in all_imports() if layer == "core" and module.split(".")[0] in IMPURE
    ]
    for path, layer in modules():
        if layer == "core":
            wrong += [
                f"{path.relative_to(PACKAGE.parent)}:{node.lineno} calls {node.func.id}(): core touches no file"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id in ("open", "print", "input")
            ]
    assert not wrong, "\n".join(wrong)


def test_only_green_names_gevent() -> None:
    wrong = [
        f"{place} imports {module}: only p2pfs/green.py names gevent, so that all else can be tested without it"
        for module, place, layer in all_imports()
        if module.split(".")[0] in ("gevent", "greenlet") and layer != "green"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["p2pfs", "p2pfs.client", "p2pfs.cli"])
def test_importing_loads_no_gevent_and_patches_nothing(module: str) -> None:
    program = (
        f"import {module}, socket, sys\n"
        "p2pfs = sys.modules['p2pfs']\n"
        "getattr(p2pfs, 'Client')\n"
        "assert 'gevent' not in sys.modules, 'gevent is loaded'\n"
        "assert socket.socket.__module__ == 'socket', 'socket is patched'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr


def test_patching_comes_first_in_the_node() -> None:
    tree = ast.parse((PACKAGE.parent / "bin/p2pfs-node").read_text())
    first = tree.body[0]
    assert isinstance(first, ast.Try)
    assert [ast.unparse(line) for line in first.body] == [
        "from gevent import monkey", "monkey.patch_all(thread=False)"
    ], "the standard library must be patched before any other import"


def test_the_reader_of_imports_sees_all_forms() -> None:
    source = "import a.b\ndef f():\n    from p2pfs import x\n    from ..net import y\nfrom . import z\n"
    found = [module for _, module in imports_of(source, ["p2pfs", "core"])]
    assert sorted(found) == ["a.b", "p2pfs.core", "p2pfs.net", "p2pfs.x"]
