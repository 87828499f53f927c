"""Text of strangers in messages: what a terminal would obey, or take for a line of ours, is taken out."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def message(text: str) -> str:
    """As `printable`, for what begins with our name: a further line never looks like one of ours."""
    return re.sub(r"\n(?! )", "\n  ", printable(text))
