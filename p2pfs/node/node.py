"""The composition root: builds a node from its configuration, starts it, drains it, stops it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from p2pfs import errors, green, metrics
from p2pfs.config import Config
from p2pfs.core.member import Member
from p2pfs.core.membership import Change, Membership, Timing
from p2pfs.core.revocation import Revocations
from p2pfs.net.server import Server
from p2pfs.net.tls import Party
from p2pfs.node import handlers
from p2pfs.node.audit import Audit
from p2pfs.node.buffers import BufferPool
from p2pfs.node.cluster import Cluster
from p2pfs.node.fetch import Fetcher
from p2pfs.node.gossip import Gossip
from p2pfs.node.hello import Caller, new_instance
from p2pfs.node.identity import Identity
from p2pfs.node.invitations import Invitations
from p2pfs.node.levelling import Levelling
from p2pfs.node.local import LocalStore
from p2pfs.node.peers import Peers
from p2pfs.node.pinning import Pinning
from p2pfs.node.place import Placer
from p2pfs.node.reading import Reader
from p2pfs.node.scrub import Scrub
from p2pfs.node.services import Services
from p2pfs.node.small import SmallReader
from p2pfs.node.upkeep_verbs import DRAINING, is_drained
from p2pfs.store.catalog import ANEW, Catalog
from p2pfs.store.disk import DiskStore
from p2pfs.store.files import lock_data_dir, prepare_data_dir
from p2pfs.store.layout import TEMP
from p2pfs.store.revoked import load_revoked, save_revoked
from p2pfs.store.roster import load_members, save_members
from p2pfs.version import VERSION

log = logging.getLogger(__name__)

SAVE_S = 5.0
SAVE_DEAD_S = 30.0
SPACE_S = 5.0
RECOUNT_S = 600.0
"""After a count that failed: each one looks at every file up to the one that cannot be looked at."""
PLACEMENT_S = 1.0


class Node:
    """One running node. `start` returns when it listens; `wait` returns when it has stopped."""

    def __init__(self, config: Config) -> None:
        green.check_patched()
        self.config = config
        self._data_dir = config.node.data_dir
        self._group = green.Group("node", self._fail)
        self._connections = green.Group("connections")
        self._over = green.Event()
        self._failure: BaseException | None = None
        self._members_changed = True
        self._saving = green.Semaphore(1)
        self._saved_at = 0.0

    # --- start ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store, bind, and begin to talk. Raises P2pfsError with what to do about it."""
        started = time.time()
        prepare_data_dir(self._data_dir)
        self._lock = lock_data_dir(self._data_dir)
        self._invitations = Invitations(self._data_dir)
        self.identity = Identity(self._data_dir, self.config, self._invitations.context)
        self._invitations.load(self.identity.clusters)
        local = LocalStore(self._open_store(), self.config.node.disk_threads)
        usage = local.usage()
        catalog = self._open_catalog(may_have_blocks=bool(usage.blocks) or not usage.is_exact)
        caller = Caller(self.identity.id, self.config.node.name, new_instance(started))
        self._revoked = self._load_revoked()
        peers = Peers(caller, self.identity.client_context, self._refusal)
        self._server = self._bind()
        me = Member(
            id=self.identity.id, name=self.config.node.name, addresses=(self.address,),
            incarnation=int(started * 1000), zone=self.config.node.zone, capacity=self.config.node.capacity,
            version=VERSION,
        )
        membership = Membership(me, self._timing(), random.Random(), self._revoked)
        if catalog.recall(DRAINING) == "yes":
            membership.drain()
        cluster = Cluster(membership, peers, self.config.repair.out_after, bool(self.config.cluster.seeds))
        self.services = self._assemble(started, caller, local, catalog, cluster)
        membership.merge(time.monotonic(), [row for row in load_members(self._data_dir) if row.id != me.id], "")
        cluster.changed()
        metrics.PINS.set(catalog.counts().live)
        self._begin()

    def _refusal(self, party: Party) -> str | None:
        if party.id in self._revoked:
            return f"{party.id} was revoked in this cluster"
        return self.identity.refusal(party)

    def _load_revoked(self) -> Revocations:
        revoked = Revocations(load_revoked(self._data_dir))
        if self.identity.id in revoked:
            raise errors.Refused(
                f"the identity of this node, {self.identity.id}, was revoked; to become a new node, remove "
                f"{self._data_dir / 'identity.pem'}"
            )
        self._revoked_kept = len(revoked)
        return revoked

    def _open_store(self) -> DiskStore:
        storage = self.config.storage
        return DiskStore(self._data_dir, max_size=storage.max_size or None, reserve_free=storage.reserve_free)

    def _open_catalog(self, may_have_blocks: bool) -> Catalog:
        catalog = Catalog(self._data_dir / "catalog.sqlite")
        if catalog.quarantined:
            log.error("the catalog was damaged and begun anew; it fills up from the other members")
        snapshot = self._data_dir / "catalog.jsonl"
        catalog.max_records = self.config.storage.max_pins
        restored = catalog.refill(snapshot)
        if restored is not None:
            log.warning("the catalog was rebuilt from %s: %d records", snapshot, restored)
        elif catalog.is_new and may_have_blocks:
            catalog.remember(ANEW, "yes")
        return catalog

    def _bind(self) -> Server:
        node = self.config.node
        server = Server(
            self._connections.spawn, green.Semaphore, max_connections=node.max_connections, refusal=self._refusal
        )
        self.address = server.listen_tcp(node.listen, self.identity.server_context)
        if node.advertise:
            self.address = node.advertise
        self.control_path = str(self.config.control_path)
        server.listen_unix(self.control_path, node.control_mode, lambda: self.config.node.control_rights)
        return server

    def _timing(self) -> Timing:
        repair = self.config.repair
        return Timing(
            probe_interval_s=repair.probe_interval, probe_timeout_s=repair.probe_timeout,
            suspicion_min_s=repair.suspicion_min, sync_interval_s=repair.push_pull_interval,
        )

    def _assemble(
        self, started: float, caller: Caller, local: LocalStore, catalog: Catalog, cluster: Cluster
    ) -> Services:
        config = self.config
        own = BufferPool("own", config.node.buffers // 2)
        paced = BufferPool("paced", config.node.buffers // 4)
        pinning = Pinning(catalog, cluster, self._data_dir / "catalog.jsonl")
        levelling = Levelling(pinning, cluster, self._data_dir, config.repair.sync_interval)
        fetcher = Fetcher(local, cluster, own, self._copies)
        placer = Placer(local, cluster, self._data_dir / TEMP)
        return Services(
            config=config, caller=caller, identity=self.identity, started=started, local=local, own_buffers=own,
            serve_buffers=BufferPool("serve", config.node.buffers // 4), paced_buffers=paced, cluster=cluster,
            gossip=Gossip(cluster, config.cluster.seeds, self._changed, self._clash, self._on_revoke),
            pinning=pinning, levelling=levelling, fetcher=fetcher, placer=placer,
            reader=Reader(local, fetcher, own, paced),
            small=SmallReader(local, cluster, fetcher, own, self._copies),
            audit=Audit(local, cluster, fetcher, placer, levelling, lambda: self.config),
            scrub=Scrub(local, self._data_dir, lambda: self.config), invitations=self._invitations,
        )

    def _copies(self) -> int:
        return self.config.cluster.replicas

    def _begin(self) -> None:
        services = self.services
        self._server.start(handlers.bind(services))
        services.gossip.start()
        services.pinning.start()
        services.levelling.start()
        services.audit.start()
        services.scrub.start()
        self._group.loop("recount", self._recount)
        self._group.loop("space", self._report_space)
        self._group.loop("save-members", self._save_members, first_s=SAVE_S)
        self._group.loop("keep-revoked", self._keep_revoked, first_s=SAVE_S)
        self._group.loop("out-after", self._refresh_placement, first_s=PLACEMENT_S)

    # --- while it runs -------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        self._members_changed = True
        if not all(change.old for change in changes):
            # Before anybody counts on it: a node that forgets the others would take itself for a cluster of one.
            self._save_members()
        for change in changes:
            if change.new == "alive" and change.old != "alive":
                self.services.levelling.sync_soon(change.member.id)

    def _on_revoke(self) -> None:
        self._server.retire(at_once=True)
        self._keep_revoked()

    def _keep_revoked(self) -> float:
        with self._saving:
            count = len(self._revoked)
            if count != self._revoked_kept:
                self.services.local.run(save_revoked, self._data_dir, self._revoked.all())
                self._revoked_kept = count
        return SAVE_S

    def _clash(self, error: errors.IdentityRefused) -> None:
        self._fail("identity", error)

    def _fail(self, name: str, error: BaseException) -> None:
        """A greenlet that the node cannot do without has ended: so does the node, with its error."""
        if self._failure is None:
            self._failure = error
        self._over.set()

    def _recount(self) -> float:
        try:
            self.services.local.count()
        except errors.Interrupted:  # the node stops
            return RECOUNT_S
        except errors.P2pfsError as error:
            log.warning("what is stored cannot be counted: %s; again in %g s", error, RECOUNT_S)
            return RECOUNT_S
        return 24 * 3600.0

    def _report_space(self) -> float:
        local = self.services.local
        free = local.run(local.store.free_bytes)
        self.services.cluster.membership.report_space(local.usage().bytes, free)
        return SPACE_S

    def _save_members(self) -> float:
        # One at a time: a second writer would spoil the first one's file, or put older rows over newer ones.
        with self._saving:
            self._save_members_now()
        return SAVE_S

    def _save_members_now(self) -> None:
        # Of the dead it is kept for how long they are: a restart must not begin their `out_after` anew.
        is_old = time.monotonic() - self._saved_at > SAVE_DEAD_S
        if self._members_changed or (is_old and self.services.cluster.absent()):
            self._members_changed = False
            self._saved_at = time.monotonic()
            rows = self.services.cluster.membership.snapshot()[1:]
            try:
                self.services.local.run(save_members, self._data_dir, rows)
            except errors.P2pfsError as error:
                self._members_changed = True
                log.warning("the list of members cannot be kept: %s", error)

    def _refresh_placement(self) -> float:
        # A member that stays dead loses its shards at `out_after`, without any row changing.
        self.services.cluster.changed()
        return PLACEMENT_S

    def reload(self, config: Config) -> None:
        """Take over what can change while running. Raises P2pfsError, and nothing has changed then."""
        clusters, role = self.identity.clusters, self.config.node.control_rights
        self.identity.reload(config)
        if set(clusters) - set(self.identity.clusters):
            # Who was let in by the secret that is gone has to come again, with another one; and so have we.
            self.services.cluster.peers.retire()
            log.info("a secret is not accepted any more: %d connections under it end", self._server.retire())
        self.services.local.run(self._invitations.load, self.identity.clusters)
        self.config = self.services.config = config
        if config.node.control_rights != role:
            log.info("other users of the control socket have another role: %d connections end", self._server.retire())
        self.services.cluster.out_after_s = config.repair.out_after
        self.services.cluster.changed()
        self.services.pinning.catalog.max_records = config.storage.max_pins
        self.services.local.store.set_limits(config.storage.max_size or None, config.storage.reserve_free)
        self.services.audit.repair.forget_failures()

    def wait(self) -> None:
        """Until the node is stopped; raises the error of a part that it cannot do without."""
        self._over.wait()
        if self._failure is not None:
            raise self._failure

    # --- the end -------------------------------------------------------------------------------------

    def drain(self, grace_s: float) -> None:
        """Take no new connection or request; give what runs some time to end."""
        self._server.drain(grace_s)

    def _leave(self) -> None:
        """A node that was drained goes for good: nobody has to strike it."""
        if is_drained(self.services):
            self.services.gossip.leave()

    def stop(self) -> None:
        """Close everything. What was acknowledged is on disk already; nothing has to be saved for safety.

        A step that fails, on a full disk say, is logged, and the others follow.
        """
        services = self.services
        steps: list[Callable[[], object]] = [
            self._server.close, services.local.store.stop_counting, self._connections.close, services.audit.stop,
            services.scrub.stop, self._leave, services.gossip.stop, self._save_members, services.levelling.stop,
            services.pinning.stop,
            services.reader.close, services.small.close, services.fetcher.close, services.cluster.peers.close,
            self._group.close,
            lambda: services.local.run(services.local.store.close), services.local.close, self._lock.close,
        ]
        for step in steps:
            try:
                step()
            except (errors.P2pfsError, OSError) as error:
                log.error("while stopping: %s", error)
        self._over.set()
