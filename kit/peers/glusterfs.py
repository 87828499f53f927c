"""GlusterFS: a replicated volume of two bricks, mounted twice: written by one mount, read by the other. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from kit.peers.peer import Does, Missing, Peer, first_line, installed, until
from kit.processes import Cost

HOST = "127.0.0.2"
"""Loopback, but not the one address of it that it refuses for a brick. Its port is 24007: bricks know no other."""
LOGS = Path("/var/log/glusterfs/bricks")

CONFIG = """
volume management
    type mgmt/glusterd
    option working-directory {folder}/glusterd
    option run-directory {folder}/run
    option glusterd-sockfile {folder}/glusterd.socket
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address {host}
end-volume
"""


class GlusterFS(Peer):
    """Replica 2 at its defaults; all of it on loopback."""

    name = "GlusterFS"
    does = Does("2", "no", "no", "no", "no")
    note = "cp to one mount, cp from another"
    debian = "glusterfs-server"

    @classmethod
    def version(cls) -> str:
        """Of the daemon."""
        found = first_line([installed("glusterd", cls.debian), "--version"]).split()[1]
        if os.geteuid() or not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Missing("(installed; it mounts by /dev/fuse as root) sudo make bench-peers")
        return found

    def start(self) -> None:
        """Daemon, volume, mounts."""
        for name in ("glusterd", "run", "brick-a", "brick-b", "mount-a", "mount-b"):
            (self.folder / name).mkdir()
        config, self._socket = self.folder / "glusterd.vol", self.folder / "glusterd.socket"
        config.write_text(CONFIG.format(host=HOST, folder=self.folder))
        self.daemon("glusterd", "--no-daemon", f"--volfile={config}",
                    f"--log-file={self.folder}/glusterd.log", f"--pid-file={self.folder}/glusterd.pid")
        until(lambda: self._gluster("pool", "list").returncode == 0, "glusterd answers")
        bricks = [f"{HOST}:{self.folder}/brick-{name}" for name in "ab"]
        self._must("volume", "create", "bench", "replica", "2", *bricks, "force")
        self._must("volume", "start", "bench", "force")
        self._mounts = [self.folder / f"mount-{name}" for name in "ab"]
        for mount in self._mounts:
            self.daemon("glusterfs", "--no-daemon", f"--volfile-server={HOST}", "--volfile-id=bench",
                        f"--log-file={mount}.log", str(mount))
        for mount in self._mounts:
            until(lambda mount=mount: _is_up(mount), "the volume is mounted")
        # Refused until both bricks are connected.
        until(lambda: _is_done(lambda: (self._mounts[0] / "probe").write_bytes(b"probe")), "the volume takes files")

    def _gluster(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["gluster", "--mode=script", f"--glusterd-sock={self._socket}", *words],
                              check=False, capture_output=True, text=True, timeout=120)

    def _must(self, *words: str) -> None:
        done = self._gluster(*words)
        if done.returncode:
            raise RuntimeError(f"gluster {' '.join(words)}: {done.stdout}{done.stderr}")

    def pids(self) -> list[int]:
        """The bricks are no children of their daemon: they wrote down who they are."""
        bricks = [int(path.read_text()) for path in self.folder.glob("run/**/*.pid") if path.read_text().strip()]
        return sorted({*super().pids(), *bricks})

    def stop(self) -> None:
        """The mounts, then the bricks, which would live on."""
        for mount in getattr(self, "_mounts", []):
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
        if hasattr(self, "_socket"):
            self._gluster("volume", "stop", "bench", "force")
        for log in LOGS.glob(str(self.folder).strip("/").replace("/", "-") + "*.log"):
            log.unlink()

    def store(self, source: Path) -> Cost:
        """`cp` to the first mount."""
        return self.run("cp", "-r", str(source), str(self._mounts[0]))

    def fetch(self, source: Path, target: Path) -> Cost:
        """`cp` from the second."""
        return self.run("cp", "-r", str(self._mounts[1] / source.name), str(target))

    put = store
    get = fetch


def _is_up(mount: Path) -> bool:
    """Until the bricks are connected, every question about it is an error."""
    return _is_done(lambda: os.listdir(mount)) and mount.is_mount()


def _is_done(work: Callable[[], object]) -> bool:
    with contextlib.suppress(OSError):
        work()
        return True
    return False
