"""Syncthing: two devices that share a folder; one gets what the other has."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kit.cluster import free_port, wait_until
from kit.peers.peer import Does, Peer, first_line, installed, until
from kit.processes import Cost

ALONE = {
    "globalAnnounceEnabled": "false", "localAnnounceEnabled": "false", "relaysEnabled": "false", "natEnabled": "false",
    "startBrowser": "false", "crashReportingEnabled": "false", "autoUpgradeIntervalH": "0", "urAccepted": "-1",
}
"""Nothing looks for anybody but the other device."""
TIMEOUT_S = 600.0


class Device:
    """One `syncthing` with a folder."""

    def __init__(self, home: Path, program: str) -> None:
        self.home, self.folder, self.program = home, home / "shared", program
        self.address, self.gui = f"tcp://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.folder.mkdir(parents=True)
        subprocess.run([program, "generate", f"--home={home}", "--no-default-folder", "--skip-port-probing"],
                       check=True, capture_output=True)
        self._config = home / "config.xml"
        text = self._config.read_text()
        self.id, self._key = re.findall(r'<device id="([^"]+)"', text)[0], re.findall("<apikey>(.+)</apikey>", text)[0]

    def share_with(self, other: Device) -> None:
        """Write the configuration: the folder, both devices, loopback."""
        text = self._config.read_text()
        for option, value in ALONE.items():
            text = re.sub(f"<{option}>.*</{option}>", f"<{option}>{value}</{option}>", text)
        text = text.replace("127.0.0.1:8384", self.gui)
        text = text.replace("<listenAddress>default", f"<listenAddress>{self.address}")
        members = "".join(f'<device id="{it.id}"></device>' for it in (self, other))
        shared = f'<folder id="bench" label="bench" path="{self.folder}" type="sendreceive">{members}</folder>'
        known = f'<device id="{other.id}" name="other"><address>{other.address}</address></device>'
        self._config.write_text(re.sub("(<configuration[^>]*>)", rf"\1{shared}{known}", text, count=1))

    def ask(self, path: str, method: str = "GET") -> Any:
        """One call of the REST interface."""
        request = urllib.request.Request(f"http://{self.gui}/rest/{path}", method=method,
                                         headers={"X-API-Key": self._key})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read() or b"null")

    def is_connected(self) -> bool:
        """To the other device; False as well while it starts."""
        try:
            return any(it["connected"] for it in self.ask("system/connections")["connections"].values())
        except (urllib.error.URLError, ConnectionError):
            return False

    def has_all(self, files: int) -> bool:
        """Knows of so many files and has them."""
        status = self.ask("db/status?folder=bench")
        return bool(status["globalFiles"] == files and not status["needTotalItems"] and status["state"] == "idle")


class Syncthing(Peer):
    """There is no store: a fetch begins with the scan of the file where it is, ends when the other device has it."""

    name = "Syncthing"
    does = Does("1", "TLS 1.3", "SHA-256", "yes", "within a folder's files")
    note = "scan at one and sync to the other, together"
    debian = "syncthing"

    @classmethod
    def version(cls) -> str:
        """Of syncthing."""
        return first_line([installed("syncthing", cls.debian), "--version"]).split()[1].lstrip("v")

    def start(self) -> None:
        """Two devices that know each other."""
        program = installed("syncthing", self.debian)
        self._here, self._there = (Device(self.folder / name, program) for name in ("a", "b"))
        self._files = 0
        self._here.share_with(self._there)
        self._there.share_with(self._here)
        for device in (self._here, self._there):
            self.daemon(program, f"--home={device.home}", "--no-browser", "--no-upgrade")
        until(lambda: self._here.is_connected() and self._there.is_connected(), "the devices are connected")
        until(lambda: self._there.has_all(0), "the empty folder is in sync")

    def fetch(self, source: Path, target: Path) -> Cost:
        """A hard link into the folder, so that nothing is copied here."""
        return self._sync(source, target, 1)

    def get(self, source: Path, target: Path) -> Cost:
        """All files of the directory."""
        return self._sync(source, target, sum(1 for _ in source.iterdir()))

    def _sync(self, source: Path, target: Path, files: int) -> Cost:
        subprocess.run(["cp", "-rl", str(source), str(self._here.folder)], check=True)
        self._files += files

        def sync() -> None:
            self._here.ask("db/scan?folder=bench", "POST")
            wait_until(lambda: self._there.has_all(self._files), TIMEOUT_S, "the other device has all")

        cost = self.call(sync)
        subprocess.run(["cp", "-rl", str(self._there.folder / source.name), str(target)], check=True)
        return cost
