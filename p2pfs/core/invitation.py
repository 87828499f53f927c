"""The token of an invitation: one word that tells a machine where to join, and proves at both ends that it may.

All of the token is the secret that the invitation's authority is derived from (`net/certificates.py`): one that was
altered anywhere is another secret, whose authority no node knows. The checksum is for people who mistype: a wrong word
is refused before anything is connected.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core.member import ADDRESS

PREFIX = "p2pfs-join-"
VERSION = 1
SECRET_BYTES = 16
CLUSTER_DIGITS = 32
"""Of the cluster's fingerprint, hex: enough that nobody makes another cluster with the same ones."""
DOMAIN = ".join.p2pfs.invalid"
"""What a guest calls the node in TLS (SNI), after the invitation's id. RFC 2606: nobody has such a name."""
_EXPIRES_BYTES = 5
_SUM_BYTES = 4
_FIXED_BYTES = 1 + _EXPIRES_BYTES + CLUSTER_DIGITS // 2 + SECRET_BYTES + _SUM_BYTES
_MAX_ADDRESS = 320
MAX_TEXT = len(PREFIX) + (_FIXED_BYTES + _MAX_ADDRESS) * 8 // 5 + 1
_NAME = re.compile(r"([a-z2-7]{32})" + re.escape(DOMAIN))


class Token(NamedTuple):
    """What a token says."""

    address: str
    """HOST:PORT of the node that invited."""
    cluster: str
    """The first digits of the fingerprint of the cluster's authority."""
    expires: int
    """Unix time in seconds."""
    secret: bytes

    def __repr__(self) -> str:
        return f"Token(of {self.cluster} at {self.address})"  # the rest is a secret


def format_token(token: Token) -> str:
    """The token as one word: base32 of its fields and a checksum, so that upper and lower case are the same."""
    body = b"".join((
        bytes([VERSION]), token.expires.to_bytes(_EXPIRES_BYTES, "big"), bytes.fromhex(token.cluster), token.secret,
        token.address.encode("ascii"),
    ))
    return PREFIX + base64.b32encode(body + _checksum(body)).decode("ascii").rstrip("=").lower()


def parse_token(text: str) -> Token:
    """Read a token, spaces and line ends in it left out. Raises Refused, and never quotes it."""
    word = "".join(text.split()).lower()
    if not word.startswith(PREFIX):
        raise errors.Refused(f"that is no invitation: one begins with {PREFIX}; p2pfs-cli invite on a member prints it")
    body = _decode(word)
    if body is None:
        raise errors.Refused("the invitation is not as it was printed: characters are missing or differ; copy it again")
    if body[0] != VERSION:
        raise errors.Refused(f"the invitation has the form {body[0]}, this p2pfs knows {VERSION}; install that node's")
    cluster_end = 1 + _EXPIRES_BYTES + CLUSTER_DIGITS // 2
    secret_end = cluster_end + SECRET_BYTES
    address = body[secret_end:].decode("latin-1")
    match = ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise errors.Refused("the invitation names no address that one can connect to")
    return Token(
        address, body[1 + _EXPIRES_BYTES : cluster_end].hex(), int.from_bytes(body[1 : 1 + _EXPIRES_BYTES], "big"),
        body[cluster_end:secret_end],
    )


def _decode(word: str) -> bytes | None:
    """The bytes before the checksum; None when it does not fit, or the word is not as `format_token` writes it."""
    if len(word) > MAX_TEXT:
        return None
    digits = word.removeprefix(PREFIX).upper()
    try:
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError):
        return None
    body, checksum = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    is_exact = base64.b32encode(data).decode("ascii").rstrip("=") == digits
    return body if is_exact and len(data) > _FIXED_BYTES and checksum == _checksum(body) else None


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"p2pfs invitation" + body).digest()[:_SUM_BYTES]


def server_name(id: str) -> str:
    """What a guest calls the node in its first words, so that it answers with that invitation's authority."""
    return id + DOMAIN


def id_of_server_name(name: str) -> str | None:
    """The invitation that a guest names; None: it names something else."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None
