"""What a node says about its upkeep, as typed values: STATUS, and the verbs that run its background work now."""

from __future__ import annotations

from typing import NamedTuple

from p2pfs.core.cid import CID
from p2pfs.core.health import Figures


class AuditStep(NamedTuple):
    """How far a pass of the audit is; what a `progress` callback is given."""

    phase: str
    """`walk`, `compare`, `repair` or `collect`."""
    done: int
    """Of `total`, in this phase."""
    total: int
    fetched_bytes: int
    """Since the node was started."""
    left_bytes: int
    """What is still to be fetched, as far as it is known by now."""


class Audited(NamedTuple):
    """What a pass of the audit found and did."""

    pins: int
    blocks: int
    """Distinct blocks that the pins want, whichever node they are on."""
    bytes: int
    fetched_blocks: int
    fetched_bytes: int
    given_up_blocks: int
    """Dropped because others own them and hold them."""
    given_up_bytes: int
    collected_blocks: int
    """Dropped because no pin wants them."""
    collected_bytes: int
    missing_blocks: int
    """What this node should hold and still does not."""
    missing_bytes: int
    unreadable: list[CID]
    """Roots below which a branch cannot be read."""
    held_up: str
    """Why nothing was collected; empty when nothing stood in the way."""
    seconds: float
    is_done: bool
    """False when the pass has only begun: then the figures say nothing yet."""


class ScrubStep(NamedTuple):
    """How far a scrub is."""

    done: int
    """Shards, of `total`."""
    total: int
    blocks: int
    bytes: int
    bad_blocks: int


class Scrubbed(NamedTuple):
    """What a scrub found."""

    blocks: int
    bytes: int
    bad_blocks: int
    """Bad copies, all in quarantine now."""
    healed_blocks: int
    """Those of them that were fetched again."""
    seconds: float
    is_done: bool
    """False when it has only begun."""


class Collected(NamedTuple):
    """What was collected, or in a dry run would be."""

    collected_blocks: int
    collected_bytes: int
    waiting_blocks: int
    """Unwanted, and not collected: still in their grace, kept for `restore`, or held up."""
    waiting_bytes: int
    held_up: str
    """Why nothing is collected; empty when nothing stands in the way."""
    dry_run: bool


class DrainStep(NamedTuple):
    """What the others still have to take over."""

    left_blocks: int
    left_bytes: int


class Drained(NamedTuple):
    """How far a drain is."""

    is_draining: bool
    is_drained: bool
    """Nothing is left here that has fewer copies elsewhere than wanted: the node can be stopped."""
    left_blocks: int
    left_bytes: int


class Forgotten(NamedTuple):
    """A member that was struck from the list."""

    id: str
    name: str


class Revoked(NamedTuple):
    """A member or client that gets nothing any more."""

    id: str
    name: str
    """Empty for a client, and for a member that is not on the list any more."""
    untold: list[str]
    """Members that did not confirm to know it; they will, when they meet one that does."""


class Granted(NamedTuple):
    """Who may use the cluster from now on."""

    id: str
    """The hash of its key: what can be revoked."""
    name: str
    role: str
    expires: int
    """Wall clock in seconds."""
    path: str
    """The folder with its key and certificate."""


class Signed(NamedTuple):
    """What a node answers to a request for a certificate."""

    id: str
    name: str
    role: str
    expires: int
    certificate: str
    ca: str


class Invited(NamedTuple):
    """An invitation for a machine that is to join the cluster."""

    token: str
    """One word for `p2pfs-node join`. Who has it can become a member until it expires: a secret."""
    id: str
    expires: int
    """Unix time in seconds."""
    once: bool
    """It lets one machine in, and no second one."""
    cluster: str
    """Fingerprint of the cluster's authority."""
    address: str
    """Where the machine will connect to."""


class LostPin(NamedTuple):
    """A pin some of whose blocks no member has any more."""

    cid: CID
    name: str
    blocks: int
    """How many of them are lost."""
    bytes: int


class AuditState(NamedTuple):
    """The audit as `status` shows it."""

    is_running: bool
    phase: str
    done: int
    total: int
    last_end: float | None
    """Wall clock in seconds; None before the first pass was through."""
    last_s: float | None
    """How long that pass took."""
    is_current: bool
    """It has seen the last change of members and pins."""
    held_up: str
    unreadable: list[CID]


class ScrubState(NamedTuple):
    """The scrub as `status` shows it."""

    oldest_s: float | None
    """No block was verified longer ago than this; None when that is unknown."""
    period_s: float
    blocks: int
    """Read since the node was started."""
    bytes: int
    bad_blocks: int
    is_running: bool


class Status(NamedTuple):
    """Health of node and cluster; docs/OPERATIONS.md explains each field. Older nodes leave out what has a default."""

    verdict: str
    """`healthy`, `degraded`, `at-risk` or `lost`."""
    reasons: list[str]
    node: str
    id: str
    version: str
    address: str
    uptime_s: float
    members: dict[str, int]
    replicas: int
    replicas_possible: int
    write_quorum: int
    pins: int
    tombstones: int
    blocks: int
    stored_bytes: int
    is_counted: bool
    free_bytes: int
    quarantined: int
    buffers_in_use: int
    memory_bytes: int
    left_bytes: int | None = None
    """What has to be copied or moved still, in the whole cluster."""
    time_to_go_s: float | None = None
    """Until that is done; None when it cannot be known."""
    health: Figures | None = None
    """What the audits of all nodes found, added up."""
    lost_pins: list[LostPin] | None = None
    audit: AuditState | None = None
    scrub: ScrubState | None = None
    is_draining: bool | None = None
