"""The revoked ids that a node knows, on its disk: one a line, beside the list of members."""

from __future__ import annotations

import logging
from pathlib import Path

from p2pfs import errors
from p2pfs.core.revocation import ID, MAX_IDS
from p2pfs.store.files import write_atomically

log = logging.getLogger(__name__)

FILE = "revoked"
MAX_BYTES = MAX_IDS * 64


def save_revoked(data_dir: Path, ids: list[str]) -> None:
    """Replace what is kept. Durable on return. Raises NoSpace, Busy, Refused."""
    write_atomically(data_dir / FILE, "".join(f"{id}\n" for id in ids).encode("ascii"))


def load_revoked(data_dir: Path) -> list[str]:
    """The ids kept, none when there is no file. Raises Refused when it cannot be read: they would get in again.

    A line that is no id is left out, loudly: the other members still know what stood there.
    """
    path = data_dir / FILE
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_BYTES).decode("latin-1").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.Refused(
            f"the list of revoked ids, {path}, cannot be read: {error.strerror}; copy it from another node"
        ) from None
    for number, line in enumerate(lines, 1):
        if line and not ID.fullmatch(line):
            log.error("%s, line %d is no id and is left out", path, number)
    return [line for line in lines if ID.fullmatch(line)]
