"""The UnixFS data message inside a dag-pb block: what kind of node it is, and a file's sizes (ipfs/specs unixfs.md).

Writing follows Kubo byte for byte: fields in the order of their numbers, blocksizes one by one (not packed), what is
unset left out. Reading takes packed blocksizes too and skips unknown fields, as protobuf readers in Go do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import varint

TYPE_RAW = 0
TYPE_DIRECTORY = 1
TYPE_FILE = 2
TYPE_SYMLINK = 4
TYPE_SHARD = 5
TYPE_NAMES = {
    TYPE_RAW: "raw", TYPE_DIRECTORY: "directory", TYPE_FILE: "file", 3: "metadata", TYPE_SYMLINK: "symlink",
    TYPE_SHARD: "directory shard",
}
HASH_MURMUR3 = 0x22
FANOUT = 256
"""What Kubo and the profile write; others are read."""
DIRECTORY_DATA = b"\x08\x01"
MAX_SIZES = 65536
"""As many as a block has links."""
_SECONDS_BITS = 64


class UnixFs(NamedTuple):
    """A decoded data message. Optional fields that are absent are None (0 for the two of a shard)."""

    type: int
    data: bytes = b""
    filesize: int | None = None
    blocksizes: Sequence[int] = ()
    hash_type: int = 0
    fanout: int = 0
    mode: int | None = None
    mtime: tuple[int, int] | None = None
    """(seconds, nanoseconds)"""


def encode_file(blocksizes: Sequence[int]) -> bytes:
    """The message of a branch of a file: the file bytes below each child, and their sum."""
    parts = [b"\x08\x02\x18", varint.encode(sum(blocksizes))]
    for size in blocksizes:
        parts += (b"\x20", varint.encode(size))
    return b"".join(parts)


def encode_symlink(target: bytes) -> bytes:
    """The message of a symbolic link (no filesize: old js-ipfs wrote one, and that is another CID)."""
    return b"\x08\x04\x12" + varint.encode(len(target)) + target


def encode_shard(bitfield: int) -> bytes:
    """The message of a directory shard; bit i of the field says that bucket i is taken."""
    field = bitfield.to_bytes((bitfield.bit_length() + 7) // 8, "big")
    return b"\x08\x05\x12" + varint.encode(len(field)) + field + b"\x28\x22\x30" + varint.encode(FANOUT)


def decode(data: bytes) -> UnixFs:
    """Any data message. Raises Malformed."""
    scalars: dict[int, int] = {}
    payload = b""
    blocksizes: list[int] = []
    mtime: tuple[int, int] | None = None
    pos, size = 0, len(data)
    while pos < size:
        tag, pos = varint.decode_protobuf(data, pos)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, pos = varint.decode_protobuf(data, pos)
            if field == 4:
                blocksizes.append(value)
            elif field in (2, 8):
                raise errors.Malformed(f"UnixFS field {field} is a number")
            else:
                scalars[field] = value
        elif wire_type == 2:
            length, pos = varint.decode_protobuf(data, pos)
            end = pos + length
            if end > size:
                raise errors.Malformed(f"UnixFS field {field} is cut off")
            if field == 2:
                payload = data[pos:end]
            elif field == 4:
                _unpack(data[pos:end], blocksizes)
            elif field == 8:
                mtime = _decode_mtime(data[pos:end])
            elif field in (1, 3, 5, 6, 7):
                raise errors.Malformed(f"UnixFS field {field} is no number")
            pos = end
        else:
            pos = _skip_fixed(field, wire_type, pos, size)
        if len(blocksizes) > MAX_SIZES:
            raise errors.Malformed(f"more than {MAX_SIZES} blocksizes")
    if 1 not in scalars:
        raise errors.Malformed("a UnixFS message has no type")
    return UnixFs(
        scalars[1], payload, scalars.get(3), blocksizes, scalars.get(5, 0), scalars.get(6, 0), scalars.get(7), mtime
    )


def _unpack(packed: bytes, into: list[int]) -> None:
    pos = 0
    while pos < len(packed):
        value, pos = varint.decode_protobuf(packed, pos)
        into.append(value)


def _skip_fixed(field: int, wire_type: int, pos: int, size: int) -> int:
    if field <= 8 or wire_type not in (1, 5):
        raise errors.Malformed(f"UnixFS field {field} has wire type {wire_type}")
    end = pos + (8 if wire_type == 1 else 4)
    if end > size:
        raise errors.Malformed(f"UnixFS field {field} is cut off")
    return end


def _decode_mtime(data: bytes) -> tuple[int, int]:
    seconds: int | None = None
    nanoseconds = 0
    pos = 0
    while pos < len(data):
        tag = data[pos]
        if tag == 0x08:
            seconds, pos = varint.decode_protobuf(data, pos + 1)
            if seconds >> (_SECONDS_BITS - 1):
                seconds -= 1 << _SECONDS_BITS
        elif tag == 0x15 and pos + 5 <= len(data):
            nanoseconds = int.from_bytes(data[pos + 1 : pos + 5], "little")
            pos += 5
            if not 1 <= nanoseconds <= 999_999_999:
                raise errors.Malformed(f"a UnixFS mtime of {nanoseconds} nanoseconds")
        else:
            raise errors.Malformed("a UnixFS mtime cannot be read")
    if seconds is None:
        raise errors.Malformed("a UnixFS mtime has no seconds")
    return seconds, nanoseconds
