"""Unsigned LEB128 integers, in the two dialects that IPFS formats use.

- multiformats (CID, multihash, CAR frame lengths): shortest form only, at most 9 bytes, below 2^63.
- protobuf (dag-pb, UnixFS): longer forms of the same number are allowed, at most 10 bytes, below 2^64.

Both raise Malformed and nothing else, whatever the bytes.
"""

from __future__ import annotations

from p2pfs import errors

MAX_BYTES = 9
MAX_PROTOBUF_BYTES = 10
_SHORT = [bytes([value]) for value in range(128)]


def encode(value: int) -> bytes:
    """The shortest form of a number from 0 to 2^64 - 1."""
    if value < 128:
        return _SHORT[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def length(value: int) -> int:
    """How many bytes `encode` makes of a number."""
    return (value.bit_length() + 6) // 7 or 1


def decode(buf: bytes, pos: int) -> tuple[int, int]:
    """(number, position after it) in the multiformats dialect."""
    value, end = _decode(buf, pos, MAX_BYTES)
    if end - pos > 1 and not buf[end - 1]:
        raise errors.Malformed(f"a varint at byte {pos} is longer than it needs to be")
    return value, end


def decode_protobuf(buf: bytes, pos: int) -> tuple[int, int]:
    """(number, position after it) in the protobuf dialect."""
    value, end = _decode(buf, pos, MAX_PROTOBUF_BYTES)
    if value >> 64:
        raise errors.Malformed(f"the varint at byte {pos} is over 64 bits")
    return value, end


def _decode(buf: bytes, pos: int, limit: int) -> tuple[int, int]:
    value = shift = 0
    start = pos
    size = len(buf)
    while pos < size:
        byte = buf[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, pos
        shift += 7
        if pos - start == limit:
            raise errors.Malformed(f"the varint at byte {start} is over {limit} bytes")
    raise errors.Malformed(f"the varint at byte {start} is cut off")
