"""Multihashes: a digest that says which hash made it (multiformats/multihash).

`varint(code) varint(digest length) digest`. p2pfs reads three codes: sha2-256, blake3 (32 bytes each) and identity
(the data itself, at most 128 bytes). A hash that cannot be computed here cannot be verified here, so it is refused.
The multihash, not the CID, names a block on disk: codec and CID version say how to read bytes, not which they are.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import blake3

from p2pfs import errors
from p2pfs.core import varint

SHA2_256 = 0x12
BLAKE3 = 0x1E
IDENTITY = 0x00
HASHES: dict[str, int] = {"sha2-256": SHA2_256, "blake3": BLAKE3}
"""The hashes that content can be stored under, by the name that the option `hash` takes."""
DIGEST_BYTES = 32
MAX_IDENTITY_BYTES = 128
"""The UnixFS specification's limit of data inside a CID."""

Multihash: TypeAlias = bytes
Buffer: TypeAlias = bytes | bytearray | memoryview

_SHA2_256_PREFIX = bytes([SHA2_256, DIGEST_BYTES])
_BLAKE3_PREFIX = bytes([BLAKE3, DIGEST_BYTES])
_OTHER_NAMES = {
    0x11: "sha1", 0x13: "sha2-512", 0x16: "sha3-256", 0x1B: "keccak-256", 0x20: "sha2-384", 0xB220: "blake2b-256"
}


def multihash(code: int, data: Buffer) -> Multihash:
    """The multihash of some bytes; the GIL is free meanwhile. Raises Malformed for a hash that is not known here."""
    if code == SHA2_256:
        return _SHA2_256_PREFIX + hashlib.sha256(data).digest()
    if code == BLAKE3:
        return _BLAKE3_PREFIX + blake3.blake3(data).digest()
    if code == IDENTITY and len(data) <= MAX_IDENTITY_BYTES:
        return b"\0" + varint.encode(len(data)) + bytes(data)
    raise errors.Malformed(f"no block of {len(data)} bytes can be hashed with {name_of(code)}")


def matches(mh: Multihash, data: Buffer) -> bool:
    """Are these the bytes that the multihash names? Raises Malformed for a hash that is not known here."""
    code = code_of(mh)
    if code == IDENTITY:
        return digest_of(mh) == data
    return multihash(code, data) == mh


def read(buf: bytes, pos: int) -> tuple[Multihash, int]:
    """(multihash, position after it) out of a buffer.

    Raises Malformed unless the hash is known here and the digest has the length which that hash has.
    """
    code, at = varint.decode(buf, pos)
    size, at = varint.decode(buf, at)
    if code == IDENTITY:
        if size > MAX_IDENTITY_BYTES:
            raise errors.Malformed(f"{size} bytes inside an identity hash; the limit is {MAX_IDENTITY_BYTES}")
    elif code not in (SHA2_256, BLAKE3):
        raise errors.Malformed(f"{name_of(code)} cannot be verified here; p2pfs knows {', '.join(HASHES)}, identity")
    elif size != DIGEST_BYTES:
        raise errors.Malformed(f"a {name_of(code)} digest of {size} bytes; it has {DIGEST_BYTES}")
    end = at + size
    if end > len(buf):
        raise errors.Malformed(f"a {name_of(code)} digest is cut off")
    return bytes(buf[pos:end]), end


def code_of(mh: Multihash) -> int:
    """Which hash it is."""
    return varint.decode(mh, 0)[0]


def digest_of(mh: Multihash) -> bytes:
    """The digest alone; for an identity hash, the data itself."""
    _, at = varint.decode(mh, 0)
    return mh[varint.decode(mh, at)[1] :]


def shard_of(mh: Multihash) -> int:
    """The shard, 0 to 4095: the first 12 bits of the digest (of sha2-256 or blake3)."""
    return mh[2] << 4 | mh[3] >> 4


def name_of(code: int) -> str:
    """A hash's name for messages."""
    for name, known in (*HASHES.items(), ("identity", IDENTITY)):
        if known == code:
            return name
    return f"{_OTHER_NAMES[code]} ({code:#x})" if code in _OTHER_NAMES else f"hash {code:#x}"
