"""How a node is configured: one table of options (`options`), read (`loading`) and printed (`printing`)."""

from p2pfs.config.kinds import Secret, is_loopback, is_wildcard, new_secret, split_address
from p2pfs.config.loading import load, reloaded
from p2pfs.config.options import ROWS, SHARED, Config, Row, default_data_dir
from p2pfs.config.printing import to_ini, to_markdown
from p2pfs.units import (
    exact_duration,
    exact_size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

__all__ = [
    "ROWS", "SHARED", "Config", "Row", "Secret", "default_data_dir", "exact_duration", "exact_size", "format_duration",
    "format_size", "is_loopback", "is_wildcard", "load", "new_secret", "parse_duration", "parse_size", "reloaded",
    "split_address", "to_ini", "to_markdown",
]
