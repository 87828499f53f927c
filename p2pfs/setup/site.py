"""The files of a new node: the secret, the identity in the data directory, and the configuration that names both.

The configuration comes last, so that what was cut off is no node yet and can be begun again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from p2pfs import errors
from p2pfs.config import Config, load, new_secret, to_ini
from p2pfs.node.identity import CLUSTER, Identity
from p2pfs.store.files import disk_error, lock_data_dir, prepare_data_dir, write_atomically

SECRET_FILE = "secret"
LISTEN = "node.listen"
_MADE_HERE = ("cluster.secret", "cluster.secret_file", "cluster.tls_")


class Site:
    """Where a new node is to be. Making one of these changes nothing."""

    def __init__(self, path: str, options: Iterable[str]) -> None:
        """`path` is the configuration file, `options` are `section.key=value`.

        Raises Refused when the file is there already, ConfigError for options that cannot be used.
        """
        self.path = path
        self.options = list(options)
        self.file = Path(os.path.abspath(os.path.expanduser(path)))
        self.secret_file = self.file.parent / SECRET_FILE
        if is_there(self.file):
            raise errors.Refused(
                f"{path} is there already: p2pfs-node -c {shlex.quote(path)} starts its node; for another node, "
                "name another file in another folder with -c"
            )
        for option in self.options:
            for name in _MADE_HERE:
                if option.strip().startswith(name):  # the rest may be a secret, with an = or without
                    raise errors.ConfigError(f"-o {name}…: the secret goes to {self.secret_file}")

    def draft(self) -> Config:
        """What the configuration will be, with a secret that is nobody's. Raises ConfigError."""
        return load(None, [*self.options, f"cluster.secret={new_secret()}"])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The folders are there, can be written to, and no node uses them until the end of the block.

        Raises ConfigError, Refused.
        """
        draft = self.draft()
        data_dir = draft.node.data_dir
        try:
            f"{self.secret_file}{to_ini(draft)}".encode()
        except UnicodeEncodeError:
            raise errors.ConfigError(
                "a path that is no UTF-8 text cannot stand in a configuration file; name another one"
            ) from None
        if is_there(data_dir / CLUSTER) and not is_there(self.secret_file):
            raise errors.Refused(
                f"{data_dir} belongs to a cluster already: put its secret into {self.secret_file} to go on with it, "
                "or name another folder with -o node.data_dir=DIR"
            )
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(f"cannot make {self.file.parent}", error) from error
        prepare_data_dir(data_dir)
        lock = lock_data_dir(data_dir)
        try:
            yield
        finally:
            lock.close()

    def settle(self, secrets: Iterable[str], options: Iterable[str] = ()) -> tuple[Config, Identity]:
        """Write all of it; `options` come before those that were given. A secret file that is there stays.

        Raises ConfigError, Refused (the data directory is another cluster's), NoSpace.
        """
        if not is_there(self.secret_file):
            write_atomically(self.secret_file, "".join(f"{secret}\n" for secret in secrets).encode("utf-8"))
        config = load(None, [*options, *self.options, f"cluster.secret_file={self.secret_file}"])
        identity = Identity(config.node.data_dir, config)
        write_atomically(self.file, to_ini(config).encode("utf-8"))
        return config, identity

    def summary(self, config: Config) -> list[str]:
        """Lines that tell what was written, and how the node is started."""
        width = max(len(str(path)) for path in (self.file, self.secret_file, config.node.data_dir)) + 2
        lines = [
            f"  {self.file!s:<{width}}configuration, every option explained",
            f"  {self.secret_file!s:<{width}}the cluster's secret: who can read it is a member",
            f"  {config.node.data_dir!s:<{width}}data, and this node's identity",
        ]
        if os.geteuid() == 0:
            lines += ["All of it is root's: give it to the user that the node will run as (chown -R)."]
        return [*lines, "", "Start it:", f"  p2pfs-node -c {shlex.quote(self.path)}"]


def is_there(path: Path) -> bool:
    """True when there is such a file. Raises Refused when this user may not look, or there can be none."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise disk_error(f"cannot look for {path}", error) from error
    return True
