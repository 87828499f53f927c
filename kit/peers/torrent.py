"""Makes, seeds and gets a torrent with libtorrent at its defaults, but by TCP, on loopback, without any discovery.

    torrent.py make PATH TORRENT | seed TORRENT FOLDER PORT READY | get TORRENT FOLDER PORT

Runs in the environment of libtorrent: it may import nothing of p2pfs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

TIMEOUT_S = 600


def make(path: str, torrent: str) -> None:
    """Hash a file or a directory."""
    files = lt.file_storage()
    lt.add_files(files, path)
    made = lt.create_torrent(files)
    lt.set_piece_hashes(made, str(Path(path).parent))
    Path(torrent).write_bytes(lt.bencode(made.generate()))


def session(port: str) -> Any:
    """Everything that looks for other peers is off."""
    return lt.session({
        "listen_interfaces": f"127.0.0.1:{port}", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False,
        # Its uTP, which it tries first, yields to everything else: on a loopback with load it crawls.
        "enable_outgoing_utp": False, "enable_incoming_utp": False,
    })


def seed(torrent: str, folder: str, port: str, ready: str) -> None:
    """Until it is ended."""
    here = session(port)
    handle = here.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder})
    while not handle.status().is_seeding:
        time.sleep(0.05)
    Path(ready).touch()
    time.sleep(3600)


def get(torrent: str, folder: str, port: str) -> None:
    """Until all is there and checked."""
    here = session("0")
    handle = here.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder})
    while handle.status().state != lt.torrent_status.downloading:
        time.sleep(0.01)  # a peer that comes while it looks for files would have to come again
    handle.connect_peer(("127.0.0.1", int(port)))
    end = time.monotonic() + TIMEOUT_S
    while not handle.status().is_seeding:
        if time.monotonic() > end:
            raise SystemExit(f"not within {TIMEOUT_S} s: {handle.status().progress:.0%}")
        time.sleep(0.01)
    # What it has in memory goes to the files.
    handle.pause()
    del here


if __name__ == "__main__":
    {"make": make, "seed": seed, "get": get}[sys.argv[1]](*sys.argv[2:])
