"""GRANT: a folder for `--tls-dir`. The key is made here and stays here; the node signs."""

from __future__ import annotations

import os
import shutil

from p2pfs import errors
from p2pfs.client.calls import Calls
from p2pfs.client.deadline import Deadline
from p2pfs.client.files import local_errors
from p2pfs.client.parsing import parse
from p2pfs.client.reports import Granted, Signed
from p2pfs.core import wire


def grant(calls: Calls, deadline: Deadline, name: str, role: str, seconds: int, folder: str) -> Granted:
    """Make `folder` with ca.pem, cert.pem and key.pem, complete or not at all; only its owner can read it.

    Raises Refused when it exists, NotFound when the folder that it should lie in does not, and what GRANT raises.
    """
    from p2pfs.net import certificates  # here: other commands do without `cryptography`

    with local_errors(folder):
        if os.path.lexists(folder):
            raise errors.Refused(f"{folder} exists; name a folder that does not")
        os.mkdir(folder, 0o700)
    try:
        key = certificates.new_key()
        request = certificates.request(certificates.load_key(key)).decode("ascii")
        wishes = {"name": name, "role": role, "seconds": seconds, "request": request}
        answer = calls.body(deadline, "GRANT", wire.dump_json(wishes))
        signed = parse(Signed, wire.parse_json(answer, dict))
        with local_errors(folder):
            _write(os.path.join(folder, "key.pem"), key)
            _write(os.path.join(folder, "cert.pem"), signed.certificate.encode("ascii", "replace"))
            _write(os.path.join(folder, "ca.pem"), signed.ca.encode("ascii", "replace"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Granted(signed.id, signed.name, signed.role, signed.expires, folder)


def _write(path: str, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
