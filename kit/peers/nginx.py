"""nginx with TLS 1.3 and curl: one server, one copy, the limit of what TLS and a disk can do here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kit.cluster import free_port
from kit.peers import curl
from kit.peers.peer import Does, Peer, first_line, installed, until
from kit.processes import Cost

CONFIG = """
daemon off; pid nginx.pid; worker_processes auto; error_log error.log; {user}
events {{}}
http {{
    access_log off; client_max_body_size 0; client_body_temp_path temp;
    proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    server {{
        listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3; ssl_certificate cert.pem; ssl_certificate_key key.pem;
        root files; dav_methods PUT; create_full_put_path on;
    }}
}}
"""


class Nginx(Peer):
    """PUT by its DAV module, GET as it is."""

    name = "nginx + curl"
    does = Does("1", "TLS 1.3", "no", "no", "no")
    note = "one server, one copy"
    debian = "nginx-light curl"

    @classmethod
    def version(cls) -> str:
        """Of nginx."""
        installed("curl", cls.debian)
        return first_line([installed("nginx", cls.debian), "-v"]).rpartition("/")[2]

    def start(self) -> None:
        """With a certificate of its own."""
        self.folder.chmod(0o755)
        for name in ("files", "temp", "logs"):
            (self.folder / name).mkdir()
        port = free_port()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
             "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out",
             "cert.pem"],
            cwd=self.folder, check=True, capture_output=True,
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(CONFIG.format(port=port, user=user))
        self.daemon(installed("nginx", self.debian), "-p", str(self.folder), "-c", "nginx.conf")
        self._url = f"https://127.0.0.1:{port}"
        self._curl = ("curl", "--silent", "--cacert", str(self.folder / "cert.pem"))
        until(lambda: subprocess.run([*self._curl, self._url], check=False, capture_output=True).returncode == 0,
              "nginx answers")

    def store(self, source: Path) -> Cost:
        """One PUT."""
        return self.run(*self._curl, "--fail", "--upload-file", str(source), f"{self._url}/{source.name}")

    def fetch(self, source: Path, target: Path) -> Cost:
        """One GET."""
        return self.run(*self._curl, "--fail", "--output", str(target), f"{self._url}/{source.name}")

    def put(self, source: Path) -> Cost:
        """A PUT each."""
        words = curl.uploads(self.folder / "put", sorted(source.iterdir()), f"{self._url}/tree")
        return self.run(*self._curl, *words)

    def get(self, source: Path, target: Path) -> Cost:
        """A GET each."""
        names = sorted(os.listdir(source))
        return self.run(*self._curl, *curl.downloads(self.folder / "get", names, f"{self._url}/tree", target))
