"""Where things lie in a data directory: names and paths only, nothing is opened here.

    blocks/3fa/3fa9...              a block by the hex digest of its sha2-256, as `sha256sum` prints it
    blocks/3fa/3fa9....blake3       a block that is named by another hash
    temp/3/17                       a block on its way in; emptied at each start
    quarantine/3fa9....1750000000   a bad copy, with the Unix time of its discovery

`temp` has a folder for each first digit: file systems that place a file by its folder (XFS) then spread the
blocks over their allocation groups, and a start that has to clear it looks at 16 folders, not at every block.
"""

from __future__ import annotations

from p2pfs import errors
from p2pfs.core.multihash import BLAKE3, SHA2_256, Multihash
from p2pfs.core.placement import SHARDS

BLOCKS = "blocks"
TEMP = "temp"
QUARANTINE = "quarantine"
TEMP_FOLDERS = tuple(f"{digit:x}" for digit in range(16))
SHARD_FOLDERS = tuple(f"{shard:03x}" for shard in range(SHARDS))

_SUFFIXES = {bytes((SHA2_256, 32)): "", bytes((BLAKE3, 32)): ".blake3"}
_PREFIXES = {suffix: prefix for prefix, suffix in _SUFFIXES.items()}
_DIGITS = 64


def block_name(block: Multihash) -> str:
    """The file name of a block. Raises BadCid for a hash that no block is stored by."""
    suffix = _SUFFIXES.get(block[:2])
    if suffix is None or len(block) != 34:
        raise errors.BadCid(f"multihash {block[:36].hex()}: only sha2-256 and blake3 name a block")
    return block[2:].hex() + suffix


def parse_name(name: str) -> Multihash | None:
    """The block that a file of this name would be; None for a foreign file."""
    digits = name[:_DIGITS]
    prefix = _PREFIXES.get(name[_DIGITS:])
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        return None
    # Not every text that `fromhex` reads is how we write it: it takes capitals and spaces.
    return prefix + digest if prefix and digest.hex() == digits and len(digits) == _DIGITS else None
