"""Where the key of a sealed root comes from. Each kind gives every root a key of its own."""

from __future__ import annotations

import hashlib
import re

from p2pfs import errors
from p2pfs.crypt.segments import HEADER_BYTES, KEY_BYTES, hkdf, new_header

ROOT_SALT_BYTES = 16
"""What tells the keys apart that one key file or passphrase gives."""
SCRYPT_LOG_N = 17
"""2^17 blocks of 1 KiB: 128 MiB, and some tenths of a second for each guess."""
SCRYPT_LOG_N_LEAST = 14
SCRYPT_LOG_N_MOST = 20
"""A link can make its reader use 1 GiB, no more."""
SCRYPT_R = 8
_OF_KEY_FILE = b"p2pfs 1 key file"
_OF_CONTENT = b"p2pfs 1 content"
_HEADER_OF_CONTENT = b"p2pfs 1 content header"
_HEX_KEY = re.compile(rb"[0-9A-Fa-f]{64}\n?")


def parse_key_file(data: bytes) -> bytes:
    """The secret in a key file: 32 bytes, or 64 hex digits with or without a line end. Raises UsageError."""
    if len(data) == KEY_BYTES:
        return data
    if _HEX_KEY.fullmatch(data):
        return bytes.fromhex(data.decode("ascii"))
    raise errors.UsageError("a key file holds 32 bytes, or 64 hex digits")


def key_of_file(secret: bytes, salt: bytes) -> bytes:
    """The key of the root with this salt, for whoever has the key file."""
    return hkdf(secret, KEY_BYTES, salt, _OF_KEY_FILE)


def key_of_passphrase(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    """The key of the root with this salt, by scrypt (RFC 7914) with r = 8, p = 1. Raises UsageError."""
    if not SCRYPT_LOG_N_LEAST <= log_n <= SCRYPT_LOG_N_MOST:
        raise errors.UsageError(f"scrypt with 2^{log_n} blocks; {SCRYPT_LOG_N_LEAST} to {SCRYPT_LOG_N_MOST} are taken")
    if not passphrase:
        raise errors.UsageError("an empty passphrase protects nothing")
    blocks = 1 << log_n
    return hashlib.scrypt(
        passphrase, salt=salt, n=blocks, r=SCRYPT_R, p=1, dklen=KEY_BYTES, maxmem=(blocks + 64) * 128 * SCRYPT_R
    )


def key_of_content(secret: bytes, digest: bytes) -> bytes:
    """The key of a file with this content, for whoever has the secret: equal files get equal keys.

    `digest` is the SHA-256 of the SHA-256 digests of the file's segments.
    """
    return hkdf(secret, KEY_BYTES, digest, _OF_CONTENT)


def header_of_content(key: bytes) -> bytes:
    """The header of a stream whose key is `key_of_content`.

    It is always the same for one key, and so are the nonces: safe because the key is of one content only, so that no
    nonce ever seals two different texts.
    """
    return new_header(hkdf(key, HEADER_BYTES - 1, b"", _HEADER_OF_CONTENT))
