"""Keys and certificates: the authority that a cluster's secret derives, and what it issues. X.509 by `cryptography`.

Every node derives the same authority: an Ed25519 key by HKDF-SHA256 (RFC 5869) from the secret, and a certificate with
fixed names, serial and dates, which is byte-identical everywhere, since Ed25519 signatures are deterministic.
An id, a node's or a client's, is the hash of its public key, in whatever certificate that key is. A client's role is an
organizational unit of the subject, `p2pfs-read` say: any authority can issue such certificates.
An invitation's token is a secret as well, and its authority vouches for the node and the guest to each other.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pfs.core import rights
from p2pfs.core.rights import Right

Key = Ed25519PrivateKey
PublicKey = Ed25519PublicKey
CLIENT = "client"
"""Common name of a client's certificate; a node's is its id."""
ROLE = "p2pfs-"
"""What an organizational unit begins with that names a role."""
MAX_REQUEST = 4096
"""Bytes of a request for a certificate."""
DAYS = 3650
"""A certificate's validity: it is issued anew at each start, and what ends a membership is a new secret."""
_EPOCH = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
_STRANGE = (InternalError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What `cryptography` raises, beside ValueError, for bytes that it cannot take. TypeError: also without a password."""
_END = datetime.datetime(2125, 1, 1, tzinfo=datetime.UTC)


class Purpose(NamedTuple):
    """What a secret is for: the same text as two kinds of secret makes two authorities."""

    title: str
    """The first word of the authority's name."""
    info: bytes
    """Of HKDF."""


CLUSTER = Purpose("cluster", b"p2pfs cluster authority, Ed25519, version 1")
INVITATION = Purpose("invitation", b"p2pfs invitation authority, Ed25519, version 1")


class Authority(NamedTuple):
    """The certificate authority of a cluster, or of an invitation."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate; no secret."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hex: the cluster's name for itself."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def name(self) -> str:
        """As `read` gives it for whatever it issued."""
        return self.certificate.subject.rfc4514_string()

    @property
    def id(self) -> str:
        """The hash of its key, which is in its name as well; an invitation's id."""
        return node_id_of(public_bytes(self.key))


def _name(common: str, *more: x509.NameAttribute[str]) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "p2pfs"), *more, x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])


def derive_authority(secret: str, purpose: Purpose = CLUSTER) -> Authority:
    """The authority of a secret; the same one each time."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose.info).derive(secret.encode("utf-8"))
    key = Ed25519PrivateKey.from_private_bytes(seed)
    # The subject carries the key's hash: OpenSSL looks authorities up by name, and during a rotation there are two.
    name = _name(f"{purpose.title} {node_id_of(public_bytes(key))}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(_EPOCH).not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    return Authority(key, certificate)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=False,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )


def new_key() -> bytes:
    """A new Ed25519 private key, PEM (PKCS #8, not encrypted)."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> Key:
    """A key made by `new_key`. Raises ValueError."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except _STRANGE as error:
        raise ValueError(f"it cannot be read: {str(error)[:80]}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def public_bytes(key: Key) -> bytes:
    """The public half as SubjectPublicKeyInfo (DER)."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def node_id_of(public_key: bytes) -> str:
    """The node id of a SubjectPublicKeyInfo: base32 of the first 20 bytes of its SHA-256, 32 characters."""
    return base64.b32encode(hashlib.sha256(public_key).digest()[:20]).decode("ascii").lower()


def issue(authority: Authority, key: Key, common_name: str, now: datetime.datetime, days: int = DAYS) -> bytes:
    """A member's certificate (PEM) for its key, valid from a day before `now`: clocks may differ."""
    both_ways = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    end = now + datetime.timedelta(days=days)
    return _issue(authority, key.public_key(), _name(common_name), both_ways, now, end)


def issue_client(
    authority: Authority, key: PublicKey, name: str, role: str, now: datetime.datetime, end: datetime.datetime
) -> bytes:
    """A client's certificate (PEM), valid from a day before `now`. TLS does not take it for a listener's."""
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, ROLE + role)
    subject = _name(CLIENT, unit, x509.NameAttribute(NameOID.USER_ID, name))
    return _issue(authority, key, subject, [ExtendedKeyUsageOID.CLIENT_AUTH], now, end)


def _issue(
    authority: Authority, key: PublicKey, subject: x509.Name, uses: list[x509.ObjectIdentifier],
    now: datetime.datetime, end: datetime.datetime,
) -> bytes:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(authority.certificate.subject)
        .public_key(key).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def request(key: Key) -> bytes:
    """A request for a certificate (PKCS #10, PEM): proof of having the key. What the subject is, the issuer says."""
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    return made.public_bytes(serialization.Encoding.PEM)


def requested_key(pem: bytes) -> PublicKey:
    """The key that somebody wants a certificate for and proves to have. Raises ValueError, whatever the bytes are."""
    if len(pem) > MAX_REQUEST:
        raise ValueError(f"it has {len(pem)} bytes, at most {MAX_REQUEST}")
    try:
        made = x509.load_pem_x509_csr(pem)
        key = made.public_key()
        is_proven = made.is_signature_valid
    except _STRANGE as error:
        raise ValueError(f"it is of an unknown kind: {str(error)[:80]}") from None
    if not isinstance(key, PublicKey):
        raise ValueError("its key is not an Ed25519 key")
    if not is_proven:
        raise ValueError("it is not signed with the key that it names")
    return key


class Bearer(NamedTuple):
    """Whose certificate it is."""

    id: str
    name: str
    """A client's user id, a member's common name; the first one, or empty."""
    rights: Right | None
    """A client's; None for a member."""
    issuer: str
    """The name of the authority that issued it (RFC 4514)."""
    ends: float
    """Until when it is valid: Unix time."""


def read(der: bytes) -> Bearer:
    """The bearer of a certificate that TLS has verified. Raises ValueError.

    In doubt fewer rights. Who is called `client` in any common name, or has any role, is a client; of several roles
    it has what all of them allow; an unknown one allows nothing; without one it may read.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        subject, issuer = certificate.subject, certificate.issuer.rfc4514_string()
        ends = certificate.not_valid_after_utc.timestamp()
    except _STRANGE as error:
        raise ValueError(f"a version, key or name of an unknown kind: {str(error)[:80]}") from None
    names = _values(subject, NameOID.COMMON_NAME)
    units = map(_plain, _values(subject, NameOID.ORGANIZATIONAL_UNIT_NAME))
    roles = [unit.removeprefix(ROLE) for unit in units if unit.startswith(ROLE)]
    if not roles and CLIENT not in map(_plain, names):
        return Bearer(node_id_of(public), "".join(names[:1]), None, issuer, ends)
    name = "".join(_values(subject, NameOID.USER_ID)[:1])
    return Bearer(node_id_of(public), name, rights.of_roles(roles or ["read"]), issuer, ends)


def _values(subject: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(name.value) for name in subject.get_attributes_for_oid(oid)]


def _plain(name: str) -> str:
    """As X.520 compares names."""
    return name.strip(" \0").casefold()


def read_pem(pem: bytes) -> Bearer:
    """As `read`, of the first certificate in a PEM file. Raises ValueError."""
    return read(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER))
