"""Encryption in the client: formats and keys, as values in and values out. docs/ENCRYPTION.md is the normative text.

segments   one encrypted stream (Tink's AES256_GCM_HKDF_1MB), segment by segment
keys       where a stream's key comes from: the link, a key file, a passphrase, the content
links      `p2pfs:CID/path#k=...`, which names what is stored and says where its key is
index      names and structure of an encrypted directory
"""

from __future__ import annotations

import re

SCHEME = "p2pfs:"
"""How a link begins."""


_KEY = re.compile(r"\s*k=[\w-]{32}", re.ASCII)
"""How a fragment begins that is the key itself, or most of one: 32 bytes are 43 characters in base64url."""


def is_link(ref: object) -> bool:
    """True for what is meant as a link to something encrypted: also where it lost its beginning or some of its end.

    No node must be asked about such a one: it has the key in it.
    """
    if not isinstance(ref, str):
        return False
    return ref.startswith(SCHEME) or _KEY.match(ref.rpartition("#")[2]) is not None


def without_key(ref: str) -> str:
    """A REF as it may be shown and told."""
    return ref.rpartition("#")[0] if is_link(ref) and "#" in ref else ref
