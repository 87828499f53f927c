"""Files that only their owner may read: keys and secrets."""

from __future__ import annotations

import os
import shlex
import stat

from p2pfs import errors


def require_private(path: str | os.PathLike[str], what: str) -> None:
    """Raise ConfigError when group or others can use a file, with the command that mends it, and when it is not there.

    `what` the file holds: "a secret". What is no regular file, a pipe say, is for its maker to guard.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise errors.ConfigError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise errors.ConfigError(
            f"{os.fspath(path)} holds {what} and others can use it (mode {stat.S_IMODE(mode):04o}): "
            f"chmod 600 {shlex.quote(os.fspath(path))}"
        )
