"""Content identifiers (multiformats/cid): the standard self-describing name of a block.

Binary CIDv1 is `varint(1) varint(codec) multihash`, in text a multibase letter and that. CIDv0 is a bare sha2-256
multihash, in text base58 ("Qm..."), and means dag-pb. Only forms with one spelling are taken: shortest varints,
right digest length, no bits left over.
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core import varint
from p2pfs.core.multihash import DIGEST_BYTES, HASHES, IDENTITY, SHA2_256, Multihash, read, shard_of

RAW = 0x55
DAG_PB = 0x70
CODECS = {RAW: "raw", DAG_PB: "dag-pb", 0x71: "dag-cbor", 0x0129: "dag-json", 0x72: "libp2p-key"}
MAX_CID_BYTES = 160
"""An identity CID of 128 bytes with the longest codec is well below this."""
MAX_TEXT_CHARS = 400
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES = {char: value for value, char in enumerate(_BASE58)}
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE36_VALUES = {char: value for value, char in enumerate(_BASE36)}
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE32_TEXT = re.compile("[a-z2-7]*")
_BASE32_DIGITS = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")
"""To what `int(text, 32)` reads."""
_BASE32_PAIRS = [first + second for first in _BASE32 for second in _BASE32]
"""Two letters for each 10 bits."""
_V0_START = bytes([SHA2_256, DIGEST_BYTES])
_V0_BYTES = 2 + DIGEST_BYTES
_COMMON = {
    bytes([1, codec, code, DIGEST_BYTES]): codec for codec in (RAW, DAG_PB) for code in HASHES.values()
}
"""How nearly every CID begins, to decode it without looking at each part."""
_V1_HEADS = {RAW: bytes([1, RAW]), DAG_PB: bytes([1, DAG_PB])}


class CID(NamedTuple):
    """A block's name: what its bytes are (`codec`) and which they are (`multihash`)."""

    codec: int
    multihash: Multihash
    version: int = 1

    @classmethod
    def parse(cls, text: str) -> CID:
        """A CID from text: base32, base36, base16 or base58 by its first letter, or CIDv0 ("Qm..."). Raises BadCid."""
        if len(text) > MAX_TEXT_CHARS:
            raise errors.BadCid(f"{text[:64]}...: {len(text)} characters are no CID")
        try:
            data = _decode_text(text)
            if len(text) != 46 or not text.startswith("Qm"):
                if data.startswith(_V0_START):
                    raise ValueError("a CIDv0 takes no multibase letter")
            elif len(data) != _V0_BYTES:
                raise ValueError("a CIDv0 has 34 bytes")
            return cls.decode(data)
        except (ValueError, errors.BadCid) as error:
            raise errors.BadCid(f"{text!r} is no CID: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> CID:
        """A CID from exactly these bytes. Raises BadCid."""
        codec = _COMMON.get(data[:4])
        if codec is not None and len(data) == 4 + DIGEST_BYTES:
            return cls(codec, data[2:])
        cid, end = cls.read(data, 0)
        if end != len(data):
            raise errors.BadCid(f"{len(data) - end} bytes after a CID")
        return cid

    @classmethod
    def read(cls, buf: bytes, pos: int) -> tuple[CID, int]:
        """(CID, position after it) out of a buffer. Raises BadCid, also for a hash that cannot be verified here."""
        try:
            if buf[pos : pos + 2] == _V0_START:
                mh, end = read(buf, pos)
                return cls(DAG_PB, mh, 0), end
            version, at = varint.decode(buf, pos)
            if version != 1:
                raise errors.BadCid(f"CID version {version}; 0 and 1 exist")
            codec, at = varint.decode(buf, at)
            mh, end = read(buf, at)
            return cls(codec, mh), end
        except errors.Malformed as error:
            raise errors.BadCid(str(error)) from None

    def encode(self) -> bytes:
        """The binary form, as in links and CARs."""
        if self.version == 0:
            return self.multihash
        head = _V1_HEADS.get(self.codec)
        return (head or b"\x01" + varint.encode(self.codec)) + self.multihash

    def __str__(self) -> str:
        if self.version == 0:
            return _to_base58(self.multihash)
        return "b" + _to_base32(self.encode())

    @property
    def shard(self) -> int:
        """The shard that the block belongs to, 0 to 4095."""
        return shard_of(self.multihash)

    @property
    def is_identity(self) -> bool:
        """The CID holds the data itself; there is no block."""
        return self.multihash[0] == IDENTITY


def codec_name(codec: int) -> str:
    """A codec's name for messages."""
    return CODECS.get(codec, f"codec {codec:#x}")


def _decode_text(text: str) -> bytes:
    # Every branch raises ValueError alone: binascii.Error is one.
    if not text.isascii():
        raise ValueError("a character is of no base")  # one of them, the sign for kelvin, is k in lower case
    if len(text) == 46 and text.startswith("Qm"):
        return _from_base(text, 58, _BASE58_VALUES)
    base, body = text[:1], text[1:]
    if base in ("b", "B"):
        return _from_base32(body if base == "b" else _lower(body))
    if base in ("k", "K"):
        return _from_base(body if base == "k" else _lower(body), 36, _BASE36_VALUES)
    if base == "z":
        return _from_base(body, 58, _BASE58_VALUES)
    if base in ("f", "F"):
        if (body.lower() if base == "f" else body.upper()) != body:
            raise ValueError("mixed case")
        return binascii.unhexlify(body)
    raise ValueError("it begins with none of b, k, z, f, Qm" if text else "it is empty")


def _lower(body: str) -> str:
    if body.upper() != body:
        raise ValueError("mixed case")
    return body.lower()


def _from_base32(body: str) -> bytes:
    # Not the standard library's: it takes several spellings of one value, and needs ten times as long.
    if not _BASE32_TEXT.fullmatch(body):
        raise ValueError("a character is not of base32, or of the other case")
    size, spare = divmod(5 * len(body), 8)
    number = int(body.translate(_BASE32_DIGITS) or "0", 32)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise ValueError("bits are left over")
    return (number >> spare).to_bytes(size, "big")


def _to_base32(data: bytes) -> str:
    letters = -(-8 * len(data) // 5)
    bits = 10 * -(-letters // 2)
    number = int.from_bytes(data, "big") << (bits - 8 * len(data))
    pairs = [_BASE32_PAIRS[number >> shift & 1023] for shift in range(bits - 10, -1, -10)]
    return "".join(pairs)[:letters]


def _from_base(body: str, base: int, values: dict[str, int]) -> bytes:
    number = 0
    for char in body:
        value = values.get(char)
        if value is None:
            raise ValueError(f"the character {char!r} is not of base{base}")
        number = number * base + value
    zero = next(char for char, value in values.items() if not value)
    zeros = len(body) - len(body.lstrip(zero))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _to_base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    chars = []
    while number:
        number, digit = divmod(number, 58)
        chars.append(_BASE58[digit])
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + "".join(reversed(chars))
