"""The option table as text: the INI of `--print-config`, and docs/CONFIGURATION.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from p2pfs.config.options import ROWS, SECTIONS, Config, HostDefault, Row

WIDTH = 110
HEAD = """\
# p2pfs node configuration: every option with its meaning and its value.
#
#   p2pfs-node -c FILE                      start a node with it
#   p2pfs-node -c FILE --check-config       say whether it can be used
#   p2pfs-node -c FILE -o section.key=VALUE start with another value; environment: P2PFS_SECTION_KEY=VALUE
#
# Durations: 500ms, 10s, 10m, 24h, 30d. Sizes: 4096, 64KiB, 2GiB, 1GB. A list may go on in indented lines.
# What changes on SIGHUP needs no restart: edit, then `systemctl reload p2pfs-node` or kill -HUP.
"""


def to_ini(config: Config | None = None) -> str:
    """A valid INI of these values; without a config, of the defaults, equal on all machines.

    What depends on the machine, and secrets, are comments. Read again it gives the same config, secrets apart.
    """
    parts = [HEAD]
    for section, cls in SECTIONS.items():
        parts.append(f"\n[{section}]\n# {cls.__doc__}\n")
        parts += [_option(row, config) for row in ROWS.values() if row.section == section]
    return "".join(parts)


def _option(row: Row, config: Config | None) -> str:
    comment = textwrap.wrap(row.help, WIDTH, initial_indent="# ", subsequent_indent="# ")
    default = f"# Default: {_default(row)}{'; changes on SIGHUP' if row.reloadable else ''}"
    return "\n" + "\n".join([*comment, default, _line(row, config)]) + "\n"


def _line(row: Row, config: Config | None) -> str:
    if config is None and isinstance(row.default, HostDefault):
        return f"# {row.key} ="
    text = _default_text(row) if config is None else row.kind.show(config.value(row))
    is_shown = not (row.is_secret and text)
    return f"{row.key} = {text}".rstrip() if is_shown else f"# {row.key} = {text}"


def _default_text(row: Row) -> str:
    return row.default if isinstance(row.default, str) else ""


def _default(row: Row) -> str:
    return row.default.shown if isinstance(row.default, HostDefault) else row.default or "empty"


def to_markdown() -> str:
    """docs/CONFIGURATION.md."""
    return "\n".join(_markdown())


def _markdown() -> Iterator[str]:
    yield "# Configuration\n"
    yield "<!-- Written by `make reference` from p2pfs/config/options.py; a test keeps it equal. -->\n"
    yield (
        "A node takes each option from the first of these that sets it: `-o section.key=value` on its command line, "
        "the environment variable `P2PFS_SECTION_KEY`, the file given with `-c`, the default. "
        "`p2pfs-node -c FILE --print-config` prints what it comes to, `--check-config` only checks it. "
        "Options marked with ↻ change on SIGHUP; the others need a restart.\n"
    )
    for section, cls in SECTIONS.items():
        yield f"## [{section}]\n\n{cls.__doc__}\n"
        for row in ROWS.values():
            if row.section == section:
                yield f"### `{row.name}`{' ↻' if row.reloadable else ''}\n"
                yield f"{row.help}\n"
                yield f"- default: `{_default(row)}`\n- {row.kind.name}: {row.kind.allowed}\n- `{row.variable}`\n"
