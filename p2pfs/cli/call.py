"""One run of the command line, and how its verbs word what they print."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from p2pfs import errors
from p2pfs.cli.output import Output, silence_stdout
from p2pfs.crypt import without_key

if TYPE_CHECKING:
    from p2pfs.client import Client

MAX_REF_CHARS = 256 * 1024
ALARM_AFTER_S = 0.2
"""So much later than the command's time an alarm goes off: what knows of the time itself ends before, in good order."""
ALARM_AGAIN_S = 2.0
"""Should what the first alarm interrupts wait again to put its things in order."""


class Call:
    """One run of the command line: its options, its output, and a client that knows how much time is left."""

    def __init__(self, options: dict[str, Any], output: Output) -> None:
        from p2pfs import units

        self.options = options
        self.output = output
        self.timeout_s: float | None = self._value("--timeout", units.parse_duration)
        self._begin_s = time.monotonic()
        self._client: Client | None = None

    def _value(self, option: str, parse: Callable[[str], Any]) -> Any:
        text = self.options[option]
        try:
            return None if text is None else parse(text)
        except errors.UsageError as error:
            raise errors.UsageError(f"{option}: {error}") from None

    @property
    def client(self) -> Client:
        """The client; its next operation has what is left of the command's time."""
        from p2pfs.client import Client

        if self._client is None:
            self._client = Client(
                self.options["--node"], tls_dir=self.options["--tls-dir"], key_file=self.options["--key-file"],
                passphrase=self._passphrase,
            )
        if self.timeout_s is not None:
            self._client.timeout_s = max(0.001, self._begin_s + self.timeout_s - time.monotonic())
        return self._client

    @contextlib.contextmanager
    def in_time(self) -> Iterator[None]:
        """When the command's time is over, say which time: operations know only what was left of it."""
        try:
            if self._is_late():
                raise errors.DeadlinePassed("there is no time left")
            yield
        except errors.DeadlinePassed:
            if not self._is_late():
                raise
            raise errors.DeadlinePassed(f"not done within {self.timeout_s:g} s; give it more with --timeout") from None

    def _is_late(self) -> bool:
        return self.timeout_s is not None and time.monotonic() >= self._begin_s + self.timeout_s

    @contextlib.contextmanager
    def alarm(self) -> Iterator[None]:
        """End what waits for somebody else than the node: a pipe that nobody fills or empties, a prompt, a disk."""
        if self.timeout_s is None:
            yield
            return
        signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s + ALARM_AFTER_S, ALARM_AGAIN_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @functools.cached_property
    def ref(self) -> str:
        """The REF on the command line, or for `-` on standard input."""
        ref = str(self.options["REF"])
        if ref == "-" and sys.stdin is not None:
            ref = sys.stdin.readline(MAX_REF_CHARS).strip()
        return ref

    @property
    def shown_ref(self) -> str:
        """The REF as messages may show it: without a key."""
        return without_key(self.ref)

    @property
    def encrypt(self) -> bool | str | None:
        """How a store is to be encrypted, as `Client.store` takes it; None: as client.ini says."""
        key_file, passphrase_file = self.options["--key-file"], self.options["--passphrase-file"]
        if self.options["--plain"]:
            return False
        if self.options["--passphrase"] or passphrase_file is not None:
            if key_file is not None or self.options["--convergent"]:
                raise errors.UsageError("the key comes from one place: a passphrase, or a key file")
            return "passphrase"
        if self.options["--convergent"]:
            return "convergent"
        if key_file is not None:
            return "key-file"
        return True if self.options["--encrypt"] else None

    def _passphrase(self) -> str | bytes:
        """From a file, the environment, or the terminal; twice there when something is encrypted with it."""
        path = self.options["--passphrase-file"]
        if path is not None:
            from p2pfs.client.secrets import read_secret_file

            return read_secret_file(path).removesuffix(b"\n")
        given = os.environ.get("P2PFS_PASSPHRASE")
        if given or not sys.stderr.isatty():
            return given or ""
        import getpass

        try:
            entered = getpass.getpass("passphrase: ")
            if self.options["store"] and getpass.getpass("again: ") != entered:
                raise errors.UsageError("these were two passphrases; nothing was stored")
        except EOFError:  # Ctrl-D
            raise errors.UsageError("no passphrase was entered") from None
        return entered

    def count(self, option: str) -> int | None:
        """An option that is a whole number, 1 or more."""
        def parse(text: str) -> int:
            if not text.isdecimal() or int(text) < 1:
                raise errors.UsageError(f"{text[:40]!r} is no whole number from 1 on")
            return int(text)

        found: int | None = self._value(option, parse)
        return found

    def size(self, option: str) -> int | None:
        """An option that is a number of bytes, with or without a unit."""
        from p2pfs import units

        found: int | None = self._value(option, units.parse_size)
        return found

    def duration(self, option: str) -> float | None:
        """An option that is a time, in seconds."""
        from p2pfs import units

        found: float | None = self._value(option, units.parse_duration)
        return found

    def close(self) -> None:
        """Close the client, if there was one."""
        if self._client is not None:
            self._client.close()


def _too_late(number: int, frame: object) -> None:
    # It may be standard output that takes nothing: at exit nobody should wait for it once more.
    silence_stdout()
    raise errors.DeadlinePassed("the command's time is over")


def plain(value: Any) -> Any:
    """A typed answer as JSON holds it."""
    from p2pfs.client import parsing

    return parsing.plain(value)


def number(count: int | None) -> str:
    """A plain number for columns that scripts read; `-` for none."""
    return "-" if count is None else str(count)


def size(count: int | None) -> str:
    """Bytes for people."""
    from p2pfs import units

    return "-" if count is None else units.format_size(count)


def sized(count: int | None) -> str:
    """Bytes exactly, and for people where that differs."""
    if count is None:
        return "-"
    return str(count) if count < 1024 else f"{count} ({size(count)})"


def amount(blocks: int, size_bytes: int) -> str:
    """A number of blocks and their size: `12 blocks (12.0 MiB)`."""
    return counted(blocks, "block") + (f" ({size(size_bytes)})" if blocks else "")


def counted(count: int, noun: str) -> str:
    """`1 pin`, `2 pins`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def lasted(seconds: float) -> str:
    """A time for people."""
    from p2pfs import units

    return units.format_duration(max(0.0, seconds))
