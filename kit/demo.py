"""`make demo`: three nodes on this machine keep a file and a tree, one of them dies, and nothing is lost.

Everything is real: three `p2pfs-node` processes that speak TLS to each other, data on this disk, a SIGKILL.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kit.cluster import ROOT, Node, wait_until

FILE_BYTES = 300 * 1024 * 1024
SHOWN_LINES = 14
"""Of a longer answer the reader sees the begin and the end, where the verdict is."""


def say(text: str = "") -> None:
    """A line for the reader."""
    print(text, flush=True)


def run(node: Node, *args: str) -> str:
    """Show and run a command of the CLI; what it printed."""
    say(f"  $ p2pfs-cli --node={node.name} {' '.join(args)}")
    begin = time.monotonic()
    output = node.cli(*args).stdout
    spent_s = time.monotonic() - begin
    lines = output.splitlines()
    if len(lines) > SHOWN_LINES:
        half = SHOWN_LINES // 2
        lines[half:-half] = [f"... {len(lines) - 2 * half} lines more ..."]
    say("".join(f"    {line}\n" for line in lines) + f"    ({spent_s:.2f} s)")
    return output


def make(node: Node, *words: str) -> str:
    """Show and run `p2pfs-node init` or `join` for a node, and start it; what the command printed."""
    shown = [word if len(word) < 40 else f"{word[:32]}…" for word in words]
    say(f"  $ p2pfs-node {' '.join(shown)} --listen={node.address} && p2pfs-node -c node.ini        (on {node.name})")
    done = node.make(*words)
    if done.returncode:
        raise RuntimeError(f"p2pfs-node {shown[0]} exited {done.returncode}:\n{done.stderr}")
    node.start()
    return done.stdout


def make_file(path: Path) -> None:
    """A file that nobody has seen before."""
    generator = random.Random()
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // (1024 * 1024)):
            file.write(generator.randbytes(1024 * 1024))


def is_same_tree(left: Path, right: Path) -> bool:
    """Same names, same bytes."""
    comparison = filecmp.dircmp(left, right, ignore=[])
    if comparison.left_only or comparison.right_only or comparison.funny_files:
        return False
    _, different, odd = filecmp.cmpfiles(left, right, comparison.common_files, shallow=False)
    return not different and not odd and all(
        is_same_tree(left / name, right / name) for name in comparison.common_dirs
    )


def sha256(path: Path) -> str:
    """As sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def demo(folder: Path) -> bool:
    """The whole show; True when everything came back."""
    say("p2pfs in one minute: a file store on several machines, with no server in the middle.")
    say(f"This demo plays three machines on this one; their data is in {folder}.\n")
    big, tree = folder / "movie.bin", folder / "project"
    make_file(big)
    shutil.copytree(ROOT / "p2pfs", tree, ignore=shutil.ignore_patterns("__pycache__"))
    nodes = a, b, c = [Node(folder / "nodes", f"node-{letter}", {"storage.reserve_free": "0"}) for letter in "abc"]
    try:
        say("1. Make the first node. It prints a word that lets other machines join for an hour, and no longer.")
        a.options |= {"cluster.replicas": "2", "cluster.write_quorum": "2"}
        token = re.findall(r"p2pfs-join-\w+", make(a, "init"))[0]
        say("   On each other machine that word is all that it takes.")
        make(b, "join", token)
        make(c, "join", token)
        wait_until(lambda: list(a.states().values()) == ["alive"] * 3, 60, "three nodes know each other")
        say()
        run(a, "peers")
        say(f"2. Store a file of {FILE_BYTES >> 20} MiB and a directory through node-a. Every byte is on two disks,")
        say("   synced, before the command returns. What is printed is the hash of the content: its name from now on.")
        file_cid = run(a, "store", str(big)).split()[0]
        tree_cid = run(a, "store", str(tree)).split()[0]
        say("3. Where is it? Each block should be on two of the three nodes, the branches that list them on all.")
        run(a, "explain", file_cid)
        say("4. Now kill node-a, the one that we stored through: kill -9, no goodbye.")
        a.kill()
        begin = time.monotonic()
        wait_until(lambda: b.states()["node-a"] == "dead", 60, "node-b notices")
        say(f"    node-b noticed after {time.monotonic() - begin:.1f} s and says so:\n")
        run(b, "peers")
        say("5. Get both back from node-c, which did not store them. Every block is verified against its hash.")
        back_file, back_tree = folder / "back.bin", folder / "back"
        run(c, "get", file_cid, "-o", str(back_file))
        run(c, "get", tree_cid, "-o", str(back_tree))
        is_equal = sha256(big) == sha256(back_file) and is_same_tree(tree, back_tree)
    finally:
        for node in nodes:
            node.kill()
    say(f"    sha256 before  {sha256(big)}")
    say(f"    sha256 after   {sha256(back_file)}")
    count = sum(len(files) for _, _, files in os.walk(tree))
    if is_equal:
        say(f"\nOne of three machines is gone, and nothing was lost: the file and {count} files of the tree are equal.")
    else:
        say("\nWhat came back differs from what was stored. This is a bug; please report it.")
    return is_equal


def main() -> int:
    """Run the demo in a folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="p2pfs-demo-"))
    try:
        return 0 if demo(folder) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
