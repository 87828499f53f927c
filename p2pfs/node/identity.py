"""Who this node is: its key, its certificate under the cluster's authority, and the TLS contexts made of them.

Without a secret in the configuration a node makes one of its own (`own-secret` in its data directory): it is then a
cluster of one, on loopback, that no other node can join and no other user of the machine can talk to.
"""

from __future__ import annotations

import datetime
import logging
import ssl
from pathlib import Path

from p2pfs import errors
from p2pfs.config import Config, new_secret
from p2pfs.net import certificates, tls
from p2pfs.net.certificates import Authority, Key, PublicKey
from p2pfs.private import require_private
from p2pfs.store.files import write_atomically

log = logging.getLogger(__name__)

KEY = "identity.pem"
CLUSTER = "cluster"
"""The file that names the cluster which a data directory belongs to."""


class Identity:
    """Key, certificate and contexts. `reload` takes a changed secret over, which is how secrets are rotated."""

    def __init__(self, data_dir: Path, config: Config, invited: tls.ByInvitation | None = None) -> None:
        """`invited` finds the context for a guest. Raises ConfigError, Refused (the directory is another cluster's)."""
        self._data_dir = data_dir
        self._invited = invited
        self.clusters: tuple[str, ...] = ()
        """Fingerprints of the authorities of the secrets in the configuration; the first is ours."""
        self._issuers: frozenset[str] | None = None
        """The names of the authorities that are accepted; None: the operator's own, known to TLS only."""
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Issue a fresh certificate and make the contexts anew. What is open stays so; see `refusal`."""
        cluster = config.cluster
        if cluster.tls_ca is not None:
            ca, cert, key = (str(path) for path in (cluster.tls_ca, cluster.tls_cert, cluster.tls_key))
            self.id = self._read_id(cert)
            self._authorities: list[Authority] = []
            self.clusters, self._issuers = (), None
        else:
            ca, cert, key = self._issue(config)
        self._server = tls.server_context(ca, cert, key, self._invited)
        self._client = tls.client_context(ca, cert, key)

    def refusal(self, party: tls.Party) -> str | None:
        """Whether the authority that vouched for somebody in the handshake is accepted still. Guests have a time."""
        if self._issuers is None or party.kind in ("local", "guest") or party.issuer in self._issuers:
            return None
        return "the secret behind its certificate is not accepted any more"

    def issue_client(
        self, key: PublicKey, name: str, role: str, now: datetime.datetime, end: datetime.datetime
    ) -> tuple[bytes, bytes]:
        """A client's certificate, and the authorities that it has to trust. Raises Refused when we are no authority."""
        if not self._authorities:
            subject = f"/OU={certificates.ROLE}{role}/CN={certificates.CLIENT}/UID={name}"
            raise errors.Refused(
                "this cluster's authority is your own, and not with the nodes; issue the certificate there, with the "
                f"role in its subject: openssl req -subj '{subject}'"
            )
        certificate = certificates.issue_client(self._authorities[0], key, name, role, now, end)
        return certificate, self._authorities_pem()

    def _authorities_pem(self) -> bytes:
        return b"".join(authority.pem for authority in self._authorities)

    def server_context(self) -> ssl.SSLContext:
        """For accepting connections."""
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """For connecting to members."""
        return self._client

    @staticmethod
    def _read_id(path: str) -> str:
        try:
            return certificates.read_pem(Path(path).read_bytes()).id
        except (OSError, ValueError) as error:
            raise errors.ConfigError(f"[cluster] tls_cert: {path} is no certificate: {error}") from None

    def _issue(self, config: Config) -> tuple[str, str, str]:
        """Write the files that `ssl` reads: ours in `tls`, a client's in `client`."""
        secrets = [secret.reveal() for secret in config.secrets] or [self._own_secret()]
        authorities = [certificates.derive_authority(secret) for secret in secrets]
        self._check_cluster(authorities, is_own=not config.secrets)
        self._authorities = authorities
        ca = self._authorities_pem()
        now = datetime.datetime.now(datetime.UTC)
        key_path = self._data_dir / KEY
        key = self._key(key_path)
        self.id = certificates.node_id_of(certificates.public_bytes(key))
        folder = self._folder("tls")
        _renew(folder / "ca.pem", ca)
        _renew(folder / "cert.pem", certificates.issue(authorities[0], key, self.id, now))
        client = self._folder("client")
        client_key = self._key(client / "key.pem")
        _renew(client / "ca.pem", ca)
        end = now + datetime.timedelta(days=certificates.DAYS)
        _renew(client / "cert.pem", certificates.issue_client(
            authorities[0], client_key.public_key(), "local", "admin", now, end
        ))
        self.clusters = tuple(authority.fingerprint for authority in authorities) if config.secrets else ()
        self._issuers = frozenset(authority.name for authority in authorities)
        return str(folder / "ca.pem"), str(folder / "cert.pem"), str(key_path)

    def _folder(self, name: str) -> Path:
        folder = self._data_dir / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @staticmethod
    def _key(path: Path) -> Key:
        if not path.exists():
            write_atomically(path, certificates.new_key())
        require_private(path, "a private key")
        try:
            return certificates.load_key(path.read_bytes())
        except ValueError as error:
            raise errors.Refused(
                f"{path} is no Ed25519 private key ({error}); restore it, or remove it to become a new node"
            ) from None

    def _own_secret(self) -> str:
        path = self._data_dir / "own-secret"
        if not path.exists():
            write_atomically(path, new_secret().encode("ascii") + b"\n")
        require_private(path, "a secret")
        return path.read_text(encoding="ascii").strip()

    def _check_cluster(self, authorities: list[Authority], is_own: bool) -> None:
        """Refuse a data directory that belongs to another cluster: its blocks and pins would be mixed into ours."""
        path = self._data_dir / CLUSTER
        known = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if known and is_own:
            raise errors.Refused(
                f"{self._data_dir} belongs to a cluster, and no secret is configured; set [cluster] secret_file"
            )
        if known and known not in [authority.fingerprint for authority in authorities]:
            raise errors.Refused(
                f"{self._data_dir} belongs to another cluster: its secret is not among those configured. Set the right "
                f"secret, or another [node] data_dir; to move the node to this cluster for good, remove {path}"
            )
        # A node that was alone has no cluster to be true to: it may join one.
        if not is_own and known != authorities[0].fingerprint:
            write_atomically(path, authorities[0].fingerprint.encode("ascii") + b"\n")
            log.info("this node belongs to the cluster %s", authorities[0].fingerprint[:16])


def _renew(path: Path, pem: bytes) -> None:
    """Write a file that can be made again at any time; on a full disk the one that is there has to do."""
    try:
        write_atomically(path, pem)
    except errors.NoSpace as error:
        if not path.exists():
            raise
        log.warning("%s stays as it was: %s", path, error)
