"""Who gets a member's rights, by the certificate alone: whatever the authority signed."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from p2pfs import errors
from p2pfs.core import rights
from p2pfs.net import certificates, tls
from tests.sockets import material

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ID = certificates.node_id_of(certificates.public_bytes(KEY))
OTHER_ID = certificates.node_id_of(certificates.public_bytes(OTHER))


class Secure:
    """What `party_of` asks of a socket."""

    def __init__(self, der: bytes | None) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._der

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 4640


def certificate(names: tuple[str, ...], key: certificates.Key | ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """What somebody who has the authority can make: any names at all."""
    authority = certificates.derive_authority("a")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names])
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(authority.certificate.subject)
        .public_key(key.public_key()).serial_number(7).not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=1)).sign(authority.key, None)
    ).public_bytes(Encoding.DER)


def peer(der: bytes | None) -> tls.Party:
    return tls.party_of(cast("tls.ssl.SSLSocket", Secure(der)))


def test_ids_are_fixed_for_ever() -> None:
    # By hand: base32 of the first 20 bytes of SHA-256 of 302a300506032b6570032100 and the 32 bytes of the public key.
    assert ID == "ubiig7mfa4cyfthxhffqtceeptbrfs4i"


@pytest.mark.parametrize("names", [(ID,), (OTHER_ID,), ("node1.example.com",), ("local",), ("a", "b"), ()])
def test_a_member_is_known_by_its_key_whatever_its_name(names: tuple[str, ...]) -> None:
    assert peer(certificate(names)) == tls.Party(ID, "member", "127.0.0.1:4640", rights.OF_MEMBER)


def test_a_client_is_no_member_whatever_its_key() -> None:
    for key in (KEY, OTHER, ec.generate_private_key(ec.SECP256R1())):
        assert peer(certificate(("client",), key)) == tls.Party(None, "client", "127.0.0.1:4640", rights.ROLES["admin"])


@pytest.mark.parametrize("names", [
    ("client", ID), (ID, "client"), ("client", "client"), ("CLIENT",), ("client ",), (" client",), ("client\0",),
])
def test_nor_is_one_that_has_a_second_name_or_writes_it_otherwise(names: tuple[str, ...]) -> None:
    assert peer(certificate(names)).kind == "client"


@pytest.mark.parametrize("der", [None, b"", b"no certificate", certificate((ID,))[:-100]])
def test_what_is_no_certificate_is_refused(der: bytes | None) -> None:
    with pytest.raises(errors.IdentityRefused, match="no certificate"):
        peer(der)


def test_the_id_is_that_of_the_whole_public_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert peer(certificate((certificates.node_id_of(public),), key)).kind == "member"


def test_what_p2pfs_issues_is_understood(tmp_path: Path) -> None:
    for is_client, kind in ((False, "member"), (True, "client")):
        pem = Path(material(tmp_path / kind, is_client=is_client).cert).read_bytes()
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        assert peer(der).kind == kind
