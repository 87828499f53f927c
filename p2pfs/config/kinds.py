"""The kinds of values that an option can have: how each is read, printed and explained."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from p2pfs import errors, units

T = TypeVar("T")

SECRET_LEAST = 32
"""Characters. A secret is the only thing between the network and the data, and can be guessed at offline."""


class Secret:
    """A text that no message, log or `repr` shows."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; call it where the text is used, and keep the result nowhere."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "(set)" if self._text else ""


def new_secret() -> str:
    """A fresh cluster secret: 256 bits as 64 hex digits."""
    return secrets.token_hex(32)


@dataclass(frozen=True)
class Kind(Generic[T]):
    """`parse` raises UsageError; `show` gives a text that `parse` reads as the same value."""

    name: str
    allowed: str
    parse: Callable[[str], T]
    show: Callable[[T], str] = str


def _checked(text: str, pattern: str, allowed: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise errors.UsageError(f"{text[:80]!r} is not allowed; allowed: {allowed}")
    return text


def word(allowed: str, pattern: str) -> Kind[str]:
    """A text of a given form."""
    return Kind("text", allowed, lambda text: _checked(text, pattern, allowed))


def choice(*values: str) -> Kind[str]:
    """One of a few words."""
    allowed = ", ".join(values)
    return Kind("choice", allowed, lambda text: _checked(text, "|".join(map(re.escape, values)), allowed))


def _ranged(least: float, most: float, show: Callable[[float], str], value: float) -> None:
    if not least <= value <= most:
        raise errors.UsageError(f"{show(value)} is out of range; allowed: {show(least)} to {show(most)}")


def integer(least: int, most: int) -> Kind[int]:
    """A whole number."""
    allowed = f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        value = int(_checked(text, r"-?[0-9]{1,12}", allowed))
        _ranged(least, most, str, value)
        return value

    return Kind("whole number", allowed, parse)


def number(least: float, most: float) -> Kind[float]:
    """A number with decimals."""
    allowed = f"a number from {least:g} to {most:g}"

    def parse(text: str) -> float:
        value = float(_checked(text, r"-?[0-9]{1,12}(\.[0-9]{1,9})?", allowed))
        _ranged(least, most, "{:g}".format, value)
        return value

    return Kind("number", allowed, parse, repr)


def duration(least: str, most: str) -> Kind[float]:
    """Seconds."""
    least_s, most_s = units.parse_duration(least), units.parse_duration(most)

    def parse(text: str) -> float:
        value = units.parse_duration(text)
        _ranged(least_s, most_s, units.exact_duration, value)
        return value

    return Kind("duration", f"{least} to {most}; {units.DURATION_ALLOWED}", parse, units.exact_duration)


def size(least: str) -> Kind[int]:
    """Bytes."""
    least_bytes = units.parse_size(least)

    def parse(text: str) -> int:
        value = units.parse_size(text)
        if value < least_bytes:
            raise errors.UsageError(f"{text} is too small; allowed: {least} and more")
        return value

    return Kind("size", f"{least} and more; {units.SIZE_ALLOWED}", parse, units.exact_size)


def split_address(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port of a text that an address option took."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """True when only this machine can connect to it."""
    host, _ = split_address(address)
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def is_wildcard(address: str) -> bool:
    """True for an address that means every interface: one can listen there, and nobody can connect to it."""
    host, _ = split_address(address)
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(least_port: int) -> Callable[[str], str]:
    allowed = f"HOST:PORT or [IPv6]:PORT, with a port from {least_port} to 65535"

    def parse(text: str) -> str:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253}):([0-9]{1,5})", text)
        is_good = match is not None and least_port <= int(match[2]) <= 65535
        if match is None or not is_good or (match[1][0] == "[" and not _is_ip(match[1].strip("[]"))):
            raise errors.UsageError(f"{text[:80]!r} is no address; allowed: {allowed}")
        return f"{match[1]}:{int(match[2])}"

    return parse


def _optional(parse: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: parse(text) if text else ""


def _parse_addresses(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(ADDRESS.parse, re.split(r"[\s,]+", text.strip(" ,\n"))))) if text else ()


def _parse_path(text: str) -> Path:
    if not text or "\0" in text or "\n" in text:
        raise errors.UsageError(f"{text[:80]!r} is no path; allowed: {PATH_ALLOWED}")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        # It is not quoted: where a secret's path belongs, it may be the secret.
        raise errors.UsageError("the ~ at its beginning is of nobody with a home here; write the path from / on")
    return Path(os.path.abspath(expanded))


def _parse_mode(text: str) -> int:
    value = int(_checked(text, "0?[0-7]{3}", MODE_ALLOWED), 8)
    if value & 0o600 != 0o600 or value & 0o111:
        raise errors.UsageError(f"{text} is not allowed; allowed: {MODE_ALLOWED}")
    return value


def _parse_secret(text: str) -> Secret:
    # The message must not quote the text: it is a secret, if a bad one.
    if 0 < len(text) < SECRET_LEAST or not text.isprintable() or " " in text:
        raise errors.UsageError(f"that is no secret; allowed: {SECRET_ALLOWED}")
    return Secret(text)


PATH_ALLOWED = "a path; ~ is the home, a relative one starts at the directory that the node was started in"
MODE_ALLOWED = "an octal file mode that lets the owner read and write, such as 0600 or 0660"
SECRET_ALLOWED = f"{SECRET_LEAST} or more characters without spaces; p2pfs-node --new-secret makes one"

ADDRESS = Kind("address", "HOST:PORT or [IPv6]:PORT", _address(1))
OPTIONAL_ADDRESS = Kind("address", "HOST:PORT or [IPv6]:PORT, or empty", _optional(_address(1)))
LISTEN = Kind("address", "HOST:PORT or [IPv6]:PORT; port 0 lets the system choose", _address(0))
ADDRESSES = Kind[tuple[str, ...]]("addresses", "HOST:PORT, separated by commas or spaces", _parse_addresses, ", ".join)
PATH = Kind[Path]("path", PATH_ALLOWED, _parse_path)
OPTIONAL_PATH = Kind[Path | None](
    "path", PATH_ALLOWED + "; or empty", lambda text: _parse_path(text) if text else None, lambda path: str(path or "")
)
MODE = Kind[int]("octal mode", MODE_ALLOWED, _parse_mode, lambda mode: f"{mode:04o}")
SECRET = Kind[Secret]("secret", SECRET_ALLOWED, _parse_secret, repr)
