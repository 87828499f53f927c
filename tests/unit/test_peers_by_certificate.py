"""Who gets a member's rights, by the certificate alone: whatever the authority signed."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import rights
from p2pfs.core.rights import Right
from p2pfs.net import certificates, tls
from tests.sockets import material

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ID = certificates.node_id_of(certificates.public_bytes(KEY))
OTHER_ID = certificates.node_id_of(certificates.public_bytes(OTHER))


def spki(key: certificates.Key | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Secure:
    """What `party_of` asks of a socket."""

    context = None

    def __init__(self, der: bytes | None) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._der

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 4640


def certificate(
    names: tuple[str, ...], key: certificates.Key | ec.EllipticCurvePrivateKey = KEY, units: tuple[str, ...] = (),
) -> bytes:
    """What somebody who has the authority can make: any names and units at all."""
    authority = certificates.derive_authority("a")
    subject = x509.Name([
        *(x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names),
        *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit, _validate=False) for unit in units),
    ])
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(authority.certificate.subject)
        .public_key(key.public_key()).serial_number(7).not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=1)).sign(authority.key, None)
    ).public_bytes(Encoding.DER)


def peer(der: bytes | None) -> tls.Party:
    return tls.party_of(cast("tls.ssl.SSLSocket", Secure(der)))._replace(issuer="", ends=math.inf)


def test_ids_are_fixed_for_ever() -> None:
    # By hand: base32 of the first 20 bytes of SHA-256 of 302a300506032b6570032100 and the 32 bytes of the public key.
    assert ID == "ubiig7mfa4cyfthxhffqtceeptbrfs4i"


@pytest.mark.parametrize("names", [(ID,), (OTHER_ID,), ("node1.example.com",), ("local",), ("a", "b"), ()])
def test_a_member_is_known_by_its_key_whatever_its_name(names: tuple[str, ...]) -> None:
    assert peer(certificate(names)) == tls.Party(ID, "member", "127.0.0.1:4640", rights.OF_MEMBER)


def test_a_client_is_no_member_whatever_its_key() -> None:
    for key in (KEY, OTHER, ec.generate_private_key(ec.SECP256R1())):
        assert peer(certificate(("client",), key)) == tls.Party(
            certificates.node_id_of(spki(key)), "client", "127.0.0.1:4640", Right.READ
        )


@pytest.mark.parametrize("names", [
    ("client", ID), (ID, "client"), ("client", "client"), ("CLIENT",), ("client ",), (" client",), ("client\0",),
])
def test_nor_is_one_that_has_a_second_name_or_writes_it_otherwise(names: tuple[str, ...]) -> None:
    assert peer(certificate(names)).kind == "client"


@pytest.mark.parametrize(("units", "rights"), [
    (("p2pfs-read",), Right.READ),
    (("p2pfs-store",), Right.READ | Right.STORE),
    (("p2pfs-admin",), Right.READ | Right.STORE | Right.ADMINISTER),
    # A unit of the company's own has no say, whatever it is called.
    (("admin",), Right.READ), (("Engineering", "p2pfs-store"), Right.READ | Right.STORE),
    # Written as X.520 compares names.
    (("P2PFS-Store ",), Right.READ | Right.STORE), (("p2pfs-store\0",), Right.READ | Right.STORE),
    # Of several the least; an unknown one, of a newer version say, allows nothing.
    (("p2pfs-admin", "p2pfs-read"), Right.READ), (("p2pfs-root",), Right(0)), (("p2pfs-",), Right(0)),
    (("p2pfs-admin", "p2pfs-root"), Right(0)), (("p2pfs-admin-2",), Right(0)),
])
def test_a_role_is_a_unit_of_the_subject(units: tuple[str, ...], rights: Right) -> None:
    assert peer(certificate(("client",), units=units)).rights == rights


@given(st.lists(st.sampled_from(["read", "store", "admin", "other", ""]), min_size=1))
def test_another_role_takes_rights_away_only(roles: list[str]) -> None:
    found = rights.of_roles(roles)
    assert all(found in rights.of_roles([role]) for role in roles)
    assert not found & ~rights.ROLES["admin"]


@pytest.mark.parametrize("names", [(ID,), ("alice",), ()])
def test_whoever_has_a_role_is_no_member(names: tuple[str, ...]) -> None:
    assert peer(certificate(names, units=("p2pfs-admin",))).kind == "client"


@pytest.mark.parametrize("der", [None, b"", b"no certificate", certificate((ID,))[:-100]])
def test_what_is_no_certificate_is_refused(der: bytes | None) -> None:
    with pytest.raises(errors.IdentityRefused, match="no certificate"):
        peer(der)


def test_the_id_is_that_of_the_whole_public_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert peer(certificate((certificates.node_id_of(spki(key)),), key)).kind == "member"


def test_what_p2pfs_issues_is_understood(tmp_path: Path) -> None:
    for role in ("", *rights.ROLES):
        files = material(tmp_path / role, role=role)
        der = x509.load_pem_x509_certificate(Path(files.cert).read_bytes()).public_bytes(Encoding.DER)
        assert peer(der)[:2] == (files.id, "client" if role else "member")
        assert peer(der).rights == rights.ROLES.get(role, rights.OF_MEMBER)
