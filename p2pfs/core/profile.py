"""Profiles: everything besides the bytes that a file's CID depends on (IPIP-0499).

| chunker | leaves | links | a directory becomes a HAMT when | the same CID as |
| --- | --- | --- | --- | --- |
| `fixed-1MiB` | 1 MiB | 1024 | its block would be over 256 KiB | `ipfs add -H`, profile unixfs-v1-2025 (Kubo >= 0.40) |
| `fixed-256KiB` | 256 KiB | 174 | names and CIDs are over 256 KiB | `ipfs add -H --cid-version=1` without a profile |
| `fastcdc-1MiB` | cut by content, see chunker.py | 1024 | as the first | nobody's; readable by all |
| `fastcdc-256KiB` | the same, smaller | 1024 | as the first | nobody's; readable by all |
"""

from __future__ import annotations

from typing import NamedTuple

from p2pfs import errors
from p2pfs.core.multihash import HASHES, SHA2_256

MIB = 1024 * 1024
HAMT_THRESHOLD_BYTES = 256 * 1024
"""A directory of exactly this size is still plain."""


class Profile(NamedTuple):
    """What fixes the CIDs of some bytes. `_replace` gives variants for tests."""

    chunker: str = "fixed-1MiB"
    chunk_bytes: int = MIB
    """Leaf size; with FastCDC the size aimed at."""
    min_leaf_bytes: int = MIB
    """No leaf but a file's last is shorter."""
    max_leaf_bytes: int = MIB
    max_links: int = 1024
    """Children of one branch of a file."""
    hash_code: int = SHA2_256
    counts_block_bytes: bool = True
    """A directory's size is that of its encoded block; else, as Kubo did before, its names and CIDs alone."""
    is_fixed: bool = True

    def with_chunk(self, chunk_bytes: int) -> Profile:
        """The same with leaves of another fixed size."""
        return self._replace(chunk_bytes=chunk_bytes, min_leaf_bytes=chunk_bytes, max_leaf_bytes=chunk_bytes)


_PROFILES = {
    "fixed-1MiB": Profile(),
    "fixed-256KiB": Profile("fixed-256KiB", max_links=174, counts_block_bytes=False).with_chunk(256 * 1024),
    "fastcdc-1MiB": Profile("fastcdc-1MiB", MIB, MIB // 4, 2 * MIB, is_fixed=False),
    "fastcdc-256KiB": Profile("fastcdc-256KiB", MIB // 4, MIB // 16, MIB // 2, is_fixed=False),
}
CHUNKERS = tuple(_PROFILES)
"""What the option `chunker` takes; the first is the default."""


def profile(chunker: str = "fixed-1MiB", hash: str = "sha2-256") -> Profile:
    """The profile of two options. Raises UsageError that names what there is."""
    if chunker not in _PROFILES:
        raise errors.UsageError(f"there is no chunker {chunker!r}; there are {', '.join(CHUNKERS)}")
    if hash not in HASHES:
        raise errors.UsageError(f"there is no hash {hash!r}; there are {', '.join(HASHES)}")
    return _PROFILES[chunker]._replace(hash_code=HASHES[hash])
