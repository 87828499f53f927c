"""Drives the membership table: probes, indirect probes, and push/pull.

The rules are `core/membership.py`; here are only the connections and the clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from p2pfs import errors, green
from p2pfs.core import hlc, placement, revocation, wire
from p2pfs.core.member import MAX_NEWS, MAX_ROWS, Member, news_from_wire, news_to_wire
from p2pfs.core.membership import TICK_S, Change
from p2pfs.net.connection import Connection
from p2pfs.node.cluster import Cluster
from p2pfs.node.doubles import Doubles
from p2pfs.node.peer import Peer
from p2pfs.node.seeking import Seeking

log = logging.getLogger(__name__)

ROWS_A_PING = 24
MESSAGE_S = 5.0
MEETINGS = 8
"""Members that others told of and that are being met at once."""
MEET_S = 0.1
SLICE = 64
"""Rows that are merged before others have their turn: a millisecond."""
AHEAD_LOG_S = 60.0


class Gossip:
    """The greenlets that keep the table true.

    `on_change` gets every change of state, once; `on_revoke` is called when ids were revoked. Both may wait for a disk.
    """

    def __init__(
        self,
        cluster: Cluster,
        seeds: tuple[str, ...],
        on_change: Callable[[list[Change]], None],
        on_clash: Callable[[errors.IdentityRefused], None],
        on_revoke: Callable[[], None],
    ) -> None:
        self.cluster = cluster
        self._on_change = on_change
        self._on_revoke = on_revoke
        self._group = green.Group("gossip")
        self._doubles = Doubles(cluster, self._group, on_clash)
        self._seeking = Seeking(cluster, seeds, self.say_all, self.hear_all)
        self._meetings = green.Group("meetings")
        self._exchanging = green.Semaphore(1)
        self._ahead_logged = -math.inf

    def start(self) -> None:
        """Begin to probe, and to look for somebody as long as nobody is known."""
        self._group.loop("tick", self._tick)
        self._group.loop("probe", self._probe_next)
        self._group.loop("meet", self._meet)
        self._group.loop("seeds", self._seeking.seek)

    def stop(self) -> None:
        """End. The others notice by themselves: a node that is restarted has not left."""
        self._group.close()
        self._meetings.close()

    # --- what is heard -------------------------------------------------------------------------------

    def hear(self, body: bytes, sender_id: str, most: int = MAX_NEWS) -> Member:
        """Merge the rows of a PING, MEMBERS or an answer to one; the sender's own.

        `sender_id` is what TLS proved. Raises ProtocolError, IdentityRefused.
        """
        message = wire.parse_json(body, dict)
        sender, rows = news_from_wire(message, most)
        if sender.id != sender_id:
            raise errors.IdentityRefused(f"{sender_id} speaks as {sender.id}")
        self._hear_revoked(revocation.from_wire(message))
        self._merge([sender], sender_id)
        for start in range(0, len(rows), SLICE):
            self._merge(rows[start : start + SLICE], sender_id)
            green.sleep(0)
        self.cluster.has_met = True
        return sender

    def hear_all(self, body: bytes, sender_id: str) -> Member:
        """As `hear`, of a whole table: one at a time, whoever sends them."""
        with self._exchanging:
            return self.hear(body, sender_id, MAX_ROWS)

    def _merge(self, rows: list[Member], sender_id: str) -> None:
        rows = self._of_our_time(rows, sender_id)
        self._doubles.watch(rows)
        for row in rows:
            if row.id == sender_id and self.cluster.membership.get(sender_id) is None:
                placement.prepare(sender_id)  # here, so that the hub does not stand still for many at once
        self._report(self.cluster.membership.merge(time.monotonic(), rows, sender_id))

    def _of_our_time(self, rows: list[Member], sender_id: str) -> list[Member]:
        """Without those that nobody could outrank for a day: an incarnation begins with the time of a start."""
        latest = int(time.time() * 1000) + hlc.MAX_AHEAD_MS
        good = [row for row in rows if row.incarnation <= latest]
        if len(good) < len(rows) and time.monotonic() - self._ahead_logged > AHEAD_LOG_S:
            self._ahead_logged = time.monotonic()
            log.warning("membership rows from %s refused: over a day in the future; check its clock", sender_id)
        return good

    def say_news(self, to: Member) -> bytes:
        """A membership message with what that member may not know yet."""
        membership = self.cluster.membership
        rows = membership.updates(ROWS_A_PING, to.id)
        known = membership.get(to.id)
        if known is not None and known.addresses != to.addresses:
            # Somebody else has its id, and outranks it: it has to hear so, to find out who was there first.
            rows.append(known)
        revoked = revocation.to_wire(membership.revoked_updates())
        return wire.dump_json(news_to_wire(membership.me, rows) | revoked)

    def say_all(self) -> bytes:
        """A membership message with every row."""
        membership = self.cluster.membership
        revoked = revocation.to_wire(membership.revoked.all())
        return wire.dump_json(news_to_wire(membership.me, membership.snapshot()[1:]) | revoked)

    def forget(self, id: str) -> None:
        """Strike a dead member; the others hear of it with the next probes. Raises NotFound, Refused."""
        self._report([self.cluster.membership.forget(time.monotonic(), id)])

    def revoke(self, id: str) -> list[Member]:
        """Have an id refused everywhere, for good; the members that did not confirm to know of it yet.

        Raises NoSpace, Busy, Refused when it is in force and cannot be kept here.
        """
        self._take_revoked([id])
        asked = {
            peer.member.id: self._group.spawn("revoke", self._tell_revoked, peer, id)
            for peer in self.cluster.live_peers()
        }
        green.wait(list(asked.values()), timeout=MESSAGE_S)
        told = {self.cluster.id, *(of for of, greenlet in asked.items() if greenlet.value)}
        return [member for member in self.cluster.members() if member.id not in told]

    def _tell_revoked(self, peer: Peer, id: str) -> bool:
        """Does it know afterwards? A version that knows no revocation takes the message, and answers without a list."""
        try:
            answer = self._push(peer)
            self.hear_all(answer, peer.member.id)
            return id in revocation.from_wire(wire.parse_json(answer, dict))
        except errors.P2pfsError as error:
            log.warning("%s does not know yet what was revoked: %s", peer.member.name, error)
            return False

    def _hear_revoked(self, ids: list[str]) -> None:
        try:
            self._take_revoked(ids)
        except (errors.NoSpace, errors.Busy, errors.Refused) as error:
            log.error("revoked ids hold until a restart; they cannot be kept: %s", error)

    def _take_revoked(self, ids: list[str]) -> None:
        membership = self.cluster.membership
        before = len(membership.revoked)
        self._report(membership.revoke(time.monotonic(), ids))
        if len(membership.revoked) > before:
            self._on_revoke()

    def leave(self) -> None:
        """Tell everybody that this node goes for good: it has given away all that it held."""
        self.cluster.membership.leave()
        group = green.Group("leave")
        for peer in self.cluster.live_peers():
            group.spawn(peer.member.name, self._exchange, peer.member)
        group.join(MESSAGE_S)
        group.close()

    def _report(self, changes: list[Change]) -> None:
        if not changes:
            return
        self.cluster.changed()
        self._on_change(changes)
        for change in changes:
            member = change.member
            if change.old != change.new:
                log.info(
                    "member %s is %s", member.name, change.new,
                    extra={"id": member.id, "before": change.old, "address": ",".join(member.addresses)},
                )
            if not member.is_reachable:
                self.cluster.peers.drop(member.id)

    # --- the loops -----------------------------------------------------------------------------------

    def _tick(self) -> float:
        membership, now = self.cluster.membership, time.monotonic()
        self._report(membership.tick(now))
        partner = membership.next_sync(now)
        if partner is not None:
            self._group.spawn(f"exchange-{partner.name}", self._exchange, partner)
        return TICK_S

    def _probe_next(self) -> float:
        target = self.cluster.membership.next_probe(time.monotonic())
        if target is not None:
            self._group.spawn(f"probe-{target.name}", self._probe, target)
        return self.cluster.membership.probe_interval_s()

    def _meet(self) -> float:
        while len(self._meetings) < MEETINGS:
            target = self.cluster.membership.next_stranger(time.monotonic())
            if target is None:
                break
            self._meetings.spawn(target.name, self._meet_one, target)
        return MEET_S

    def _meet_one(self, target: Member) -> None:
        self._probe(target)
        if self.cluster.membership.get(target.id) is None:
            self.cluster.peers.forget(target.id)

    def _probe(self, target: Member) -> None:
        membership = self.cluster.membership
        try:
            round_trip_s = self.ping(self.cluster.peers.get(target), membership.probe_timeout_s)
        except errors.P2pfsError as error:
            log.debug("probe of %s: %s", target.name, error)
        else:
            membership.probe_ok(time.monotonic(), target.id, round_trip_s)
            return
        helpers = membership.probe_failed(time.monotonic(), target.id)
        asks = [self._group.spawn(f"pingreq-{helper.name}", self._ask_helper, helper, target.id) for helper in helpers]
        green.wait(asks, timeout=2 * membership.probe_timeout_s)
        answers = [ask.value for ask in asks]
        if True in answers:
            self._report(membership.indirect_ok(time.monotonic(), target.id))
        else:
            self._report(membership.indirect_failed(time.monotonic(), target.id, answers.count(None)))

    def ping(self, peer: Peer, timeout_s: float) -> float:
        """One probe: our news there, its news here; the seconds that the answer took. Raises P2pfsError."""
        body = self.say_news(peer.member)

        def use(connection: Connection) -> tuple[bytes, float]:
            begin = time.monotonic()  # once there is a connection: to open one takes several round trips
            return connection.request("PING", body=body, first_byte_s=timeout_s), time.monotonic() - begin

        with green.deadline(timeout_s, f"PING of {peer.member.name}"):
            answer, round_trip_s = peer.call("probe", use, timeout_s)
        peer.window.note(round_trip_s)
        self.hear(answer, peer.member.id)
        return round_trip_s

    def _ask_helper(self, helper: Member, target_id: str) -> bool | None:
        """Could the helper reach it? None: the helper itself did not say, and the fault may be our own slowness."""
        timeout_s = 2 * self.cluster.membership.probe_timeout_s
        try:
            with green.deadline(timeout_s, f"PINGREQ to {helper.name}"):
                self.cluster.peers.get(helper).call(
                    "probe",
                    lambda connection: connection.request("PINGREQ", target_id, first_byte_s=timeout_s),
                    timeout_s,
                )
        except errors.NotFound:
            return False
        except errors.P2pfsError as error:
            log.debug("indirect probe by %s: %s", helper.name, error)
            # Its host says at once that its node is not there: that is no sign of ours being slow.
            return False if isinstance(error.__cause__, ConnectionRefusedError) else None
        return True

    def _exchange(self, partner: Member) -> None:
        """Full push/pull of the table with one member."""
        try:
            self.hear_all(self._push(self.cluster.peers.get(partner)), partner.id)
        except errors.P2pfsError as error:
            log.warning("exchange with %s: %s", partner.name, error)

    def _push(self, peer: Peer) -> bytes:
        body = self.say_all()
        return peer.call("probe", lambda connection: connection.request("MEMBERS", body=body), MESSAGE_S)
