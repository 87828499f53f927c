"""The one table of options: what can be configured, with its kind, default and meaning.

Parser, `--print-config`, conf/node.ini, docs/CONFIGURATION.md and the type checker all read these classes. A new
option is one field here and the code that reads it; an option that nobody reads is a lie.

Durations are seconds (float), sizes bytes (int); a path that is not set is None, another text that is not set "".
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from p2pfs.config import kinds
from p2pfs.config.kinds import Kind, Secret

T = TypeVar("T")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
NAME_ALLOWED = "up to 63 letters, digits, dots, underscores and dashes"


class HostDefault(NamedTuple):
    """A default that depends on the machine: `shown` stands for it in what is printed for all machines."""

    shown: str
    compute: Callable[[Mapping[str, str]], str]


def default_data_dir(environ: Mapping[str, str]) -> str:
    """Where a node keeps everything when nothing else is said (XDG Base Directory Specification)."""
    base = environ.get("XDG_DATA_HOME", "")
    # The specification: a relative path there is invalid and has to be ignored.
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/share"), "p2pfs")


def _host_name(environ: Mapping[str, str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63]
    return name if re.fullmatch(NAME, name) else "node"


def _option(kind: Kind[T], default: str | HostDefault, help: str, reloadable: bool = False) -> T:
    def parse_default() -> T:
        return kind.parse(default if isinstance(default, str) else default.compute(os.environ))

    metadata = {"kind": kind, "default": default, "help": " ".join(help.split()), "reloadable": reloadable}
    return dataclasses.field(default_factory=parse_default, metadata=metadata)


@dataclass(frozen=True)
class Node:
    """This node: what it is called, where it keeps its data and what it may use."""

    name: str = _option(
        kinds.word(NAME_ALLOWED, NAME), HostDefault("(the host's name)", _host_name),
        """What people call this node, in `peers` and in logs. It should differ from the other nodes' names; the
        node's identity is its key, not its name.""",
    )
    data_dir: Path = _option(
        kinds.PATH, HostDefault("$XDG_DATA_HOME/p2pfs, else ~/.local/share/p2pfs", default_data_dir),
        """The directory that holds blocks, catalog, identity and control socket. Made when it is missing. One node
        at a time may use it. The disk that it is on is the disk that the node fills.""",
    )
    listen: str = _option(
        kinds.LISTEN, "127.0.0.1:4801",
        """Where other nodes and remote clients connect to. Anything but loopback needs a cluster secret or tls_cert,
        tls_key and tls_ca. 0.0.0.0 or [::] is every interface; then set `advertise` too. Port 0 lets the system
        choose a port.""",
    )
    advertise: str = _option(
        kinds.OPTIONAL_ADDRESS, "",
        """The address that this node tells the others to reach it at, where that is not the listen address: behind
        a NAT or a forwarded port, or when listening on every interface. Empty: the listen address.""",
    )
    control: Path | None = _option(
        kinds.OPTIONAL_PATH, "",
        """The Unix socket that p2pfs-cli on this machine uses. Empty: control.sock in data_dir. Its path may not be
        longer than 107 bytes.""",
    )
    control_mode: int = _option(
        kinds.MODE, "0600",
        """File mode of the control socket. Who may open it may use the node, as far as control_rights says. 0660 lets
        the socket's group in.""",
    )
    control_rights: str = _option(
        kinds.choice("read", "store", "admin"), "admin",
        """What others than the node's own user and root may do at the control socket, where control_mode lets them
        in. read: see what is stored, and how the cluster is; store: add to it, too; admin: everything, removing what
        others stored among it.""",
        reloadable=True,
    )
    zone: str = _option(
        kinds.word(NAME_ALLOWED + ", or empty", f"({NAME})?"), "",
        """What fails together with this node: a rack, a room, a site. Replicas go to as many different zones as
        there are. Name it on all nodes or on none.""",
    )
    capacity: float = _option(
        kinds.number(0.01, 10000), "1.0",
        """This node's share of the data, relative to the other nodes: a node with 2.0 gets twice as much as one with
        1.0. Terabytes of disk make a good number.""",
    )
    buffers: int = _option(
        kinds.size("16MiB"), "64MiB",
        """Memory for blocks in flight, over all clients and peers. More lets more transfers run at once; requests
        wait when it is used up. The process needs about 60 MiB beside it.""",
    )
    disk_threads: int = _option(
        kinds.integer(1, 128), "8",
        """Threads that read, hash and write blocks. 8 suit two to four cores with an SSD; more help arrays of
        disks, and cost memory.""",
    )
    max_connections: int = _option(
        kinds.integer(8, 100_000), "512",
        """Connections that are accepted at once, from peers and clients together; one more is refused. Each other
        node keeps up to 7 of them, up to 15 if it is over 17 ms away.""",
    )


@dataclass(frozen=True)
class Cluster:
    """What all nodes of one cluster have in common, and how this node finds the others."""

    secret: Secret = _option(
        kinds.SECRET, "",
        """What makes nodes members of one cluster: who knows it can read, store and remove everything. All nodes
        have the same one; `p2pfs-node --new-secret` makes it. Better in secret_file: then this file may be shown to
        anybody, and it must be readable by its owner only when the secret stands here.""",
        reloadable=True,
    )
    secret_file: Path | None = _option(
        kinds.OPTIONAL_PATH, "",
        """File with the secret in its first line, readable by its owner only. Further lines are other secrets that
        are accepted too: during a rotation, add the new one as second line on every node, then make it the first on
        every node, then remove the old one, with a SIGHUP each.""",
        reloadable=True,
    )
    seeds: tuple[str, ...] = _option(
        kinds.ADDRESSES, "",
        """Nodes to ask for the others at the start. One that answers is enough, and it may be gone later: members
        are remembered. Empty on the first node.""",
    )
    replicas: int = _option(
        kinds.integer(1, 16), "3",
        """Copies of every block, on as many nodes; `store --replicas` overrides it for one file. A cluster with fewer
        members keeps as many copies as it has members, and `status` says so. Use the same on all nodes.""",
        reloadable=True,
    )
    write_quorum: int = _option(
        kinds.integer(1, 16), "2",
        """The fewest copies, safe on disk, with which a store is acknowledged. A store tries for all `replicas` and
        settles for this many when nodes fail; its receipt says how many there are. What is acknowledged survives the
        loss of one disk less than this at once.""",
        reloadable=True,
    )
    tombstone_life: float = _option(
        kinds.duration("1m", "3650d"), "90d",
        """How long it is remembered that a pin was removed. A node that was away for longer gives up what it knew
        instead of bringing removed pins back. Use the same on all nodes.""",
        reloadable=True,
    )
    tls_cert: Path | None = _option(
        kinds.OPTIONAL_PATH, "",
        """With a certificate authority of your own instead of a secret: this node's certificate (PEM, its chain
        after it). Goes with tls_key and tls_ca. SIGHUP reads all three again, for a renewed one.""",
        reloadable=True,
    )
    tls_key: Path | None = _option(
        kinds.OPTIONAL_PATH, "", "The certificate's private key (PEM, not encrypted), readable by its owner only.",
        reloadable=True,
    )
    tls_ca: Path | None = _option(
        kinds.OPTIONAL_PATH, "",
        """The certificates (PEM) of the authority: who has a certificate from it is a member of the cluster, so use
        an authority that serves nothing else.""",
        reloadable=True,
    )


@dataclass(frozen=True)
class Storage:
    """How files become blocks, and how much of the disk may be used."""

    hash: str = _option(
        kinds.choice("sha2-256", "blake3"), "sha2-256",
        """What new blocks are named by. sha2-256 gives the CIDs that other IPFS tools give; blake3 is a standard too
        and several times faster. Files stored before stay as they are.""",
        reloadable=True,
    )
    chunker: str = _option(
        kinds.choice("fixed-1MiB", "fixed-256KiB", "fastcdc-1MiB", "fastcdc-256KiB"), "fixed-1MiB",
        """How new files are cut into blocks. fixed-1MiB is the IPFS profile unixfs-v1-2025, fixed-256KiB what older
        IPFS tools do. fastcdc-1MiB cuts by content, so that two versions of a file that differ by an insertion
        share their blocks; fastcdc-256KiB shares more of them and makes four times as many.
        docs/DEDUPLICATION.md helps to choose.""",
        reloadable=True,
    )
    max_size: int = _option(
        kinds.size("0"), "0",
        "Bytes of blocks that this node keeps at most. 0: no limit but the disk and reserve_free.",
        reloadable=True,
    )
    reserve_free: int = _option(
        kinds.size("0"), "256MiB",
        """Bytes of the disk that stay free for others and for the catalog: no block is taken that would leave
        less.""",
        reloadable=True,
    )
    max_pins: int = _option(
        kinds.integer(1, 1_000_000_000), "2000000",
        """Records in the catalog at most, pins and what is remembered of removed ones: half a gigabyte of disk for a
        million. A full catalog takes no new pins; removing goes on. The same on all nodes.""",
        reloadable=True,
    )
    gc_grace: float = _option(
        kinds.duration("0s", "365d"), "24h",
        """Blocks that no pin wants are kept for so long after they were last stored, and after the pin was removed:
        so long `p2pfs-cli restore` can undo `rm`.""",
        reloadable=True,
    )
    scrub_period: float = _option(
        kinds.duration("1m", "365d"), "30d",
        "Every block on this node's disk is read and hashed again within this time.",
        reloadable=True,
    )


@dataclass(frozen=True)
class Repair:
    """How soon a lost node is noticed, and how often nodes compare what they know."""

    probe_interval: float = _option(
        kinds.duration("50ms", "1m"), "500ms",
        """One other member is probed this often. Shorter finds a dead one sooner and costs more packets; use the
        same timings on all nodes.""",
    )
    probe_timeout: float = _option(
        kinds.duration("50ms", "1m"), "500ms",
        """A member that does not answer a probe for so long is probed through others, and suspected when they get
        no answer either. Above the round trip to the furthest node, and not above probe_interval.""",
    )
    suspicion_min: float = _option(
        kinds.duration("100ms", "1h"), "2200ms",
        """A suspected member has at least so long to refute before it counts as dead; longer in large clusters, and
        while few others suspect it.""",
    )
    out_after: float = _option(
        kinds.duration("1s", "365d"), "10m",
        """A member that is dead for so long loses its shards to the next ones in rank. Longer than a reboot, or
        every reboot moves data.""",
        reloadable=True,
    )
    rate: int = _option(
        kinds.size("64KiB"), "64MiB",
        """Bytes a second that this node fetches at most to repair and to take over shards, so that users keep the
        rest of disk and network.""",
        reloadable=True,
    )
    audit_interval: float = _option(
        kinds.duration("1s", "30d"), "1h",
        """How often the whole catalog is compared with this node's disk, when nothing happened that calls for it
        sooner.""",
        reloadable=True,
    )
    sync_interval: float = _option(
        kinds.duration("100ms", "1h"), "10s",
        """How often the catalog is compared with a random member's, to find what was missed while a node was away;
        new pins are sent at once in any case.""",
    )
    push_pull_interval: float = _option(
        kinds.duration("100ms", "1h"), "30s",
        "How often the whole member list is exchanged with a random member.",
    )


@dataclass(frozen=True)
class Log:
    """What the node says on standard error."""

    level: str = _option(
        kinds.choice("debug", "info", "warning", "error"), "info",
        "The least important messages that are written.",
        reloadable=True,
    )
    format: str = _option(
        kinds.choice("text", "json"), "text",
        "text for people and the journal, json for programs: one object per line.",
        reloadable=True,
    )


@dataclass(frozen=True)
class Config:
    """All options of a node, typed: `config.node.listen`. Made by `p2pfs.config.load`, changed by none."""

    node: Node = dataclasses.field(default_factory=Node)
    cluster: Cluster = dataclasses.field(default_factory=Cluster)
    storage: Storage = dataclasses.field(default_factory=Storage)
    repair: Repair = dataclasses.field(default_factory=Repair)
    log: Log = dataclasses.field(default_factory=Log)
    secrets: tuple[Secret, ...] = ()
    """The cluster secrets that are accepted, from `secret` or `secret_file`; the first is ours. None: no secret."""

    @property
    def control_path(self) -> Path:
        """The control socket's path."""
        return self.node.control or self.node.data_dir / "control.sock"

    def value(self, row: Row) -> Any:
        """The value of one row of `ROWS`."""
        return getattr(getattr(self, row.section), row.key)


@dataclass(frozen=True)
class Row:
    """One option, as the parser and the printers see it."""

    section: str
    key: str
    kind: Kind[Any]
    default: str | HostDefault
    help: str
    reloadable: bool

    @property
    def name(self) -> str:
        """`section.key`, as in `-o`."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"P2PFS_{self.section}_{self.key}".upper()

    @property
    def is_secret(self) -> bool:
        """True when no message may show its value."""
        return self.kind is kinds.SECRET

    def default_text(self, environ: Mapping[str, str]) -> str:
        """The default as it would stand in a file."""
        return self.default if isinstance(self.default, str) else self.default.compute(environ)


SECTIONS: dict[str, type[Any]] = {"node": Node, "cluster": Cluster, "storage": Storage, "repair": Repair, "log": Log}

ROWS: dict[str, Row] = {
    row.name: row
    for section, cls in SECTIONS.items()
    for row in (Row(section, field.name, **field.metadata) for field in dataclasses.fields(cls))
}
"""Every option by `section.key`, in the order in which they are printed."""

SHARED = (
    "cluster.replicas", "cluster.write_quorum", "cluster.tombstone_life", "storage.hash", "storage.chunker",
    "storage.gc_grace", "repair.probe_interval", "repair.probe_timeout", "repair.suspicion_min",
)
"""Options that all nodes of a cluster should have alike: one that joins takes them over."""
