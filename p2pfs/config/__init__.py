"""How a node is configured: one table of options (`options`), read (`loading`) and printed (`printing`)."""

from p2pfs.config.kinds import Secret, is_loopback, new_secret, split_address
from p2pfs.config.loading import load, reloaded
from p2pfs.config.options import ROWS, SHARED, Config, Row, default_data_dir
from p2pfs.config.printing import to_ini, to_markdown

__all__ = [
    "ROWS", "SHARED", "Config", "Row", "Secret", "default_data_dir", "is_loopback", "load", "new_secret", "reloaded",
    "split_address", "to_ini", "to_markdown",
]
