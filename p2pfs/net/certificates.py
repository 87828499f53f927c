"""Keys and certificates: the authority that a cluster's secret derives, and what it issues. X.509 by `cryptography`.

Every node derives the same authority: an Ed25519 key by HKDF-SHA256 (RFC 5869) from the secret, and a certificate with
fixed names, serial and dates, which is byte-identical everywhere, since Ed25519 signatures are deterministic.
A node's id is the hash of its public key, in whatever certificate that key is.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = Ed25519PrivateKey
CLIENT = "client"
"""Common name of a client's certificate; a node's is its id."""
DAYS = 3650
"""A certificate's validity: it is issued anew at each start, and what ends a membership is a new secret."""
_INFO = b"p2pfs cluster authority, Ed25519, version 1"
_EPOCH = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
_STRANGE = (InternalError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What `cryptography` raises, beside ValueError, for bytes that it cannot take. TypeError: also without a password."""
_END = datetime.datetime(2125, 1, 1, tzinfo=datetime.UTC)


class Authority(NamedTuple):
    """A cluster's certificate authority."""

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


def _name(common: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "p2pfs"), x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])


def derive_authority(secret: str) -> Authority:
    """The authority of a cluster secret; the same one each time."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO).derive(secret.encode("utf-8"))
    key = Ed25519PrivateKey.from_private_bytes(seed)
    # The subject carries the key's hash: OpenSSL looks authorities up by name, and during a rotation there are two.
    name = _name(f"cluster {node_id_of(public_bytes(key))}")
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
    """A certificate (PEM) for a key, valid from a day before `now`: clocks may differ."""
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name)).issuer_name(authority.certificate.subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


class Bearer(NamedTuple):
    """Whose certificate it is."""

    id: str
    common_name: str
    """`client` for a client; else the first one, or empty: an authority of the operator's own names as it likes."""


def read(der: bytes) -> Bearer:
    """The node id and common name of a certificate that TLS has verified. Raises ValueError."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        subject = certificate.subject
    except _STRANGE as error:
        raise ValueError(f"a version, key or name of an unknown kind: {str(error)[:80]}") from None
    names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # A client among several names, or written as X.520 compares names, is a client: in doubt fewer rights.
    is_client = any(name.strip(" \0").casefold() == CLIENT for name in names)
    return Bearer(node_id_of(public), CLIENT if is_client else "".join(names[:1]))


def read_pem(pem: bytes) -> Bearer:
    """As `read`, of the first certificate in a PEM file. Raises ValueError."""
    return read(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER))
