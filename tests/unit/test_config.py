"""The option table: values, sources, messages, and that what is printed from it is equal to what is committed."""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs import config as configuration
from p2pfs import errors
from p2pfs.config import ROWS, Config, load, loading, new_secret, reloaded, to_ini, to_markdown
from p2pfs.core.membership import Timing

ROOT = Path(__file__).parents[2]
Write = Callable[[str], Path]


@pytest.fixture
def ini(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "node.ini"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def refused(*overrides: str, path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        load(path, overrides, environ or {})
    return str(caught.value)


def test_committed_files_are_what_the_table_prints() -> None:
    assert (ROOT / "conf/node.ini").read_text() == to_ini(), "run `make reference`"
    assert (ROOT / "docs/CONFIGURATION.md").read_text() == to_markdown(), "run `make reference`"


def test_committed_file_gives_the_defaults() -> None:
    assert load(ROOT / "conf/node.ini", [], {}) == load(None, [], {}) == Config()


def test_defaults_agree_with_those_of_membership() -> None:
    repair, timing = Config().repair, Timing()
    assert (repair.probe_interval, repair.probe_timeout, repair.suspicion_min, repair.push_pull_interval) == (
        timing.probe_interval_s, timing.probe_timeout_s, timing.suspicion_min_s, timing.sync_interval_s
    )


def test_each_later_source_wins(ini: Write) -> None:
    path = ini("[node]\nname = file\nzone = file\ncapacity = 2\n")
    environ = {"P2PFS_NODE_NAME": "environment", "P2PFS_NODE_ZONE": "environment", "P2PFS_NODE": "elsewhere:1"}
    node = load(path, ["node.name=override"], environ).node
    assert (node.name, node.zone, node.capacity) == ("override", "environment", 2.0)


def test_values_are_typed(ini: Write) -> None:
    config = load(ini(
        "[node]\ncontrol_mode = 0660\nbuffers = 1GiB\n[cluster]\nseeds = a:1, b:2\n  [::1]:3\n"
        f"secret = {'s' * 40}\n[repair]\nout_after = 24h\n"
    ), [], {})
    assert config.node.control_mode == 0o660
    assert config.node.buffers == 1 << 30
    assert config.cluster.seeds == ("a:1", "b:2", "[::1]:3")
    assert config.repair.out_after == 86400.0
    assert config.control_path == config.node.data_dir / "control.sock"


def test_printed_config_gives_the_same_config(ini: Write) -> None:
    config = load(None, ["node.listen=[::1]:0", "node.data_dir=/srv/x y", "storage.max_size=1.5TB", "node.zone=r1"], {})
    assert load(ini(to_ini(config)), [], {}) == config


def test_data_dir_follows_xdg() -> None:
    assert load(None, [], {"XDG_DATA_HOME": "/xdg"}).node.data_dir == Path("/xdg/p2pfs")
    assert load(None, [], {"XDG_DATA_HOME": "relative"}).node.data_dir == Path("~/.local/share/p2pfs").expanduser()


def test_a_home_that_nobody_has_is_no_folder_of_this_name() -> None:
    with pytest.raises(errors.ConfigError, match=r"-o: node.data_dir: the ~ at its beginning is of nobody"):
        load(None, ["node.data_dir=~nobody-of-this-name/p2pfs"], {})
    assert load(None, ["node.data_dir=./~name"], {}).node.data_dir == Path("~name").absolute()


def test_without_a_home_nothing_is_made_in_a_folder_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user who is in no list, without HOME
    with pytest.raises(errors.ConfigError, match="of nobody with a home"):
        load(None, [], {})
    assert load(None, ["node.data_dir=/srv/~x"], {}).node.data_dir == Path("/srv/~x")


def test_unknown_names_give_place_and_nearest(ini: Write) -> None:
    path = ini("# comment\n[node]\nname = a\n\ncapcity = 2\n")
    assert refused(path=path) == f"{path} line 5: [node] has no option capcity; did you mean capacity?"
    path = ini("[node]\n[strage]\nhash = blake3\n")
    assert refused(path=path) == f"{path} line 2: there is no section [strage]; did you mean storage?"
    path = ini("[node]\nreplicas = 3\n")
    assert "did you mean [cluster] replicas?" in refused(path=path)
    assert "did you mean listen?" in refused("node.lisen=a:1")
    assert "did you mean P2PFS_NODE_LISTEN?" in refused(environ={"P2PFS_NODE_LISTN": "a:1"})
    assert "section.key=value" in refused("node.listen")


@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        ("repair", "out_after = 10 parsecs", ["repair.out_after", "10 parsecs", "ms, s, m, h or d"]),
        ("repair", "probe_interval = 1h", ["1h", "50ms to 1m"]),
        ("storage", "max_size = 10 potatoes", ["storage.max_size", "GiB"]),
        ("storage", "hash = md5", ["md5", "sha2-256, blake3"]),
        ("node", "capacity = lots", ["lots", "a number from"]),
        ("node", "disk_threads = 0", ["0", "1 to 128"]),
        ("node", "control_mode = 0755", ["0755", "octal"]),
        ("node", "listen = ::1:4801", ["::1:4801", "[IPv6]:PORT"]),
        ("node", "listen = localhost:99999", ["99999", "65535"]),
        ("node", "advertise = localhost:0", ["localhost:0", "HOST:PORT"]),
        ("node", "name = a b", ["'a b'"]),
        ("node", "data_dir =", ["path"]),
    ],
)
def test_bad_values_give_line_key_and_what_is_allowed(ini: Write, section: str, line: str, words: list[str]) -> None:
    message = refused(path=ini(f"[{section}]\n# about it\n{line}\n"))
    for word in ["line 3", f"{section}.{line.split()[0]}", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = a\n", "line 1: this stands before the first [section]"),
        ("[node]\nname\n", "line 2: neither a [section] nor key = value"),
        ("[node]\nname = a\nname = b\n", "line 3: name is there twice"),
        ("[node]\n[node]\n", "line 2: [node] is there twice"),
        ("[node]\nname = a\n  zone = b\n", "line 2: node.name"),
        ("[node]\n = a\n", "line 2: neither a [section] nor key = value"),
        ("[node]\nname = a\n\n  b\n", "line 4: neither a [section] nor key = value"),
    ],
)
def test_bad_grammar_gives_the_line(ini: Write, text: str, words: str) -> None:
    assert words in refused(path=ini(text))


def test_unreadable_files(tmp_path: Path) -> None:
    assert "No such file" in refused(path=tmp_path / "none.ini")
    assert "Is a directory" in refused(path=tmp_path)
    (tmp_path / "binary").write_bytes(b"[node]\nname = \xff\n")
    assert "no UTF-8 text (byte 14)" in refused(path=tmp_path / "binary")
    (tmp_path / "huge").write_bytes(b"#" * (loading.MAX_FILE + 1))
    assert "longer than" in refused(path=tmp_path / "huge")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cluster.write_quorum=3", "cluster.replicas=2"], "write_quorum = 3 asks for more copies"),
        (["node.listen=10.0.0.1:4801"], "p2pfs-node --new-secret"),
        (["cluster.seeds=a:1"], "p2pfs-node --new-secret"),
        (["node.listen=0.0.0.0:1", "cluster.secret=" + "s" * 40], "set node.advertise"),
        (["node.advertise=0.0.0.0:1"], "no address that anybody can connect to"),
        (["cluster.secret=" + "s" * 40, "cluster.secret_file=/x"], "not both"),
        (["cluster.tls_key=/x"], "missing: cluster.tls_cert, cluster.tls_ca"),
        (["repair.probe_timeout=2s"], "not be longer than repair.probe_interval"),
        (["node.data_dir=/" + "d" * 100], "set node.control to a shorter one"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


# --- secrets -----------------------------------------------------------------------------------------

SECRET = "hunter2-" * 5


def test_secrets_are_never_shown(ini: Write) -> None:
    config = load(ini(f"[cluster]\nsecret = {SECRET}\n"), [], {})
    assert config.secrets[0].reveal() == SECRET
    assert "hunter2" not in repr(config) + to_ini(config)
    assert "# secret = (set)\n" in to_ini(config)
    for text in (
        "[cluster]\nsecret = hunter2\n", "[cluster]\nsecret : hunter2\n", "[cluster]\nsecrt = hunter2\n",
        "secret = hunter2\n", f"[cluster]\nsecret = {SECRET}\nsecret = hunter2\n", "[cluster]\nsecret = hunter2 \0\n",
    ):
        assert "hunter2" not in refused(path=ini(text))
    assert "hunter2" not in refused("cluster.secret=hunter2")
    assert "hunter2" not in refused(environ={"P2PFS_CLUSTER_SECRET": "hunter2"})


def test_secret_file_has_ours_first_and_others_after_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    ours, old = new_secret(), new_secret()
    path.write_text(f"# since May\n{ours}\n\n{old}\n")
    path.chmod(0o600)
    config = load(None, [f"cluster.secret_file={path}", "node.listen=10.0.0.1:1", "cluster.seeds=10.0.0.2:1"], {})
    assert [secret.reveal() for secret in config.secrets] == [ours, old]
    path.write_text("short-and-secret\n")
    message = refused(f"cluster.secret_file={path}")
    assert f"{path} line 1" in message
    assert "short-and" not in message
    path.write_text("# nothing\n")
    assert "holds no secret" in refused(f"cluster.secret_file={path}")


@pytest.mark.parametrize("key", ["secret_file", "tls_key"])
def test_a_secret_in_place_of_its_path_is_not_shown(ini: Write, tmp_path: Path, key: str) -> None:
    (tmp_path / "pem").write_text("PEM")
    others = "" if key == "secret_file" else f"tls_cert = {tmp_path}/pem\ntls_ca = {tmp_path}/pem\n"
    for secret in (SECRET, f"hunter2/{SECRET}", 20 * SECRET):  # a name that no file has, a folder, too long for a name
        path = ini(f"[cluster]\n{others}{key} = {secret}\n")
        line = len(others.splitlines()) + 2
        environ = {f"P2PFS_CLUSTER_{key.upper()}": secret}
        for message, place in (
            (refused(path=path), f"{path} line {line}"),
            (refused(f"cluster.{key}={secret}", path=ini(f"[cluster]\n{others}")), "-o"),
            (refused(path=ini(f"[cluster]\n{others}"), environ=environ), "environment variable"),
        ):
            assert "hunter2" not in message
            assert message.startswith(place)
            assert f"cluster.{key} is not the path of a file" in message


def test_files_with_secrets_must_be_private(tmp_path: Path, ini: Write) -> None:
    path = tmp_path / "secret"
    path.write_text(new_secret())
    path.chmod(0o640)
    override = f"cluster.secret_file={path}"
    assert f"chmod 600 {path}" in refused(override)
    assert load(None, [override], {"CREDENTIALS_DIRECTORY": str(tmp_path)}).secrets
    path = ini(f"[cluster]\nsecret = {new_secret()}\n")
    path.chmod(0o604)
    assert f"chmod 600 {path}" in refused(path=path)
    for name in ("cert", "key", "ca"):
        (tmp_path / name).write_text("PEM")
        (tmp_path / name).chmod(0o644)
    tls = [f"cluster.tls_{name}={tmp_path / name}" for name in ("cert", "key", "ca")]
    assert f"chmod 600 {tmp_path / 'key'}" in refused(*tls)
    (tmp_path / "key").chmod(0o600)
    assert load(None, [*tls, "node.listen=10.0.0.1:1"], {}).cluster.tls_ca == tmp_path / "ca"
    (tmp_path / "ca").unlink()
    assert "cannot read the certificate file" in refused(*tls)


# --- reload ------------------------------------------------------------------------------------------

def test_reload_takes_what_can_change_and_names_what_cannot() -> None:
    old = load(None, ["node.zone=a"], {})
    new = load(None, ["node.zone=b", "log.level=debug", f"cluster.secret={SECRET}"], {})
    merged, applied, waiting = reloaded(old, new)
    assert [row.name for row in applied] == ["cluster.secret", "log.level"]
    assert [row.name for row in waiting] == ["node.zone"]
    assert merged == dataclasses.replace(old, log=new.log, cluster=new.cluster, secrets=new.secrets)


def test_reload_sees_another_secret_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    configs = []
    for _ in range(2):
        path.write_text(new_secret())
        path.chmod(0o600)
        configs.append(load(None, [f"cluster.secret_file={path}"], {}))
    merged, applied, waiting = reloaded(*configs)
    assert merged.secrets == configs[1].secrets
    assert ([row.name for row in applied], waiting) == (["cluster.secret_file"], [])


def test_reload_refuses_a_mixture_that_contradicts_itself() -> None:
    # The seeds wait for a restart, so the secret that they need must not go away before.
    old = load(None, [f"cluster.secret={SECRET}", "cluster.seeds=a:1"], {})
    with pytest.raises(errors.ConfigError, match=r"cluster\.seeds"):
        reloaded(old, load(None, [], {}))


# --- any bytes ---------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["[node]", "[cluster]", "name", "seeds", " = ", "\n", "\n  ", "a:1", "10s", "#", "]", "[", "%", "\0"]
)


@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=30).map(lambda words: "".join(words).encode())))
def test_any_file_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ini"
    path.write_bytes(data)
    try:
        assert isinstance(load(path, [], {}), Config)
    except errors.ConfigError:
        return


LINES = st.lists(st.sampled_from([
    "[node]", "[node]  x", "name = a = b", "  zone=c", "\tLISTEN =", "control = info\r", "format", " more",
    "    still more", "", "# no", "  ; no", " = x", "\N{NO-BREAK SPACE}capacity = 1",
]), max_size=12)


@given(LINES.map("\n".join))
def test_a_file_is_read_as_configparser_reads_it(text: str) -> None:
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=("#", ";"), default_section="", empty_lines_in_values=False
    )
    try:
        parser.read_string(text)
        wanted = {f"{section}.{key}": value for section in parser for key, value in parser.items(section)}
    except configparser.Error:
        with pytest.raises(errors.ConfigError):
            loading.parse_text(text, "a")
        return
    given = loading.parse_text(text, "a")
    assert {name: setting.text.strip() for name, setting in given.items()} == {k: v.strip() for k, v in wanted.items()}


@given(st.sampled_from(sorted(ROWS)), st.text(max_size=60))
def test_any_value_is_taken_and_printed_back_or_refused(name: str, text: str) -> None:
    row = ROWS[name]
    try:
        value = row.kind.parse(text)
    except errors.UsageError:
        return
    if not row.is_secret:
        assert row.kind.parse(row.kind.show(value)) == value


def test_every_option_is_read_by_the_program() -> None:
    sources = "".join(
        path.read_text() for path in (ROOT / "p2pfs").rglob("*.py")
        if path.parent.name != "config" or path.name == "loading.py"
    )
    unread = [name for name in ROWS if not re.search(rf"\b{re.escape(name)}\b", sources)]
    assert not unread, f"nobody reads {unread}: an option that does nothing is a lie"


def test_public_names_exist() -> None:
    assert all(hasattr(configuration, name) for name in configuration.__all__)


@pytest.mark.parametrize("override", ["cluster.secret:{}", "cluster.secret {}", "cluster.secret{}", "{}", " {}"])
def test_an_override_without_its_sign_is_not_quoted(override: str) -> None:
    secret = "0123456789abcdef" * 4
    with pytest.raises(errors.ConfigError, match="write it as") as refused:
        load(None, [override.format(secret)], {})
    assert secret[:4] not in str(refused.value)
