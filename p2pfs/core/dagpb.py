"""dag-pb, the codec of branches: a list of links and some data (IPLD specs/codecs/dag-pb).

The form is protobuf, `PBNode{2: repeated PBLink, 1: data}` and `PBLink{1: hash, 2: name, 3: tsize}`, written links
first. What is written here is byte for byte what Kubo writes: the name is there even when it is empty, and so is
tsize. Blocks from elsewhere are only ever read, and kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from p2pfs import errors
from p2pfs.core import varint
from p2pfs.core.multihash import Buffer

PBLink: TypeAlias = tuple[bytes, bytes, int]
"""(hash, name, tsize): the binary CID, still to be decoded; an entry's name or empty; bytes of all that is below."""

MAX_BLOCK_BYTES = 2 * 1024 * 1024
"""What Bitswap, Kubo's import and Helia take; so does p2pfs."""
MAX_LINKS = 65536
"""No block of MAX_BLOCK_BYTES has so many links with a 32-byte digest."""

_DATA = 0x0A
_LINK = 0x12
_HASH = 0x0A
_NAME = 0x12
_TSIZE = 0x18


def encode_link(hash: bytes, name: bytes, tsize: int) -> bytes:
    """One link with its tag and length, as it stands in a node."""
    body = b"\x0a%b%b\x12%b%b\x18%b" % (
        varint.encode(len(hash)), hash, varint.encode(len(name)), name, varint.encode(tsize)
    )
    return b"\x12%b%b" % (varint.encode(len(body)), body)


def encode(links: Iterable[PBLink], data: bytes) -> bytes:
    """A node. The links must be in order already: by name, bytewise, or as they follow each other in a file."""
    parts = [encode_link(*link) for link in links]
    parts.append(b"\x0a%b%b" % (varint.encode(len(data)), data))
    return b"".join(parts)


def decode(block: Buffer) -> tuple[list[PBLink], bytes | None]:
    """(links in the order in which they are stored, data if there is any). Raises Malformed.

    Takes data before or after the links, and links without name or tsize; refuses unknown and repeated fields.
    """
    if len(block) > MAX_BLOCK_BYTES:
        raise errors.Malformed(f"a dag-pb block of {len(block)} bytes; the limit is {MAX_BLOCK_BYTES}")
    buf = bytes(block)
    links: list[PBLink] = []
    data: bytes | None = None
    pos = 0
    size = len(buf)
    is_past_links = False
    while pos < size:
        tag = buf[pos]
        start, end = _span(buf, pos + 1, size)
        if tag == _LINK:
            if is_past_links:
                raise errors.Malformed("a dag-pb block has links on both sides of its data")
            links.append(_decode_link(buf, start, end))
            if len(links) > MAX_LINKS:
                raise errors.Malformed(f"a dag-pb block has more than {MAX_LINKS} links")
        elif tag == _DATA and data is None:
            data = buf[start:end]
            is_past_links = bool(links)
        else:
            raise errors.Malformed(f"a dag-pb block has an unknown or second field (tag {tag:#04x} at byte {pos})")
        pos = end
    return links, data


def _span(buf: bytes, pos: int, size: int) -> tuple[int, int]:
    """Start and end of a field with a length, which begins at `pos`."""
    if pos < size and buf[pos] < 128:
        start = pos + 1
        end = start + buf[pos]
    else:
        length, start = varint.decode_protobuf(buf, pos)
        end = start + length
    if end > size:
        raise errors.Malformed(f"a dag-pb field at byte {pos} is cut off")
    return start, end


def _decode_link(buf: bytes, pos: int, end: int) -> PBLink:
    hash = name = b""
    tsize = 0
    last = 0
    while pos < end:
        tag = buf[pos]
        # Canonical order is ascending, and every tag is one byte: comparing with the last finds repeats and disorder.
        if tag <= last:
            raise errors.Malformed(f"a dag-pb link repeats or disorders its fields (tag {tag:#04x} at byte {pos})")
        last = tag
        if tag == _TSIZE:
            tsize, pos = varint.decode_protobuf(buf, pos + 1)
            if pos > end:
                raise errors.Malformed("a dag-pb link is cut off in its tsize")
            continue
        start, pos = _span(buf, pos + 1, end)
        if tag == _HASH:
            hash = buf[start:pos]
        elif tag == _NAME:
            name = buf[start:pos]
        else:
            raise errors.Malformed(f"a dag-pb link has an unknown field (tag {tag:#04x})")
    if not hash:
        raise errors.Malformed("a dag-pb link has no hash")
    return hash, name, tsize
