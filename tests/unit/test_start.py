"""The two commands with the Pythons of other machines: they find one that can run them, or say what is missing."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 60
MODULES = {"docopt-ng": "docopt", "prometheus-client": "prometheus_client"}
"""Of the distributions whose module is called otherwise."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "bin", folder / "bin")
    (folder / "p2pfs").symlink_to(ROOT / "p2pfs")
    return folder


def start(command: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start it with a Python that has gevent and docopt, as a system's may, and nothing else (-S: no site-packages)."""
    some = command.parent.parent.parent / "some"
    (some / "gevent").mkdir(parents=True, exist_ok=True)
    (some / "gevent/__init__.py").touch()
    (some / "gevent/monkey.py").write_text("def patch_all(**options): pass\n")
    (some / "docopt.py").touch()
    return subprocess.run(
        [sys.executable, "-S", str(command), *words],
        capture_output=True, text=True, timeout=WAIT_S, env=os.environ | {"PYTHONPATH": str(some)}, check=False,
    )


@pytest.mark.parametrize("name", ["p2pfs-node", "p2pfs-cli"])
def test_a_python_that_has_only_some_of_what_is_needed_leaves_it_to_that_of_make_venv(
    checkout: Path, name: str
) -> None:
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o700)
    done = start(checkout / "bin" / name, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{checkout / 'bin' / name} --version\n", "")


@pytest.mark.parametrize("name", ["p2pfs-node", "p2pfs-cli"])
def test_without_one_it_says_what_is_missing(checkout: Path, name: str) -> None:
    done = start(checkout / "bin" / name, "--version")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"{name}: error: needs blake3, cryptography, .*xxhash; `make venv` in .*\n", done.stderr)


def test_what_the_commands_look_for_is_what_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = [re.split(r"[ >]", line)[0] for line in setup["options"]["install_requires"].split("\n") if line]
    modules = {MODULES.get(name, name) for name in required}
    assert needed("p2pfs-node") == modules
    assert needed("p2pfs-cli") == modules - {"gevent", "prometheus_client"}, "a client needs no node's packages"


def needed(name: str) -> set[str]:
    found = re.search('^NEEDED = "(.*)"$', (ROOT / "bin" / name).read_text(), re.MULTILINE)
    assert found is not None
    return set(found[1].split())


def test_a_source_distribution_is_the_checkout() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git's")
    words = set((ROOT / "MANIFEST.in").read_text().split())
    by_itself = {"LICENSE", "MANIFEST.in", "README.md", "setup.cfg", "setup.py"}
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= words | by_itself
