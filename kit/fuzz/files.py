"""Targets: files that people, other programs, or a disk that rots can have written; certificates."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from kit.fuzz.messages import check_pins
from p2pfs import errors
from p2pfs.config import loading
from p2pfs.config.options import ROWS, Config
from p2pfs.core.member import Member
from p2pfs.core.pins import Pin
from p2pfs.net import certificates
from p2pfs.store import roster
from p2pfs.store.snapshot import read_snapshot

_folder = tempfile.TemporaryDirectory(prefix="p2pfs-fuzz-")


def _file(name: str, data: bytes) -> Path:
    """The same file each time, in memory: a try costs no disk."""
    path = Path(_folder.name) / name
    if not path.is_symlink():
        path.symlink_to(f"/proc/self/fd/{os.memfd_create(name)}")
    with path.open("wb") as file:
        file.write(data)
    return path


class Journal(NamedTuple):
    """What a catalog's text holds."""

    pins: list[Pin]
    meta: dict[str, Any]
    bad: list[str]


def parse_journal(data: bytes) -> Journal:
    """`catalog.jsonl`: a snapshot and its journal."""
    found = Journal([], {}, [])
    found.pins.extend(read_snapshot(_file("catalog.jsonl", data), found.bad.append, found.meta.update))
    return found


def check_journal(journal: Journal) -> None:
    """What it says can be kept in a database."""
    check_pins(journal.pins)
    for text in (*journal.meta, *journal.meta.values()):
        assert isinstance(text, str) and text.encode("utf-8") is not None


def parse_roster(data: bytes) -> list[Member]:
    """`members.jsonl`: a line that cannot be read is left out."""
    logging.getLogger(roster.__name__).setLevel(logging.ERROR)
    return roster.load_members(_file(roster.FILE, data).parent)


def check_roster(rows: list[Member]) -> None:
    """Written and read again they are the same."""
    assert [Member.from_wire(row.to_wire()) for row in rows] == rows


def parse_config(data: bytes) -> Config:
    """A configuration file, without the files that it names."""
    return loading.checked(loading.parse_text(loading.decode(data, "file", "a"), "a"), {})


def check_config(config: Config) -> None:
    """Every value is shown as a text that means the same; a secret is not shown."""
    for row in ROWS.values():
        shown = row.kind.show(config.value(row))
        if row.name != "cluster.secret":
            assert row.kind.parse(shown) == config.value(row), row.name
    if secret := config.cluster.secret.reveal():
        assert secret not in repr(config) and secret not in str(config.cluster)


def parse_key(pem: bytes) -> certificates.Key:
    """A node's or client's key."""
    try:
        return certificates.load_key(pem)
    except ValueError as error:
        raise errors.Refused(str(error)) from None


def parse_certificate(der: bytes) -> certificates.Bearer:
    """A peer's certificate."""
    try:
        return certificates.read(der)
    except ValueError as error:
        raise errors.IdentityRefused(str(error)) from None
