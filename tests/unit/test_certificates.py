"""Keys, node ids and what a cluster's authority issues."""

from __future__ import annotations

import contextlib
import datetime
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core import rights
from p2pfs.net import certificates, tls
from p2pfs.net.connection import connect
from tests.sockets import material, running

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(days=7)
ROOT = Path(__file__).parents[2]


def issued(secret: str = "a", name: str = "n") -> tuple[x509.Certificate, certificates.Authority]:
    authority = certificates.derive_authority(secret)
    key = certificates.load_key(certificates.new_key())
    return x509.load_pem_x509_certificate(certificates.issue(authority, key, name, NOW, days=7)), authority


def test_every_node_derives_the_same_authority_to_the_byte() -> None:
    assert certificates.derive_authority("secret").pem == certificates.derive_authority("secret").pem
    assert certificates.derive_authority("secret").fingerprint == (
        # Fixed for ever: another value would part the nodes of a cluster that is upgraded one by one.
        "5dd00903e9f0b56acb970ed90d63fe0e3d6c3e5c560ed14cea00cb182d69b8e0"
    )


def test_another_secret_is_another_authority_with_another_name() -> None:
    one, other = certificates.derive_authority("one"), certificates.derive_authority("other")
    assert one.pem != other.pem
    # OpenSSL looks an issuer up by its name: with equal names only one of two secrets would work in a rotation.
    assert one.certificate.subject != other.certificate.subject


def test_a_certificate_is_valid_from_a_day_before() -> None:
    certificate, authority = issued()
    assert certificate.not_valid_before_utc == NOW - datetime.timedelta(days=1)
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=7)
    certificate.verify_directly_issued_by(authority.certificate)


def test_who_has_a_certificate_cannot_issue_others() -> None:
    certificate, _ = issued()
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_the_id_is_the_keys_whatever_certificate_it_is_in() -> None:
    key = certificates.load_key(certificates.new_key())
    id = certificates.node_id_of(certificates.public_bytes(key))
    assert re.fullmatch("[a-z2-7]{32}", id)
    end = NOW + datetime.timedelta(days=certificates.DAYS)
    for secret, name in (("a", id), ("b", "somebody else")):
        authority = certificates.derive_authority(secret)
        pem = certificates.issue(authority, key, name, NOW)
        assert certificates.read_pem(pem) == certificates.Bearer(id, name, None, authority.name, end.timestamp())
    pem = certificates.issue_client(authority, key.public_key(), "eve", "store", NOW, LATER)
    eve = certificates.Bearer(id, "eve", rights.ROLES["store"], authority.name, LATER.timestamp())
    assert certificates.read_pem(pem) == eve


def test_a_client_gets_a_certificate_for_the_key_that_it_proves_to_have() -> None:
    key = certificates.load_key(certificates.new_key())
    request = certificates.request(key)
    assert len(request) < certificates.MAX_REQUEST
    public = certificates.requested_key(request)
    pem = certificates.issue_client(certificates.derive_authority("a"), public, "eve", "read", NOW, LATER)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.public_key() == key.public_key()
    assert certificate.not_valid_after_utc == LATER
    assert certificate.subject.rfc4514_string() == "CN=client,UID=eve,OU=p2pfs-read,O=p2pfs"


def test_a_request_for_a_key_of_somebody_else_is_none() -> None:
    mine, other = (certificates.load_key(certificates.new_key()) for _ in range(2))
    der = bytearray(x509.load_pem_x509_csr(certificates.request(mine)).public_bytes(Encoding.DER))
    raw = (PublicFormat.Raw, Encoding.Raw)
    public, foreign = (key.public_key().public_bytes(*reversed(raw)) for key in (mine, other))
    forged = x509.load_der_x509_csr(bytes(der).replace(public, foreign)).public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="not signed with the key"):
        certificates.requested_key(forged)


def test_a_request_for_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 1024)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(ValueError, match="Ed25519"):
        certificates.requested_key(request.public_bytes(Encoding.PEM))


REQUEST = certificates.request(certificates.load_key(certificates.new_key()))


@given(st.binary(max_size=5000) | st.builds(
    lambda at, bits: REQUEST[:at] + bytes([REQUEST[at] ^ bits]) + REQUEST[at + 1 :],
    st.integers(0, len(REQUEST) - 1), st.integers(1, 255),
))
def test_any_bytes_are_a_request_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert certificates.requested_key(data) == certificates.requested_key(REQUEST)


def test_a_client_cannot_pose_as_a_listener(tmp_path: Path) -> None:
    with running(tmp_path, {}, node=material(tmp_path / "client", role="admin")) as fake:
        context = tls.client_context(*material(tmp_path / "user", role="read").files)
        with pytest.raises(errors.IdentityRefused, match="unsuitable certificate purpose"):
            connect(fake.address, context, 10.0, None)


def test_a_name_does_not_make_an_id() -> None:
    certificate, _ = issued(name="a" * 32)
    assert certificates.read(certificate.public_bytes(Encoding.DER)).id != "a" * 32


@pytest.mark.parametrize("pem", [b"", b"no key", certificates.derive_authority("a").pem])
def test_what_is_no_key_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        certificates.load_key(pem)


def test_a_folder_that_is_no_client_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"key\.pem"):
        tls.client_context_from_dir(str(tmp_path))
    files = material(tmp_path)
    Path(files.key).write_bytes(certificates.new_key())
    with pytest.raises(errors.ConfigError, match=r"key\.pem"):
        tls.client_context_from_dir(str(tmp_path))


def test_a_client_needs_no_cryptography(tmp_path: Path) -> None:
    material(tmp_path, role="admin")
    program = (
        "import sys\n"
        "from p2pfs.net import connection, tls\n"
        f"tls.client_context_from_dir({str(tmp_path)!r})\n"
        "assert 'cryptography' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_a_client_of_the_control_socket_needs_no_ssl() -> None:
    program = "import sys\nfrom p2pfs.net import connection\nassert 'ssl' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
