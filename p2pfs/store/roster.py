"""The members that a node knows, on its disk: where to look for the others at the next start, and how many they are.

A file of its own beside the catalog, one membership row a line (JSON, as it travels): who lost the catalog must not
think that he is alone, and acknowledge stores that only he holds.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from p2pfs import errors
from p2pfs.core.member import MAX_ROWS, Member
from p2pfs.store.files import write_atomically

log = logging.getLogger(__name__)

FILE = "members.jsonl"
MAX_LINE = 8192
"""Bytes of a row; a longer one is none, and neither is what comes after them."""


def save_members(data_dir: Path, rows: Iterable[Member]) -> None:
    """Replace what is kept. Durable on return. Raises NoSpace, Busy, Refused."""
    lines = [json.dumps(row.to_wire(), sort_keys=True).encode("ascii") + b"\n" for row in rows]
    write_atomically(data_dir / FILE, b"".join(lines))


def load_members(data_dir: Path) -> list[Member]:
    """The rows kept, none when there is no file. A line that cannot be read is left out: it is only a hint."""
    try:
        with (data_dir / FILE).open("rb") as file:
            lines = list(itertools.islice(iter(lambda: file.readline(MAX_LINE), b""), MAX_ROWS))
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("the list of members in %s cannot be read: %s", data_dir / FILE, error.strerror)
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Member.from_wire(json.loads(line)))
        except (ValueError, RecursionError, errors.ProtocolError) as error:
            log.warning("%s, line %d is left out: %s", data_dir / FILE, number, error)
    return rows
