"""The invitations that a node has given out: temporary authorities, each for the guests of one token.

`invitations/ID.pem` in the data directory is all that the node keeps of one: a line of JSON (until when, for whom, of
which cluster), this node's certificate under the invitation's authority, and that authority's certificate. The token,
which is the secret, is printed once and kept nowhere. Blocking disk code: it runs in a native thread.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from p2pfs import errors
from p2pfs.core.invitation import CLUSTER_DIGITS, SECRET_BYTES, Token, format_token
from p2pfs.net import certificates, tls
from p2pfs.node.identity import KEY
from p2pfs.private import require_private
from p2pfs.store.files import TEMP_ENDING, disk_error, write_atomically

log = logging.getLogger(__name__)

FOLDER = "invitations"
MOST_OPEN = 64
LASTS_S = 3600.0
"""Unless something else is asked for."""
LEAST_S, MOST_S = 60.0, 30 * 86400.0
MAX_FILE = 16384
_CERTIFICATE_END = "-----END CERTIFICATE-----\n"


class Invitation(NamedTuple):
    """One that was given out and has not expired."""

    id: str
    expires: int
    """Unix time in seconds."""
    is_once: bool
    cluster: str
    """Fingerprint of the cluster's authority when it was given out."""
    used: str
    """By whom and when, of one for a single use; empty: by nobody yet."""
    certificate: str
    """This node's (PEM), under the invitation's authority."""
    authority: str
    """Its certificate (PEM)."""

    def to_text(self) -> str:
        """The content of its file."""
        head = {"expires": self.expires, "once": self.is_once, "cluster": self.cluster, "used": self.used}
        return f"{json.dumps(head)}\n{self.certificate}{self.authority}"

    @classmethod
    def from_text(cls, id: str, text: str) -> Invitation:
        """Read such a file. Raises ValueError."""
        line, _, rest = text.partition("\n")
        head = json.loads(line)
        kinds = {"expires": int, "once": bool, "cluster": str, "used": str}
        if not isinstance(head, dict) or any(type(head.get(key)) is not kind for key, kind in kinds.items()):
            raise ValueError("its first line is not that of an invitation")
        certificate, end, authority = rest.partition(_CERTIFICATE_END)
        return cls(id, head["expires"], head["once"], head["cluster"], head["used"], certificate + end, authority)


class Invitations:
    """Those of one node. Safe to use from several native threads, and `context` from the hub."""

    def __init__(self, data_dir: Path, now: Callable[[], float] = time.time) -> None:
        """`now` is the wall clock. Nothing is open before `load`."""
        self._folder = data_dir / FOLDER
        self._key = data_dir / KEY
        self._now = now
        self._guard = threading.Lock()
        self._open: dict[str, tuple[Invitation, tls.GuestContext]] = {}

    def load(self, clusters: Collection[str]) -> None:
        """Read what is on the disk anew; what expired, or is of a secret not accepted any more, is removed there.

        `clusters` are the fingerprints of the authorities that this node accepts.
        """
        with self._guard:
            found: dict[str, tuple[Invitation, tls.GuestContext]] = {}
            for path in sorted(self._folder.glob("*.pem*")):
                try:
                    if path.name.endswith(TEMP_ENDING):  # a crash left it
                        path.unlink()
                        continue
                    one = self._read(path)
                    if one.expires <= self._now() or one.cluster not in clusters:
                        path.unlink()
                    elif len(found) < MOST_OPEN:
                        found[one.id] = one, self._context_of(one)
                except (ValueError, RecursionError, OSError, errors.P2pfsError) as error:
                    log.warning("the invitation %s cannot be used: %s", path, error)
            self._open = found

    @staticmethod
    def _read(path: Path) -> Invitation:
        require_private(path, "an invitation")  # who can write to it can invite himself
        with path.open("rb") as file:
            return Invitation.from_text(path.stem, file.read(MAX_FILE).decode("ascii"))

    def _context_of(self, one: Invitation) -> tls.GuestContext:
        return tls.guest_context(one.id, one.authority, str(self._path(one.id)), str(self._key))

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}.pem"

    def invite(self, address: str, cluster: str, lasts_s: float, is_once: bool) -> tuple[str, Invitation]:
        """Open an invitation to this node's address, durably; its token, and what is kept. Raises Refused, NoSpace."""
        now = self._now()
        if not LEAST_S <= lasts_s <= MOST_S:
            raise errors.UsageError("an invitation lasts from 1 minute to 30 days")
        expires = int(now + lasts_s)
        text = format_token(Token(address, cluster[:CLUSTER_DIGITS], expires, os.urandom(SECRET_BYTES)))
        authority = certificates.derive_authority(text, certificates.INVITATION)
        key = certificates.load_key(self._key.read_bytes())
        name = certificates.node_id_of(certificates.public_bytes(key))
        certificate = certificates.issue(authority, key, name, datetime.datetime.fromtimestamp(now, datetime.UTC))
        kept = Invitation(authority.id, expires, is_once, cluster, "", certificate.decode(), authority.pem.decode())
        with self._guard:
            for id in [id for id, (one, _) in self._open.items() if one.expires <= now]:
                del self._open[id]
                self._path(id).unlink(missing_ok=True)
            if len(self._open) >= MOST_OPEN:
                raise errors.Refused(f"{MOST_OPEN} invitations are open already; wait until one of them has expired")
            self._write(kept)
            self._open[kept.id] = kept, self._context_of(kept)
        return text, kept

    def _write(self, one: Invitation) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(f"cannot make {self._folder}", error) from error
        write_atomically(self._path(one.id), one.to_text().encode("ascii"))

    def context(self, id: str) -> tls.GuestContext | None:
        """What a guest's connection is served with; None when there is no such invitation, or none any more."""
        found = self._open.get(id)
        return found[1] if found is not None and self._now() < found[0].expires else None

    def claim(self, id: str, who: str) -> None:
        """A guest takes it up: raises Refused when it may not. One for a single use is used up on the disk by now."""
        with self._guard:
            found = self._open.get(id)
            if found is None or found[0].expires <= self._now():
                raise errors.Refused("this invitation has expired, or was withdrawn; ask for another one")
            one, context = found
            if one.is_once and one.used:
                raise errors.Refused(f"this invitation was for one use, and was used: {one.used}; ask for another one")
            if one.is_once:
                at = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                used = one._replace(used=f"by {who}, {at}")
                self._write(used)
                self._open[id] = used, context
