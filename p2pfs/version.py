"""The version, in one place: setup.cfg, `--version` and the membership rows read it."""

VERSION = "0.1.0"
