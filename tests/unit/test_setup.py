"""`p2pfs-node init` and `join` up to the network: what they write, what they refuse, what they take from a node."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import config, errors
from p2pfs.core.invitation import Token, format_token
from p2pfs.setup import site as site_module
from p2pfs.setup.guest import Welcome, parse_welcome
from p2pfs.setup.init import init
from p2pfs.setup.join import _listen, join

SECRET = "s" * 40
EXPIRES = 1_800_000_000
TOKEN = Token("127.0.0.1:1", "0" * 32, EXPIRES, bytes(16))
GOOD = {"secrets": [SECRET, "t" * 40], "seeds": ["10.0.0.1:4801"], "options": {"cluster.replicas": "2"}}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("P2PFS_"):
            monkeypatch.delenv(name)


# --- init ------------------------------------------------------------------------------------------------

def test_init_writes_a_configuration_that_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "new" / "node.ini"
    lines = init(str(file), [f"node.data_dir={tmp_path / 'data'}", "node.listen=10.0.0.1:4801", "node.zone=r1"])
    found = config.load(file, [], {})
    assert (found.node.listen, found.node.zone, len(found.secrets)) == ("10.0.0.1:4801", "r1", 1)
    assert found.cluster.secret_file == tmp_path / "new" / "secret"
    assert file.read_text() == config.to_ini(found)
    for path in (file, tmp_path / "new" / "secret", tmp_path / "data" / "identity.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found.secrets[0].reveal() not in "\n".join(lines)
    assert sum("p2pfs-node join p2pfs-join-" in line for line in lines) == 1


def test_init_goes_on_with_a_secret_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    init(str(tmp_path / "node.ini"), [f"node.data_dir={tmp_path / 'data'}"])
    assert config.load(tmp_path / "node.ini", [], {}).secrets[0].reveal() == SECRET


def test_init_that_was_cut_off_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = str(tmp_path / "node.ini"), [f"node.data_dir={tmp_path / 'data'}"]
    write, calls = site_module.write_atomically, []

    def dies(path: Path, data: bytes) -> None:
        if Path(path).name == "node.ini" and not calls:
            calls.append(path)
            raise errors.NoSpace("full")
        write(path, data)

    monkeypatch.setattr(site_module, "write_atomically", dies)
    with pytest.raises(errors.NoSpace):
        init(*words)
    secret = (tmp_path / "secret").read_bytes()
    init(*words)
    assert (tmp_path / "secret").read_bytes() == secret


def test_init_without_a_known_port_prints_no_token(tmp_path: Path) -> None:
    lines = init(str(tmp_path / "node.ini"), [f"node.data_dir={tmp_path / 'data'}", "node.listen=127.0.0.1:0"])
    assert not any("join" in line for line in lines)


# --- join ------------------------------------------------------------------------------------------------

def test_a_token_is_looked_at_before_anything_is_connected(tmp_path: Path) -> None:
    path = str(tmp_path / "node.ini")
    for late_s, says in ((0, "0 ms ago"), (7200, "2 h ago by this machine's clock")):
        with pytest.raises(errors.Refused, match=says):
            join(format_token(TOKEN), path, [], lambda late_s=late_s: EXPIRES + late_s)  # type: ignore[misc]
    with pytest.raises(errors.Unreachable):  # nobody is at port 1
        join(format_token(TOKEN), path, [f"node.data_dir={tmp_path / 'data'}"], lambda: EXPIRES - 1.0)
    assert not (tmp_path / "node.ini").exists()
    assert not (tmp_path / "secret").exists()


def test_a_node_listens_where_it_reaches_the_others_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _listen(TOKEN) == "127.0.0.1:4801"
    assert _listen(TOKEN._replace(address="localhost:5")) in ("127.0.0.1:4801", "[::1]:4801")
    with pytest.raises(errors.Unreachable):
        _listen(TOKEN._replace(address="there-is-no-such-host.invalid:5"))
    monkeypatch.setenv("P2PFS_NODE_LISTEN", "10.0.0.2:4900")
    assert _listen(TOKEN) == "10.0.0.2:4900"


# --- what a node answers ---------------------------------------------------------------------------------

def test_an_answer_is_taken() -> None:
    later = {"options": GOOD["options"] | {"of.later": "1"}, "of_later": 1}
    assert parse_welcome(json.dumps(GOOD | later).encode()) == Welcome(
        GOOD["secrets"], GOOD["seeds"], {"cluster.replicas": 2}
    )


@pytest.mark.parametrize("wrong", [
    {"secrets": []}, {"secrets": ["short"]}, {"secrets": SECRET}, {"secrets": [SECRET] * 9}, {"secrets": [1]},
    {"secrets": [f"{SECRET}\nsecret"]}, {"seeds": []}, {"seeds": ["nowhere"]}, {"seeds": ["a:1\n[node]"]},
    {"seeds": ["a:1"] * 17}, {"options": []}, {"options": {"cluster.replicas": "-1"}},
    {"options": {"storage.chunker": "fixed-1MiB\n[cluster]\nsecret=x"}}, {"options": {"cluster.replicas": None}},
])
def test_an_answer_of_another_form_is_refused_and_not_quoted(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.ProtocolError) as refused:
        parse_welcome(json.dumps(GOOD | wrong).encode())
    assert SECRET not in str(refused.value)


TEXTS = st.text() | st.sampled_from([SECRET, "10.0.0.1:4801", "2", "cluster.replicas", "storage.hash"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
)


@given(st.binary() | st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)).map(lambda row: json.dumps(row).encode()))
def test_any_answer_is_taken_or_refused(body: bytes) -> None:
    with contextlib.suppress(errors.ProtocolError):
        assert parse_welcome(body).secrets


def test_what_a_node_says_cannot_add_lines_to_the_configuration(tmp_path: Path) -> None:
    # Whatever passes the parser goes through the option's own kind into the file, and comes out as one value.
    welcome = parse_welcome(json.dumps(GOOD).encode())
    site = site_module.Site(str(tmp_path / "node.ini"), [f"node.data_dir={tmp_path / 'data'}"])
    with site.held():
        site.settle(welcome.secrets, [f"cluster.seeds={','.join(welcome.seeds)}", "cluster.replicas=2"])
    found = config.load(tmp_path / "node.ini", [], {})
    assert [secret.reveal() for secret in found.secrets] == GOOD["secrets"]
    assert (found.cluster.seeds, found.cluster.replicas) == (("10.0.0.1:4801",), 2)


@pytest.mark.parametrize("make", [init, lambda path, options: join(format_token(TOKEN), path, options, lambda: 0.0)])
def test_the_secret_is_no_option_of_these(make: Callable[[str, list[str]], object], tmp_path: Path) -> None:
    for option in (f"cluster.secret={SECRET}", f"cluster.secret:{SECRET}", "cluster.secret_file=x", "cluster.tls_ca=x"):
        with pytest.raises(errors.ConfigError) as refused:
            make(str(tmp_path / "node.ini"), [f"node.data_dir={tmp_path}", option])
        assert SECRET not in str(refused.value)


# --- surroundings ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [
    lambda file, options: init(file, options),
    lambda file, options: join(format_token(TOKEN), file, options, now=lambda: EXPIRES - 60.0),
])
@pytest.mark.parametrize("place", ["file", "data"])
def test_a_folder_that_may_not_be_looked_into_is_refused(
    tmp_path: Path, make: Callable[[str, list[str]], object], place: str
) -> None:
    # As root may look everywhere: a loop of links, which nobody can follow.
    (tmp_path / "loop").symlink_to("loop")
    paths = {"file": tmp_path / "site", "data": tmp_path / "data"} | {place: tmp_path / "loop"}
    with pytest.raises(errors.Refused, match=re.escape(f"cannot look for {tmp_path}/loop/")):
        make(str(paths["file"] / "node.ini"), [f"node.data_dir={paths['data']}", f"node.control={tmp_path / 'c'}"])
    assert os.listdir(tmp_path) == ["loop"]


@pytest.mark.parametrize("place", ["file", "data"])
def test_a_path_that_is_no_text_is_refused_before_anything_is_made(tmp_path: Path, place: str) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    folders = {"file": str(tmp_path / "site"), "data": str(tmp_path / "data")} | {place: odd}
    with pytest.raises(errors.ConfigError, match="no UTF-8"):
        init(f"{folders['file']}/node.ini", [f"node.data_dir={folders['data']}"])
    assert os.listdir(tmp_path) == []


def test_the_command_to_start_it_can_be_pasted(tmp_path: Path) -> None:
    file = str(tmp_path / "my node" / "node.ini")
    options = [f"node.data_dir={tmp_path / 'my data'}"]
    assert f"  p2pfs-node -c '{file}'" in init(file, options)
    with pytest.raises(errors.Refused, match=re.escape(f"p2pfs-node -c '{file}' starts")):
        init(file, options)
