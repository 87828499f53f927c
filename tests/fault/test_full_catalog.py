"""Pins can be removed when the disk is full to its last byte, however little was left when the node started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.small_disk import run_on_small_disk

REMOVE = """
import os, sys
from pathlib import Path
from p2pfs.store.catalog import Catalog
from p2pfs.store.room import reserve_of
from tests.unit.test_catalog import pin

folder, left = Path(sys.argv[1]), int(sys.argv[2])

def fill(left):
    disk = os.statvfs(folder)
    with (folder / "filler").open("ab", buffering=0) as file:
        for _ in range(disk.f_bavail - left // disk.f_frsize):
            file.write(bytes(disk.f_frsize))

catalog = Catalog(folder / "catalog.sqlite")
catalog.merge([pin(number) for number in range(2000)])
if left:
    catalog.close()
    reserve_of(catalog.path).unlink()  # the disk was full when it should have been taken
    fill(left)
    catalog = Catalog(catalog.path)
fill(0)
for number in range(100):
    catalog.merge([pin(number, stamp=100, removed=True)])
catalog.close()
assert Catalog(catalog.path).counts() == (1900, 100)
"""


@pytest.mark.parametrize("left", [0, 200_000, 400_000, 1_000_000, 1_200_000, 1_600_000, 2_600_000, 4_000_000])
def test_pins_are_removed_on_a_full_disk(tmp_path: Path, left: int) -> None:
    """`left`: the bytes that are free at the start, and then no more; 0: the disk becomes full later."""
    run_on_small_disk(tmp_path, "12m", REMOVE, left)
