"""The user's secrets for encryption: client.ini, the key file, the passphrase. None of them leaves this process."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from p2pfs import errors
from p2pfs.client.files import local_errors, local_path

if TYPE_CHECKING:
    from p2pfs.crypt.links import Link

KINDS = ("link", "key-file", "passphrase", "convergent")
"""Where the key of what is stored comes from."""
MAX_SECRET_BYTES = 4096
Passphrase = str | bytes | Callable[[], str | bytes]


def settings_path() -> str:
    """Where the client's configuration is, if there is one."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = base if os.path.isabs(base) else os.path.expanduser("~/.config")  # a relative one is invalid, says XDG
    return os.path.join(home, "p2pfs", "client.ini")


class Settings(NamedTuple):
    """The section [store] of client.ini."""

    encrypt: str = "never"
    """never, or always."""
    key: str = "link"
    """Where the key comes from when a store is encrypted: link, key-file, passphrase or convergent."""
    key_file: str | None = None
    """The key file, for storing and reading."""


def read_settings(path: str | None = None) -> Settings:
    """client.ini; without it the defaults. Raises ConfigError for what it should not hold, or cannot be reached."""
    path = path or settings_path()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_SECRET_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):  # HOME=/dev/null, as some services have it
        # A volume that is not mounted, say: what it says may be that nothing leaves this machine in plain.
        for way in (path, os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
            if os.path.islink(way) and not os.path.exists(way):
                raise errors.ConfigError(f"{path}: {way} is a symbolic link that leads nowhere") from None
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None
    import configparser  # here, as few users have the file

    # Without a name for defaults, [DEFAULT] is a section like others, and so unknown.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        if len(text) > MAX_SECRET_BYTES:
            raise configparser.Error(f"over {MAX_SECRET_BYTES} characters")
        parser.read_string(text, path)
    except configparser.Error as error:
        # The line's number and not its text: that may be a secret in the wrong place.
        numbers = [number for number, _ in getattr(error, "errors", ())] or [getattr(error, "lineno", None)]
        where = f"{path} line {numbers[0]}" if numbers[0] else path
        raise errors.ConfigError(f"{where}: {str(error).splitlines()[0]}") from None
    for section in parser.sections():
        for key in parser[section] if section == "store" else ("",):
            if section != "store" or key not in Settings._fields:
                raise errors.ConfigError(f"{path}: [{section}] {key}: known are [store] {', '.join(Settings._fields)}")
    given = dict(parser["store"]) if parser.has_section("store") else {}
    settings = Settings(**given)
    for key, allowed in (("encrypt", ("never", "always")), ("key", KINDS)):
        if getattr(settings, key) not in allowed:
            raise errors.ConfigError(f"{path}: {key} = {getattr(settings, key)}: give {' or '.join(allowed)}")
    return settings._replace(key_file=os.path.expanduser(settings.key_file) if settings.key_file else None)


class Secrets:
    """Where a client finds them; they are looked for when they are needed, and once."""

    def __init__(self, key_file: str | os.PathLike[str] | None, passphrase: Passphrase | None) -> None:
        self._key_file = key_file
        self._passphrase = passphrase
        self._settings: Settings | None = None
        self._secret: bytes | None = None
        self._last: tuple[bytes, int, bytes] | None = None

    @property
    def settings(self) -> Settings:
        """client.ini."""
        if self._settings is None:
            self._settings = read_settings()
        return self._settings

    def kind(self, encrypt: bool | str | None) -> str | None:
        """Which of KINDS a store asks for; None: it is not to be encrypted. Raises UsageError, ConfigError."""
        if encrypt is None:
            encrypt = self.settings.encrypt == "always"
        if encrypt is True:
            return self.settings.key
        if encrypt is not False and encrypt not in KINDS:
            raise errors.UsageError(f"encrypt = {encrypt!r}: give True, False or one of {', '.join(KINDS)}")
        return encrypt or None

    def root_key(self, link: Link) -> bytes:
        """The key of the root that a link names. Raises what `key_file` and `passphrase` raise."""
        if link.kind == "link":
            return link.value
        from p2pfs.crypt import keys

        if link.kind == "key-file":
            return keys.key_of_file(self.key_file(), link.value)
        # One guess takes half a second and 128 MiB, on purpose; the same link is often used twice in a row.
        if self._last is None or self._last[:2] != (link.value, link.log_n):
            key = keys.key_of_passphrase(self.passphrase(), link.value, link.log_n)
            self._last = link.value, link.log_n, key
        return self._last[2]

    def key_file(self) -> bytes:
        """The secret in the key file. Raises UsageError without one, NotFound, Refused for loose permissions."""
        if self._secret is None:
            path = self._key_file or self.settings.key_file
            if path is None:
                raise errors.UsageError(
                    "this takes a key file: name it with --key-file, or as key_file in client.ini; one is made by "
                    "(umask 077; openssl rand -hex 32 > FILE)"
                )
            self._secret = read_key_file(local_path(path))
        return self._secret

    def passphrase(self) -> bytes:
        """The passphrase. Raises UsageError without one."""
        given = self._passphrase() if callable(self._passphrase) else self._passphrase
        if not given:
            raise errors.UsageError("this takes a passphrase: on a terminal, in a file, or in $P2PFS_PASSPHRASE")
        self._passphrase = given
        return given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given


def read_secret_file(path: str) -> bytes:
    """What is in a file that only its owner may read. Raises NotFound; Refused when others may, with the remedy."""
    with local_errors(path), open(path, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (os.geteuid(), 0):
            raise errors.Refused(f"{path}: it is not yours alone; to make it so: chmod 600 {path}")
        data = b""
        while len(data) <= MAX_SECRET_BYTES and (piece := file.read(MAX_SECRET_BYTES + 1)):
            data += piece
    if len(data) > MAX_SECRET_BYTES:
        raise errors.UsageError(f"{path}: over {MAX_SECRET_BYTES} bytes; is it the right file?")
    return data


def read_key_file(path: str) -> bytes:
    """The 32 bytes of a key file. Raises NotFound, Refused, UsageError."""
    from p2pfs.crypt.keys import parse_key_file

    try:
        return parse_key_file(read_secret_file(path))
    except errors.UsageError as error:
        raise errors.UsageError(f"{path}: {error}") from None
