"""From defaults, file, environment and `-o` to a checked `Config`; each later source wins.

Whatever is wrong is a ConfigError that names the place, the key, what is allowed, and the nearest thing that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from p2pfs import errors
from p2pfs.config import kinds
from p2pfs.config.kinds import Secret
from p2pfs.config.options import ROWS, SECTIONS, Config, Row
from p2pfs.private import require_private

MAX_FILE = 1 << 20
MAX_SOCKET_PATH = 107
"""Bytes that fit into sockaddr_un.sun_path on Linux with its final zero (unix(7))."""


class Setting(NamedTuple):
    """A value as it was written, and where."""

    text: str
    place: str


def load(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration of a node. `overrides` are `section.key=value`; `environ` is os.environ unless given.

    Raises ConfigError for anything that cannot be used, a secret that others can read among it.
    """
    environ = os.environ if environ is None else environ
    settings: dict[str, Setting] = {}
    if path is not None:
        settings |= _from_file(os.fspath(path), environ)
    settings |= _from_environment(environ)
    settings |= _from_overrides(overrides)
    config = checked(settings, environ)
    return dataclasses.replace(config, secrets=_secrets(config, settings, environ))


def reloaded(old: Config, new: Config) -> tuple[Config, list[Row], list[Row]]:
    """`old` with what may change on SIGHUP taken from `new`; the rows that did; those that wait for a restart.

    Raises ConfigError when the mixture contradicts itself.
    """
    differing = [row for row in ROWS.values() if old.value(row) != new.value(row)]
    sections = {
        section: dataclasses.replace(
            getattr(old, section),
            **{row.key: new.value(row) for row in differing if row.section == section and row.reloadable},
        )
        for section in SECTIONS
    }
    merged = dataclasses.replace(old, secrets=new.secrets, **sections)
    _check_together(merged, {})
    applied = [row for row in differing if row.reloadable]
    if old.secrets != new.secrets and not any(row.name.startswith("cluster.secret") for row in applied):
        applied.append(ROWS["cluster.secret_file"])  # another content under the same name
    return merged, applied, [row for row in differing if not row.reloadable]


# --- the sources -------------------------------------------------------------------------------------

def _from_file(path: str, environ: Mapping[str, str]) -> dict[str, Setting]:
    settings = parse_text(_read(path, "configuration file"), path)
    if settings.get("cluster.secret", Setting("", "")).text:
        _refuse_readable(path, environ)
    return settings


def parse_text(text: str, path: str) -> dict[str, Setting]:
    """The settings of a configuration file, by `section.key`; `path` is for messages. Raises ConfigError.

    INI as `configparser` reads it, whose time grows with the square of some files: `[section]`, `key = value`, comments
    on lines of their own after # or ;, and a value goes on in the lines that are further to the right.
    """
    values: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    sections: set[str] = set()
    section = name = ""
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        content, place = line.strip(), f"{path} line {number}"
        indent = len(line) - len(line.lstrip())
        if not content or content[0] in "#;":
            name = ""
        elif name and indent > depth:
            values[name].append(content)
        elif match := re.match(r"\[(.+)\]", content):
            section, name = _section(match[1], sections, place), ""
        else:
            key, equals, value = content.partition("=")
            name, depth = _name(section, key.strip().lower() if equals else "", values, place), indent
            values[name], places[name] = [value.strip()], place
    return {name: Setting("\n".join(lines), places[name]) for name, lines in values.items()}


def _section(section: str, sections: set[str], place: str) -> str:
    if section in sections:
        raise errors.ConfigError(f"{place}: [{section}] is there twice")
    if section not in SECTIONS:
        raise errors.ConfigError(f"{place}: there is no section [{section[:40]}]{_near(section, SECTIONS)}")
    sections.add(section)
    return section


def _name(section: str, key: str, known: Container[str], place: str) -> str:
    if not section:
        raise errors.ConfigError(f"{place}: this stands before the first [section]")
    if not key:
        # The line itself may be a secret.
        raise errors.ConfigError(f"{place}: neither a [section] nor key = value")
    name = _row(section, key, place).name
    if name in known:
        raise errors.ConfigError(f"{place}: {key} is there twice in [{section}]")
    return name


def _from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    by_variable = {row.variable: row for row in ROWS.values()}
    settings = {}
    for variable, value in environ.items():
        if not variable.startswith(tuple(f"P2PFS_{section.upper()}_" for section in SECTIONS)):
            continue
        if variable not in by_variable:
            raise errors.ConfigError(
                f"environment variable {variable[:80]} sets no option{_near(variable, by_variable)}"
            )
        settings[by_variable[variable].name] = Setting(value, f"environment variable {variable}")
    return settings


def _from_overrides(overrides: Iterable[str]) -> dict[str, Setting]:
    settings = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            # The rest is not quoted: without a = it may be a secret.
            begin = re.match(rf"(?:{'|'.join(SECTIONS)})\.[a-z_]{{1,30}}|", name.strip())
            raise errors.ConfigError(f"-o {begin[0] if begin else ''}…: write it as -o section.key=value")
        if section not in SECTIONS:
            raise errors.ConfigError(f"-o {name[:80]}: there is no section {section[:40]}{_near(section, SECTIONS)}")
        settings[_row(section, key, "-o").name] = Setting(value, "-o")
    return settings


def _row(section: str, key: str, place: str) -> Row:
    row = ROWS.get(f"{section}.{key}")
    if row is not None:
        return row
    in_section = [row.key for row in ROWS.values() if row.section == section]
    elsewhere = [f"[{row.section}] {row.key}" for row in ROWS.values() if row.key == key]
    hint = f"; did you mean {elsewhere[0]}?" if elsewhere else _near(key, in_section)
    raise errors.ConfigError(f"{place}: [{section}] has no option {key[:40]}{hint}")


def _near(wrong: str, known: Iterable[str]) -> str:
    names = list(known)
    found = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(names)}"


# --- values, alone and together ----------------------------------------------------------------------

def checked(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> Config:
    """The settings, and defaults for the others, without what secret files hold. Raises ConfigError."""
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for row in ROWS.values():
        setting = settings.get(row.name) or Setting(row.default_text(environ), "default")
        try:
            values[row.section][row.key] = row.kind.parse(setting.text.strip())
        except errors.UsageError as error:
            raise errors.ConfigError(f"{setting.place}: {row.name}: {error}") from None
    config = Config(**{section: cls(**values[section]) for section, cls in SECTIONS.items()})
    _check_together(config, settings)
    return config


def _check_together(config: Config, settings: Mapping[str, Setting]) -> None:
    """Raise ConfigError for values that contradict each other."""
    node, cluster, repair = config.node, config.cluster, config.repair

    def refuse(name: str, message: str) -> None:
        place = f"{settings[name].place}: " if name in settings else ""
        raise errors.ConfigError(place + message)

    if cluster.write_quorum > cluster.replicas:
        refuse("cluster.write_quorum", (
            f"cluster.write_quorum = {cluster.write_quorum} asks for more copies than "
            f"cluster.replicas = {cluster.replicas} makes"
        ))
    if repair.probe_timeout > repair.probe_interval:
        refuse("repair.probe_timeout", "repair.probe_timeout must not be longer than repair.probe_interval")
    if cluster.secret and cluster.secret_file:
        refuse("cluster.secret_file", "set cluster.secret or cluster.secret_file, not both")
    tls = {"tls_cert": cluster.tls_cert, "tls_key": cluster.tls_key, "tls_ca": cluster.tls_ca}
    missing = [f"cluster.{key}" for key, path in tls.items() if path is None]
    has_secret = bool(cluster.secret or cluster.secret_file)
    if 0 < len(missing) < len(tls):
        refuse(missing[0], f"tls_cert, tls_key and tls_ca go together; missing: {', '.join(missing)}")
    if has_secret and not missing:
        refuse("cluster.tls_ca", "set a cluster secret or tls_cert, tls_key and tls_ca, not both")
    if not has_secret and missing:
        how = "set cluster.secret_file (p2pfs-node --new-secret makes a secret), or tls_cert, tls_key and tls_ca"
        if not kinds.is_loopback(node.listen):
            refuse("node.listen", f"node.listen = {node.listen} lets other machines in without proof: {how}")
        if cluster.seeds:
            refuse("cluster.seeds", f"cluster.seeds need a way to prove who belongs to the cluster: {how}")
    if kinds.is_wildcard(node.listen) and not node.advertise:
        refuse("node.listen", (
            f"node.listen = {node.listen} is every interface: set node.advertise to the address that the other "
            "nodes can reach"
        ))
    if node.advertise and kinds.is_wildcard(node.advertise):
        refuse("node.advertise", f"node.advertise = {node.advertise} is no address that anybody can connect to")
    if len(os.fsencode(config.control_path)) > MAX_SOCKET_PATH:
        refuse("node.control", (
            f"the control socket's path is longer than {MAX_SOCKET_PATH} bytes: {config.control_path}; "
            "set node.control to a shorter one"
        ))


def _secrets(config: Config, settings: Mapping[str, Setting], environ: Mapping[str, str]) -> tuple[Secret, ...]:
    cluster = config.cluster
    for name, file in (("cluster.secret_file", cluster.secret_file), ("cluster.tls_key", cluster.tls_key)):
        if file is not None:
            _find(file, name, settings[name].place)
    for path in (cluster.tls_cert, cluster.tls_ca):
        if path is not None:
            _read(str(path), "certificate file")
    if cluster.tls_key is not None:
        _refuse_readable(str(cluster.tls_key), environ)
    if cluster.secret_file is None:
        return (cluster.secret,) if cluster.secret else ()
    return _secrets_of(cluster.secret_file, environ)


def _find(path: Path, name: str, place: str) -> None:
    """Raise ConfigError when there is no such file. What was typed is not quoted: it may be the secret itself."""
    try:
        path.stat()
    except OSError as error:
        raise errors.ConfigError(f"{place}: {name} is not the path of a file: {error.strerror}") from None


def _secrets_of(path: Path, environ: Mapping[str, str]) -> tuple[Secret, ...]:
    _refuse_readable(str(path), environ)
    secrets = []
    for number, line in enumerate(_read(str(path), "secret file").split("\n"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                secrets.append(kinds.SECRET.parse(text))
            except errors.UsageError as error:
                raise errors.ConfigError(f"{path} line {number}: {error}") from None
    if not secrets:
        raise errors.ConfigError(f"{path} holds no secret; p2pfs-node --new-secret makes one")
    return tuple(dict.fromkeys(secrets))


def _read(path: str, what: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError) and what == "configuration file"
        hint = "; p2pfs-node --print-config prints one, init and join write one" if is_missing else ""
        raise errors.ConfigError(f"cannot read the {what} {path}: {error.strerror}{hint}") from None
    if len(data) > MAX_FILE:
        raise errors.ConfigError(f"the {what} {path} is longer than {MAX_FILE} bytes")
    return decode(data, what, path)


def decode(data: bytes, what: str, path: str) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.ConfigError(f"the {what} {path} is no UTF-8 text (byte {error.start})") from None


def _refuse_readable(path: str, environ: Mapping[str, str]) -> None:
    """Raise ConfigError when group or others may read a file that holds a secret."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials and os.path.dirname(os.path.abspath(path)) == os.path.abspath(credentials):
        return  # systemd grants the service access by an ACL, whose mask looks like the group's right to read
    require_private(path, "a secret")
