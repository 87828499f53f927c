"""`python -m p2pfs.config` prints docs/CONFIGURATION.md."""

from p2pfs.config.printing import to_markdown

print(to_markdown(), end="")
