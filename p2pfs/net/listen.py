"""Sockets that listen: a TCP address, a control socket with its file mode."""

from __future__ import annotations

import errno
import os
import socket
import stat

from p2pfs import errors
from p2pfs.net.connection import split_address

BACKLOG = 1024
"""Connections that wait in the kernel to be accepted: some moments of a flood."""


def listen_tcp(address: str) -> tuple[socket.socket, str]:
    """Bind HOST:PORT; the socket, and the address with the port that it got. Raises UsageError, Refused."""
    host, port = split_address(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        is_every = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=is_every)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            why, what = "the port is in use", "is a node running there already? Stop it, or set"
        else:
            why, what = getattr(error, "strerror", None) or str(error), "set"
        raise errors.Refused(f"cannot listen on {address}: {why}; {what} [node] listen to another address") from None
    bound = listener.getsockname()[1]
    return listener, f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"


def listen_unix(path: str, mode: int) -> socket.socket:
    """Bind a control socket with a file mode. The file of a node that is gone is replaced. Raises Refused."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        # Linux gives the file the mode that the socket had before: at no moment may anybody connect whom `mode` does
        # not let. (The umask would do it too, but it is one for all threads.) It may only narrow; chmod then widens.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise errors.Refused(
            f"cannot make the control socket {path}: {error.strerror or error}; see [node] control"
        ) from None
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket file of a node that is gone; leave one that somebody listens on. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # its queue is full: somebody is there
    raise FileExistsError(errno.EADDRINUSE, "another node listens there; stop it")
