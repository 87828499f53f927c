"""The token of an invitation: what is printed is what is read, and anything else is refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import errors
from p2pfs.core.invitation import (
    MAX_TEXT,
    PREFIX,
    Token,
    format_token,
    id_of_server_name,
    parse_token,
    server_name,
)
from p2pfs.net import certificates

ADDRESSES = st.builds(
    "{}:{}".format,
    st.from_regex(r"[0-9A-Za-z._-]{1,253}", fullmatch=True) | st.just("[2001:db8::1]"), st.integers(1, 65535),
)
TOKENS = st.builds(
    Token, ADDRESSES, st.binary(min_size=16, max_size=16).map(bytes.hex), st.integers(0, 2**40 - 1),
    st.binary(min_size=16, max_size=16),
)
TOKEN = Token("10.0.0.1:4801", "8dca759e7f10e3968dca759e7f10e396", 1_800_000_000, bytes(range(16)))
TEXT = format_token(TOKEN)


def by_hand(body: bytes) -> str:
    """What somebody who knows the form can make of any bytes."""
    checksum = hashlib.sha256(b"p2pfs invitation" + body).digest()[:4]
    return PREFIX + base64.b32encode(body + checksum).decode().rstrip("=").lower()


def body_of(text: str) -> bytes:
    digits = text.removeprefix(PREFIX).upper()
    return base64.b32decode(digits + "=" * (-len(digits) % 8))[:-4]


@given(TOKENS)
def test_a_token_is_read_as_it_was_written(token: Token) -> None:
    text = format_token(token)
    assert len(text) <= MAX_TEXT
    assert set(text) <= set(string.ascii_lowercase + string.digits + "-")
    assert parse_token(text) == token


def test_the_form_is_fixed() -> None:
    # By hand: version, 5 bytes of time, half a fingerprint, the secret, the address, 4 bytes of SHA-256.
    fields = [b"\x01", bytes.fromhex("006b49d200"), bytes.fromhex(TOKEN.cluster), bytes(range(16)), b"10.0.0.1:4801"]
    assert by_hand(b"".join(fields)) == TEXT


@pytest.mark.parametrize("text", [TEXT.upper(), f"  {TEXT}\n", f"{TEXT[:40]}\n  {TEXT[40:]}"])
def test_case_and_the_line_ends_of_a_mail_do_not_matter(text: str) -> None:
    assert parse_token(text) == TOKEN


@pytest.mark.parametrize("at", range(len(TEXT)))
def test_another_character_at_any_place_is_refused(at: int) -> None:
    for char in set("abcdefghijklmnopqrstuvwxyz234567-=0!é") - {TEXT[at]}:
        with pytest.raises(errors.Refused):
            parse_token(TEXT[:at] + char + TEXT[at + 1 :])


@pytest.mark.parametrize("at", range(len(TEXT)))
def test_a_missing_doubled_or_swapped_character_is_refused(at: int) -> None:
    for wrong in (TEXT[:at], TEXT[:at] + TEXT[at + 1 :], TEXT[:at] + TEXT[at] + TEXT[at:],
                  TEXT[:at] + TEXT[at + 1 : at + 2] + TEXT[at] + TEXT[at + 2 :]):
        if wrong != TEXT:
            with pytest.raises(errors.Refused):
                parse_token(wrong)


@given(st.text(max_size=700) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=700).map(PREFIX.__add__))
def test_any_text_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(errors.Refused) as refused:
        parse_token(text)
    digits = text.removeprefix(PREFIX)
    assert len(digits) < 12 or digits not in str(refused.value)


@given(st.binary(max_size=400))
def test_any_bytes_with_a_right_checksum_are_a_token_or_refused(body: bytes) -> None:
    with contextlib.suppress(errors.Refused):
        assert format_token(parse_token(by_hand(body))) == by_hand(body)


@pytest.mark.parametrize("address", [b"", b"here", b"here:0", b"here:65536", b"he re:1", b"\xff:1", b"a:1\n", b"[:1"])
def test_an_address_that_is_none_is_refused(address: bytes) -> None:
    with pytest.raises(errors.Refused):
        parse_token(by_hand(body_of(TEXT)[: -len(TOKEN.address)] + address))


def test_a_form_of_a_later_version_is_told() -> None:
    with pytest.raises(errors.Refused, match="has the form 2"):
        parse_token(by_hand(b"\x02" + body_of(TEXT)[1:]))


def test_a_token_shows_its_secret_to_nobody() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


@given(st.integers(0, len(body_of(TEXT)) - 1), st.integers(1, 255))
def test_whoever_alters_a_token_and_its_checksum_has_another_invitation(at: int, bits: int) -> None:
    body = bytearray(body_of(TEXT))
    body[at] ^= bits
    altered = certificates.derive_authority(by_hand(bytes(body)), certificates.INVITATION)
    assert altered.id != certificates.derive_authority(TEXT, certificates.INVITATION).id


def test_an_invitation_and_a_cluster_of_the_same_text_have_nothing_in_common() -> None:
    invitation = certificates.derive_authority(TEXT, certificates.INVITATION)
    cluster = certificates.derive_authority(TEXT)
    assert invitation.id != cluster.id


@given(st.text() | st.from_regex(r"[a-z2-7]{32}\.join\.p2pfs\.invalid"))
def test_a_server_name_is_that_of_an_invitation_or_none(name: str) -> None:
    id = id_of_server_name(name)
    assert id is None or server_name(id) == name


def test_the_server_name_of_an_invitation_names_it() -> None:
    id = certificates.derive_authority(TEXT, certificates.INVITATION).id
    assert id_of_server_name(server_name(id)) == id
