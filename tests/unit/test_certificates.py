"""Keys, node ids and what a cluster's authority issues."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from p2pfs import errors
from p2pfs.net import certificates, tls
from tests.sockets import material

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
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
    for secret, name in (("a", id), ("b", "somebody else"), ("b", certificates.CLIENT)):
        pem = certificates.issue(certificates.derive_authority(secret), key, name, NOW)
        assert certificates.read_pem(pem) == certificates.Bearer(id, name)


def test_a_name_does_not_make_an_id() -> None:
    certificate, _ = issued(name="a" * 32)
    assert certificates.read(certificate.public_bytes(Encoding.DER)).id != "a" * 32


@pytest.mark.parametrize("pem", [b"", b"no key", certificates.derive_authority("a").pem])
def test_what_is_no_key_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        certificates.load_key(pem)


def test_a_folder_that_is_no_client_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"ca\.pem"):
        tls.client_context_from_dir(str(tmp_path))
    files = material(tmp_path)
    Path(files.key).write_bytes(certificates.new_key())
    with pytest.raises(errors.ConfigError, match=r"key\.pem"):
        tls.client_context_from_dir(str(tmp_path))


def test_a_client_needs_no_cryptography(tmp_path: Path) -> None:
    material(tmp_path, is_client=True)
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
