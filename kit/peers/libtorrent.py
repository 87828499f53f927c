"""libtorrent: a seeder and a leecher; `kit/peers/torrent.py` is the program, run by the environment of the package."""

from __future__ import annotations

from pathlib import Path

from kit.cluster import ROOT, free_port
from kit.peers.peer import Does, Peer, environment, first_line, until
from kit.processes import Cost

PACKAGE = "libtorrent"
PROGRAM = str(ROOT / "kit" / "peers" / "torrent.py")


class Libtorrent(Peer):
    """A store is making the torrent, which reads and hashes the file; a fetch is one leecher with one seeder."""

    name = "libtorrent"
    does = Does("1", "no", "SHA-256 / SHA-1", "no", "no")
    note = "store is only hashing: no copy is made; TCP only"
    pypi = PACKAGE

    @classmethod
    def version(cls) -> str:
        """Of the library."""
        return first_line([*cls._python(), "-c", "import libtorrent; print(libtorrent.__version__)"])

    @staticmethod
    def _python() -> list[str]:
        # -P: without the program's folder in the path, where this module is, which has the name of the package.
        return [environment(PACKAGE, "python"), "-P", "-W", "ignore"]

    def _torrent(self, source: Path) -> Path:
        return self.folder / f"{source.name}.torrent"

    def store(self, source: Path) -> Cost:
        """Make the torrent, then seed it: the seeder's start is not part of the time."""
        torrent, port = self._torrent(source), free_port()
        cost = self.run(*self._python(), PROGRAM, "make", str(source), str(torrent))
        ready = torrent.with_suffix(".ready")
        self.daemon(*self._python(), PROGRAM, "seed", str(torrent), str(source.parent), str(port), str(ready))
        until(ready.exists, "the seeder has checked its file")
        self._port = port
        return cost

    def fetch(self, source: Path, target: Path) -> Cost:
        """By a leecher that knows nobody but the seeder."""
        target.parent.mkdir(exist_ok=True)
        place = self.folder / f"{target.name}.leech"
        cost = self.run(*self._python(), PROGRAM, "get", str(self._torrent(source)), str(place), str(self._port))
        (place / source.name).rename(target)
        return cost

    put = store
    get = fetch
