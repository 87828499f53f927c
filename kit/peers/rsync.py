"""rsync: two daemons, each with a copy; plain TCP."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from kit.cluster import free_port
from kit.peers.peer import Does, Peer, first_line, installed, until
from kit.processes import Cost

CONFIG = """
address = 127.0.0.1
port = {port}
use chroot = no
pid file = {folder}/{name}.pid
log file = {folder}/{name}.log
uid = {uid}
gid = {gid}
[files]
path = {folder}/{name}
read only = no
"""


class Rsync(Peer):
    """Both copies are sent at once; the fetch is from the second daemon."""

    name = "rsync"
    does = Does("2", "no", "its checksum in transit", "no", "no")
    note = "two daemons, sent to both at once"
    debian = "rsync"

    @classmethod
    def version(cls) -> str:
        """Of rsync."""
        return first_line([installed("rsync", cls.debian), "--version"]).split()[2]

    def start(self) -> None:
        """A daemon for each copy."""
        self._urls = []
        for name in ("a", "b"):
            folder, port = self.folder / name, free_port()
            folder.mkdir()
            owner = folder.stat()
            config = self.folder / f"{name}.conf"
            config.write_text(CONFIG.format(
                port=port, folder=self.folder, name=name, uid=owner.st_uid, gid=owner.st_gid,
            ))
            self.daemon("rsync", "--daemon", "--no-detach", f"--config={config}")
            url = f"rsync://127.0.0.1:{port}/files"
            until(lambda url=url: subprocess.run(["rsync", url], check=False, capture_output=True).returncode == 0,
                  "rsync answers")
            self._urls.append(url)

    def store(self, source: Path) -> Cost:
        """To both at once."""
        first, second = (f"rsync -a {shlex.quote(str(source))} {url}/" for url in self._urls)
        return self.run("sh", "-c", f"{first} & one=$!; {second} && wait $one")

    def fetch(self, source: Path, target: Path) -> Cost:
        """From the second."""
        return self.run("rsync", "-a", f"{self._urls[1]}/{source.name}", str(target))

    put = store

    def get(self, source: Path, target: Path) -> Cost:
        """From the second; the slash makes the target the directory itself."""
        return self.run("rsync", "-a", f"{self._urls[1]}/{source.name}/", str(target))
