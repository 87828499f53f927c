"""Where bad copies go: out of the way, and kept for whoever wants to know what happened to them."""

from __future__ import annotations

import itertools
import os
import time

FOLDER = "quarantine"


def move(path: str, folder: str) -> str:
    """Move a file, or whatever it is, to `<name>.<Unix time>` in the folder; the new path. Raises OSError.

    One thread at a time for each name. Nothing that is there already is replaced.
    """
    base = os.path.join(folder, f"{os.path.basename(path)}.{int(time.time())}")
    target = base
    for number in itertools.count(1):
        if not os.path.lexists(target):
            break
        target = f"{base}-{number}"
    os.rename(path, target)
    return target
