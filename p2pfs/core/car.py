"""CARv1, the exchange format: a header with the roots, then blocks (IPLD specs/transport/car/carv1).

`varint(length) dag-cbor{"roots": [CID...], "version": 1}`, then frames `varint(length) CID block`. The two shapes of
dag-cbor are written and read by hand. Every block is hashed on the way in; order, repeats and number of roots are
free. CARv2 is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from p2pfs import errors
from p2pfs.core import varint
from p2pfs.core.cid import CID, MAX_CID_BYTES
from p2pfs.core.dagpb import MAX_BLOCK_BYTES
from p2pfs.core.multihash import Buffer, matches

MAX_HEADER_BYTES = 1024 * 1024
MAX_FRAME_BYTES = MAX_BLOCK_BYTES + MAX_CID_BYTES

_BYTES, _TEXT, _ARRAY, _MAP, _TAG = 2, 3, 4, 5, 6
_TAG_CID = 42


def header(roots: Sequence[CID]) -> bytes:
    """The beginning of a CAR, its length in front."""
    parts = [b"\xa2\x65roots", _head(_ARRAY, len(roots))]
    for root in roots:
        data = root.encode()
        parts += (b"\xd8\x2a", _head(_BYTES, len(data) + 1), b"\0", data)
    parts.append(b"\x67version\x01")
    body = b"".join(parts)
    return varint.encode(len(body)) + body


def frame(cid: CID, data: Buffer) -> bytes:
    """What stands in front of a block."""
    name = cid.encode()
    return varint.encode(len(name) + len(data)) + name


class CarReader:
    """Reads a CAR from `read(count)`, which returns fewer bytes than asked only at the end.

    Iterating yields (CID, block), each block verified; frames of identity CIDs are verified and left out. Holds one
    frame at a time. Everything raises Malformed: once it has, the rest of the CAR cannot be read.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._offset = 0
        size = self._length("header", MAX_HEADER_BYTES)
        if size is None:
            raise errors.Malformed("the CAR is empty")
        self.roots: list[CID] = _decode_header(self._exactly(size, "header"))

    def __iter__(self) -> Iterator[tuple[CID, bytes]]:
        while True:
            start = self._offset
            size = self._length("frame", MAX_FRAME_BYTES)
            if size is None:
                return
            data = self._exactly(size, "frame")
            try:
                cid, end = CID.read(data, 0)
            except errors.BadCid as error:
                raise errors.Malformed(f"no usable CID in the frame at byte {start} of the CAR: {error}") from None
            block = data[end:]
            if len(block) > MAX_BLOCK_BYTES:
                raise errors.Malformed(f"{cid} in the CAR has {len(block)} bytes; the limit is {MAX_BLOCK_BYTES}")
            if not matches(cid.multihash, block):
                raise errors.Malformed(f"the block at byte {start} of the CAR is not {cid}, which it claims to be")
            if not cid.is_identity:
                yield cid, block

    def _length(self, what: str, limit: int) -> int | None:
        """The next length, or None at the end."""
        start = self._offset
        raw = b""
        while not raw or raw[-1] & 128:
            byte = self._read(1)
            if not byte:
                if raw:
                    raise errors.Malformed(f"the CAR ends inside a length, at byte {self._offset}")
                return None
            raw += byte
            self._offset += 1
            if len(raw) > varint.MAX_BYTES:
                break
        size, _ = varint.decode(raw, 0)
        if not size:
            raise errors.Malformed(f"an empty {what} at byte {start} of the CAR")
        if size > limit:
            raise errors.Malformed(f"a {what} of {size} bytes at byte {start} of the CAR; the limit is {limit}")
        return size

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._read(size)
        self._offset += len(data)
        if len(data) != size:
            raise errors.Malformed(f"the CAR ends inside a {what}, at byte {self._offset}")
        return data


def _decode_header(data: bytes) -> list[CID]:
    """The roots. Takes the two keys in either order, and nothing else."""
    fields: dict[bytes, int | list[CID]] = {}
    count, pos = _expect(data, 0, _MAP)
    for _ in range(count):
        size, pos = _expect(data, pos, _TEXT)
        key, pos = data[pos : pos + size], pos + size
        if key == b"version":
            fields[key], pos = _expect(data, pos, 0)
        elif key == b"roots":
            fields[key], pos = _decode_roots(data, pos)
        else:
            raise errors.Malformed(f"the CAR's header has an unknown field {key[:32]!r}")
    version, roots = fields.get(b"version"), fields.get(b"roots")
    if version == 2:
        raise errors.Malformed("this is a CARv2; only CARv1 is read; write it again as CARv1")
    if version != 1 or not isinstance(roots, list):
        raise errors.Malformed(f"the CAR's header has version {version} and {'' if roots else 'no '}roots; no CARv1")
    if pos != len(data) or count != len(fields):
        raise errors.Malformed("the CAR's header has bytes left over or a field twice")
    return roots


def _decode_roots(data: bytes, pos: int) -> tuple[list[CID], int]:
    roots: list[CID] = []
    count, pos = _expect(data, pos, _ARRAY)
    for _ in range(count):
        tag, pos = _expect(data, pos, _TAG)
        size, pos = _expect(data, pos, _BYTES)
        name, pos = data[pos : pos + size], pos + size
        if tag != _TAG_CID or len(name) != size or not name.startswith(b"\0"):
            raise errors.Malformed("a root in the CAR's header is no CID")
        try:
            roots.append(CID.decode(name[1:]))
        except errors.BadCid as error:
            raise errors.Malformed(f"a root in the CAR's header is no usable CID: {error}") from None
    return roots, pos


def _expect(data: bytes, pos: int, major: int) -> tuple[int, int]:
    """(argument, position after it) of a CBOR head of this major type (RFC 8949, 3)."""
    if pos >= len(data) or data[pos] >> 5 != major:
        raise errors.Malformed(f"the CAR's header is not what CARv1 wants, at byte {pos} of it")
    short = data[pos] & 31
    if short < 24:
        return short, pos + 1
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short, 0)
    raw = data[pos + 1 : pos + 1 + size]
    if not size or len(raw) != size:
        raise errors.Malformed(f"the CAR's header is cut off or has no end, at byte {pos} of it")
    return int.from_bytes(raw, "big"), pos + 1 + size


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for short, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | short]) + argument.to_bytes(size, "big")
    raise ValueError(f"{argument} is over 64 bits")
