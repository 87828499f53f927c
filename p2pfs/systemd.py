"""Talking to systemd: readiness, reload, stop, status and the watchdog (sd_notify(3), sd_watchdog_enabled(3)).

Without systemd in the environment everything here does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

SEND_S = 1.0
"""A service manager that does not take a message for so long must not hold up the node."""


class Notifier:
    """The service manager that started this process, or nobody."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ) if self._address else None
        """Without `alive` for so many seconds the process is killed; None when nobody watches."""

    def ready(self, status: str) -> None:
        """Started, or done with reloading."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """On the way to the end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(SEND_S)
                channel.connect(self._address)
                channel.send(message.encode())
        except OSError as error:
            log.warning("cannot tell systemd %s: %s", lines[0], error)


def _address(path: str) -> str | None:
    if path.startswith("@"):
        return "\0" + path[1:]  # the abstract namespace
    if path and not path.startswith("/"):
        log.warning("NOTIFY_SOCKET %s is of a kind that is not supported", path)
    return path if path.startswith("/") else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The interval, where it is meant for this process and not for one that inherited the environment."""
    text = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not text.isascii() or not text.isdigit():
        return None
    return int(text[:18]) / 1e6 or None
