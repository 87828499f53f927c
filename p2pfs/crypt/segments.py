"""One sealed stream, segment by segment: Tink's streaming AEAD with the key type AES256_GCM_HKDF_1MB, as published.

    header    length 40, salt (32 bytes), nonce prefix (7 bytes)
    segments  AES-256-GCM of 1 MiB each with its tag, the header counted to the first; the last may be shorter
    key       HKDF-SHA256(key, salt, info = context), 32 bytes; Tink calls the context "associated data"
    nonce     nonce prefix, number of the segment (4 bytes, big-endian), 1 for the last segment and 0 for the others

So a segment only opens in its own place of its own stream, and none is the last but the last: what is cut, swapped,
moved or appended does not open. A segment is a leaf: a range needs the leaves that it touches, and the header.

Source: developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming; tests/vectors/crypt holds Tink's own output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import ciphers, hashes
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfs import errors

SEGMENT_BYTES = 1024 * 1024
KEY_BYTES = 32
SALT_BYTES = 32
PREFIX_BYTES = 7
HEADER_BYTES = 1 + SALT_BYTES + PREFIX_BYTES
TAG_BYTES = 16
MOST_SEGMENTS = 2**32
_STEP = SEGMENT_BYTES - TAG_BYTES
"""Plain bytes of a segment that is neither the first nor the last."""


class Segment(NamedTuple):
    """One segment's place, in plain bytes."""

    number: int
    start: int
    length: int
    is_last: bool

    @property
    def sealed_start(self) -> int:
        """Where it begins in the sealed stream."""
        return self.number * SEGMENT_BYTES

    @property
    def sealed_length(self) -> int:
        """Its bytes there, the header counted to the first."""
        return self.length + TAG_BYTES + (0 if self.number else HEADER_BYTES)


def capacity(number: int) -> int:
    """The most plain bytes that a segment holds."""
    return _STEP - (0 if number else HEADER_BYTES)


def sealed_size(plain_bytes: int) -> int:
    """Bytes of the sealed stream. Raises Refused for what is too long for one."""
    count = -(-(plain_bytes + HEADER_BYTES) // _STEP)
    if count > MOST_SEGMENTS:
        raise errors.Refused(f"{plain_bytes} bytes are more than one encrypted file can hold (4 PiB)")
    return plain_bytes + HEADER_BYTES + max(1, count) * TAG_BYTES


def plain_size(sealed_bytes: int) -> int:
    """Bytes of the plain stream, if it is a sealed one of this size. Raises Corrupt for a size that none has."""
    count = -(-sealed_bytes // SEGMENT_BYTES)
    plain_bytes = sealed_bytes - HEADER_BYTES - count * TAG_BYTES
    if plain_bytes < 0 or count > MOST_SEGMENTS or sealed_size(plain_bytes) != sealed_bytes:
        raise errors.Corrupt(f"{sealed_bytes} bytes are no encrypted file: it was cut, or is none")
    return plain_bytes


def segments(plain_bytes: int, start: int = 0, stop: int | None = None) -> Iterator[Segment]:
    """The segments of a stream of so many plain bytes that hold the bytes from `start` to `stop`.

    There is always one: a range that is empty, or lies past the end, gives the segment at its start, or the last.
    """
    stop = plain_bytes if stop is None else min(stop, plain_bytes)
    number = (min(start, max(0, plain_bytes - 1)) + HEADER_BYTES) // _STEP
    while True:
        begin = number * _STEP - HEADER_BYTES if number else 0
        length = min(capacity(number), plain_bytes - begin)
        yield Segment(number, begin, length, begin + length == plain_bytes)
        number += 1
        if begin + length >= stop:
            return


class Cipher:
    """Seals and opens the segments of one stream; safe to use from several threads, as each call is on its own."""

    def __init__(self, key: bytes, header: bytes, context: bytes = b"") -> None:
        """`context` is what the stream is for; it has to be the same again. Raises Corrupt for a wrong header."""
        if len(header) != HEADER_BYTES or header[0] != HEADER_BYTES:
            raise errors.Corrupt("no encrypted file: it does not begin as one")
        self.header = header
        self._prefix = header[1 + SALT_BYTES :]
        salt = header[1 : 1 + SALT_BYTES]
        self._aes = algorithms.AES(hkdf(key, KEY_BYTES, salt, context))

    def seal(self, segment: Segment, plain: bytes | memoryview, out: memoryview) -> memoryview:
        """The sealed segment, in the beginning of `out`, which is of SEGMENT_BYTES.

        One stream may seal each number once only.
        """
        begin = 0 if segment.number else HEADER_BYTES
        end = begin + len(plain)
        if begin:
            out[:begin] = self.header
        cipher = ciphers.Cipher(self._aes, modes.GCM(self._nonce(segment))).encryptor()
        cipher.update_into(plain, out[begin:])
        cipher.finalize()
        out[end : end + TAG_BYTES] = cipher.tag
        return out[: end + TAG_BYTES]

    def open(self, segment: Segment, sealed: memoryview, out: memoryview) -> memoryview:
        """The plain bytes of a segment, in the beginning of `out`, authenticated. Raises Corrupt, and returns none.

        `out` is at least as long as `sealed`.
        """
        begin = 0 if segment.number else HEADER_BYTES
        end = len(sealed) - TAG_BYTES
        if end >= begin:
            cipher = ciphers.Cipher(self._aes, modes.GCM(self._nonce(segment), bytes(sealed[end:]))).decryptor()
            cipher.update_into(sealed[begin:end], out)
            with contextlib.suppress(InvalidTag):
                cipher.finalize()
                return out[: end - begin]
            out[: end - begin] = bytes(end - begin)
        raise errors.Corrupt(
            f"encrypted bytes {segment.sealed_start} to {segment.sealed_start + len(sealed)} do not open: "
            "the key is another's, or they were changed, moved or cut"
        )

    def _nonce(self, segment: Segment) -> bytes:
        return self._prefix + segment.number.to_bytes(4, "big") + (b"\1" if segment.is_last else b"\0")


def hkdf(secret: bytes, length: int, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869): a key of its own for each salt and info."""
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def new_header(random: bytes) -> bytes:
    """A header from SALT_BYTES + PREFIX_BYTES bytes that no other stream of the same key has."""
    if len(random) != SALT_BYTES + PREFIX_BYTES:
        raise ValueError(f"a header takes {SALT_BYTES + PREFIX_BYTES} bytes")
    return bytes([HEADER_BYTES]) + random
