"""Log lines on standard error: text for people and the journal, JSON for programs.

Text: `2025-01-31T12:00:00.123Z warning p2pfs.node.gossip: member b is dead id=ab12 before=suspect`. A record is one
line, whatever its message holds; only a traceback follows on lines of its own, indented. Under systemd the time is
left to the journal, and the level goes in front in the form that it understands (sd-daemon(3)).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

_NO_EXTRAS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


def set_up(level: str, format: str, stream: IO[str] | None = None, environ: Mapping[str, str] | None = None) -> None:
    """Send all loggers to standard error (or `stream`), from `level` on, as "text" or "json". May be called again."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(is_journal(stream, os.environ if environ is None else environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """True when `stream` goes straight to systemd's journal: JOURNAL_STREAM names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _NO_EXTRAS}


def _time(record: logging.LogRecord) -> str:
    # Cut, not rounded: rounding could print .1000.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.created % 1 * 1000):03d}Z"


def _one_line(text: str) -> str:
    """The text with what could end or forge a line, or command a terminal, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=') else text


class TextFormatter(logging.Formatter):
    """One line a record, for people."""

    def __init__(self, for_journal: bool = False) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an indented traceback where there is one."""
        if self._for_journal:
            head = f"<{next((number for level, number in _PRIORITIES if record.levelno >= level), 7)}>"
        else:
            head = f"{_time(record)} {record.levelname.lower()} "
        parts = [f"{head}{record.name}: {_one_line(record.getMessage())}"]
        parts += [f"{key}={_quoted(value)}" for key, value in _extras(record).items()]
        lines = [" ".join(parts)]
        if record.exc_info:
            lines += map(_one_line, self.formatException(record.exc_info).splitlines())
        return "\n    ".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The object; an extra that has one of our names gets a `_` behind it."""
        fields: dict[str, Any] = {
            "time": _time(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        for key, value in _extras(record).items():
            fields[key + "_" if key in fields else key] = value
        return json.dumps(fields, default=str)
