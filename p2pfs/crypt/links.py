"""Links: `p2pfs:CID[/path]#FRAGMENT` names something encrypted and says where its key is.

    k=KEY            the key itself
    f=SALT           derived from a key file
    p=LOGN.SALT      derived from a passphrase by scrypt with 2^LOGN blocks

KEY (32 bytes) and SALT (16 bytes) are base64url without padding. What stands before the `#` is all that a node may see.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core.cid import CID
from p2pfs.crypt import SCHEME
from p2pfs.crypt.keys import ROOT_SALT_BYTES
from p2pfs.crypt.segments import KEY_BYTES

MAX_CHARS = 128 * 1024
"""Of a whole link: 256 names of 255 bytes, and some."""
_FRAGMENT = re.compile(r"k=([\w-]+)|f=([\w-]+)|p=([1-9][0-9]?)\.([\w-]+)", re.ASCII)


class Link(NamedTuple):
    """A parsed link. Its text holds the key where `kind` is "link": show `public` instead."""

    cid: CID
    """Of the root."""
    path: tuple[str, ...]
    kind: str
    """Where the key is: "link", "key-file" or "passphrase"."""
    value: bytes
    """The key itself, or the salt to derive it with."""
    log_n: int = 0
    """Of a passphrase."""

    @classmethod
    def parse(cls, text: str) -> Link:
        """A link from its text. Raises UsageError, which does not repeat what may be a key."""
        if len(text) > MAX_CHARS:
            raise errors.UsageError(f"{len(text)} characters are no link")
        named, mark, fragment = text.removeprefix(SCHEME).rpartition("#")
        if not text.startswith(SCHEME):
            raise errors.UsageError("a link looks like p2pfs:CID#k=KEY; p2pfs: at its beginning is missing here")
        if not mark:
            raise errors.UsageError("a link looks like p2pfs:CID#k=KEY; the part from # on is missing here")
        head, *rest = named.split("/")
        try:
            cid = CID.parse(head)
        except errors.BadCid:
            raise errors.UsageError("a link looks like p2pfs:CID#k=KEY; what follows p2pfs: is no CID here") from None
        found = _FRAGMENT.fullmatch(fragment)
        if not found:
            raise errors.UsageError(f"{SCHEME}{named}#...: after the # stand k=, f= or p= and a value, as printed")
        key, of_file, log_n, of_passphrase = found.groups()
        kind = "link" if key else "key-file" if of_file else "passphrase"
        value = _decode(key or of_file or of_passphrase, KEY_BYTES if key else ROOT_SALT_BYTES)
        return cls(cid, tuple(part for part in rest if part), kind, value, int(log_n or 0))

    @property
    def public(self) -> str:
        """The link without its fragment: for messages."""
        return SCHEME + "/".join((str(self.cid), *self.path))

    def __str__(self) -> str:
        value = base64.urlsafe_b64encode(self.value).decode("ascii").rstrip("=")
        head = {"link": "k=", "key-file": "f=", "passphrase": f"p={self.log_n}."}[self.kind]
        return f"{self.public}#{head}{value}"

    def __repr__(self) -> str:
        return f"Link({self.public}#...)"


def _decode(text: str, size: int) -> bytes:
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        value = b""
    # Only one spelling: bits left over would make two links of one key.
    if len(value) != size or base64.urlsafe_b64encode(value).decode("ascii").rstrip("=") != text:
        raise errors.UsageError(f"after the # of a link stand {size} bytes as base64url; it was cut or mistyped")
    return value
