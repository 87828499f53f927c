"""The invitations of a node: until when, how often, over a restart, and what is on the disk meanwhile."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from p2pfs import errors
from p2pfs.core.invitation import parse_token
from p2pfs.net import certificates
from p2pfs.node import invitations as module
from p2pfs.node.invitations import Invitation, Invitations

CLUSTER = certificates.derive_authority("the cluster's secret").fingerprint
HOUR = 3600.0


class Clock:
    """The wall clock of a node."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.5

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "identity.pem").write_bytes(certificates.new_key())
    return tmp_path


def opened(data_dir: Path, clock: Clock, *clusters: str) -> Invitations:
    found = Invitations(data_dir, clock)
    found.load(clusters or [CLUSTER])
    return found


def invite(node: Invitations, *, is_once: bool = False, lasts_s: float = HOUR) -> str:
    return node.invite("10.0.0.1:4801", CLUSTER, lasts_s, is_once)[1].id


def files(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "invitations").iterdir())


def test_a_token_says_what_the_node_keeps(data_dir: Path, clock: Clock) -> None:
    text, kept = opened(data_dir, clock).invite("10.0.0.1:4801", CLUSTER, HOUR, False)
    token = parse_token(text)
    assert (token.address, token.expires) == ("10.0.0.1:4801", 1_800_003_600)
    assert CLUSTER.startswith(token.cluster)
    assert kept.id == certificates.derive_authority(text, certificates.INVITATION).id


def test_the_secret_is_not_kept(data_dir: Path, clock: Clock) -> None:
    text, kept = opened(data_dir, clock).invite("10.0.0.1:4801", CLUSTER, HOUR, True)
    key = certificates.derive_authority(text, certificates.INVITATION).key.private_bytes_raw()
    (path,) = files(data_dir)
    data = path.read_bytes()
    for secret in (text.encode(), parse_token(text).secret, parse_token(text).secret.hex().encode(), key):
        assert secret not in data
    assert b"PRIVATE" not in data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Invitation.from_text(kept.id, data.decode()) == kept


def test_one_that_others_can_write_to_invites_nobody_until_that_is_mended(
    data_dir: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    loose, other = (invite(opened(data_dir, clock)) for _ in range(2))
    path = data_dir / "invitations" / f"{loose}.pem"
    for mode in (0o620, 0o606, 0o640):
        path.chmod(mode)
        caplog.clear()
        found = opened(data_dir, clock)
        assert found.context(loose) is None
        assert found.context(other) is not None
        assert f"chmod 600 {path}" in caplog.text
    path.chmod(0o600)
    assert opened(data_dir, clock).context(loose) is not None


def test_it_is_open_until_it_expires(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    id = invite(node)
    clock.time += HOUR - 1
    assert node.context(id) is not None
    node.claim(id, "b")
    node.claim(id, "c")
    clock.time += 1
    assert node.context(id) is None
    with pytest.raises(errors.Refused, match="expired"):
        node.claim(id, "d")


def test_one_for_a_single_use_says_who_had_it(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    id = invite(node, is_once=True)
    node.claim(id, "b at 10.0.0.2:5")
    with pytest.raises(errors.Refused, match=r"used: by b at 10\.0\.0\.2:5, 2027-01-15 08:00:00 UTC"):
        node.claim(id, "c")


def test_of_many_at_once_one_gets_it(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    id = invite(node, is_once=True)
    outcomes: list[bool] = []
    begin = threading.Barrier(8)

    def claim() -> None:
        begin.wait(60)
        try:
            node.claim(id, "b")
            outcomes.append(True)
        except errors.Refused:
            outcomes.append(False)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == [False] * 7 + [True]


@pytest.mark.parametrize("is_once", [False, True])
def test_it_survives_a_restart_and_so_does_that_it_was_used(data_dir: Path, clock: Clock, is_once: bool) -> None:
    id = invite(opened(data_dir, clock), is_once=is_once)
    again = opened(data_dir, clock)
    assert again.context(id) is not None
    again.claim(id, "b")
    third = opened(data_dir, clock)
    if is_once:
        with pytest.raises(errors.Refused, match="was used: by b"):
            third.claim(id, "c")
    else:
        third.claim(id, "c")


def test_it_is_not_used_up_when_that_cannot_be_written(
    data_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = opened(data_dir, clock)
    id = invite(node, is_once=True)

    def full(*_: object) -> None:
        raise errors.NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(errors.NoSpace):
            node.claim(id, "b")
    node.claim(id, "b")


def test_what_expired_is_removed_from_the_disk(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    old, kept = invite(node, lasts_s=60), invite(node)
    clock.time += 61
    new = invite(node)
    assert {path.stem for path in files(data_dir)} == {kept, new}
    assert node.context(old) is None
    clock.time += 2 * HOUR
    opened(data_dir, clock)
    assert not files(data_dir)


def test_those_of_a_secret_that_was_replaced_are_closed(data_dir: Path, clock: Clock) -> None:
    other = certificates.derive_authority("another secret").fingerprint
    node = opened(data_dir, clock, CLUSTER)
    id = invite(node)
    node.load([other, CLUSTER])  # during a rotation both are accepted
    assert node.context(id) is not None
    node.load([other])
    assert node.context(id) is None
    assert not files(data_dir)


def test_one_is_withdrawn_by_removing_its_file(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    withdrawn, other = invite(node), invite(node)
    (data_dir / "invitations" / f"{withdrawn}.pem").unlink()
    node.load([CLUSTER])
    assert node.context(withdrawn) is None
    assert node.context(other) is not None


def test_their_number_is_limited_until_one_expires(data_dir: Path, clock: Clock) -> None:
    node = opened(data_dir, clock)
    invite(node, lasts_s=60)
    for _ in range(module.MOST_OPEN - 1):
        invite(node)
    with pytest.raises(errors.Refused, match="are open already"):
        invite(node)
    clock.time += 60
    invite(node)


@pytest.mark.parametrize("lasts_s", [0, 59, 31 * 86400.0, float("inf"), -1, float("nan")])
def test_times_out_of_range_are_refused(data_dir: Path, clock: Clock, lasts_s: float) -> None:
    with pytest.raises(errors.UsageError, match="30 days"):
        invite(opened(data_dir, clock), lasts_s=lasts_s)


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: "{}\n" + text.partition("\n")[2], lambda text: "x" + text,
    lambda text: text[:-60], lambda text: text.partition("\n")[0], lambda text: text.replace("BEGIN", "BEGUN"),
    lambda text: "[" * 10000, lambda text: json.dumps({"expires": "x"}) + "\n", lambda text: "é",
])
def test_a_damaged_file_costs_its_invitation_only(
    data_dir: Path, clock: Clock, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    node = opened(data_dir, clock)
    bad, good = invite(node), invite(node)
    path = data_dir / "invitations" / f"{bad}.pem"
    assert callable(damage)
    path.write_text(damage(path.read_text()))
    node.load([CLUSTER])
    assert node.context(bad) is None
    assert node.context(good) is not None
    assert bad in caplog.text


def test_with_another_identity_the_old_ones_are_of_no_use(data_dir: Path, clock: Clock) -> None:
    id = invite(opened(data_dir, clock))
    (data_dir / "identity.pem").write_bytes(certificates.new_key())
    assert opened(data_dir, clock).context(id) is None


def test_what_a_crash_left_is_removed(data_dir: Path, clock: Clock) -> None:
    id = invite(opened(data_dir, clock))
    (data_dir / "invitations" / "x.pem.temp").write_text("half")
    assert opened(data_dir, clock).context(id) is not None
    assert len(files(data_dir)) == 1
