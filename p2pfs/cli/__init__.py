"""`p2pfs-cli`: the command line. `main` is all that others call."""

from p2pfs.cli.command import main

__all__ = ["main"]
