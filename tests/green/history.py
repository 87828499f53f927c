"""A cluster of real catalogs under a virtual clock, what users do to it and what befalls it; and what must hold then.

Nothing runs beside anything: calls of members are calls of functions, and jobs of the catalog's thread run where they
are asked for. So a history is the same each time that it is played.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from p2pfs import errors, green
from p2pfs.core import hlc, rights
from p2pfs.core.cid import CID, RAW
from p2pfs.core.member import Member
from p2pfs.core.multihash import SHA2_256, multihash
from p2pfs.core.pins import Key, Pin
from p2pfs.node import member_verbs, user_verbs
from p2pfs.node.collecting import Collection
from p2pfs.node.levelling import Levelling
from p2pfs.node.node import Node
from p2pfs.node.pinning import Pinning
from p2pfs.node.securing import make_pins
from p2pfs.store.catalog import MAX_RECORDS

DAY_S = 24 * 3600
LIFE_S = 90 * DAY_S
START_MS = 1_800_000_000_000
ROOTS = [CID(RAW, multihash(SHA2_256, b"%d" % number)) for number in range(2)]
NAMES = ["", "a"]


class Inline:
    """In the place of a native thread."""

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Now, and here."""
        return fn(*args, **kwargs)

    def close(self) -> None:
        """Nothing is left."""


class Session:
    """What a handler sees of a request, and its answer."""

    party = SimpleNamespace(id="caller")

    def __init__(self, body: bytes = b"") -> None:
        self._body = body
        self.parts: list[bytes] = []
        self.result = b""

    def body(self) -> bytes:
        """Of the request."""
        return self._body

    def part(self, *pieces: bytes) -> None:
        """Of the answer."""
        self.parts.append(b"".join(pieces))

    def reply(self, result: bytes = b"") -> None:
        """The end of the answer."""
        self.result = result

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)


VERBS = {"PIN": member_verbs.pin, "DIGESTS": member_verbs.digests, "BUCKET": member_verbs.bucket}


class Wires:
    """A connection of a node to another one."""

    def __init__(self, history: History, one: str, other: str) -> None:
        self._history, self._one, self._other = history, one, other

    def stream(self, verb: str, *args: int, body: bytes = b"") -> Session:
        """As `Connection.stream`."""
        history, pair = self._history, (self._one, self._other)
        history.interrupt()
        if not history.hears(*pair):
            raise errors.Unreachable(f"{self._other} does not answer")
        session = Session(body)
        if verb == "HEALTH":
            lacks = history.nodes[self._other].catalog.lacks_records()
            session.reply(json.dumps({"lacks_records": lacks}).encode())
        else:
            VERBS[verb](history.services[self._other], cast(Any, session), cast(Any, SimpleNamespace(args=args)))
        history.interrupt()
        if pair in history.answers_lost:
            raise errors.Unreachable(f"the answer of {self._other} was lost")
        if verb == "PIN" and body != b"[]":
            for wish in history.under_way:
                if wish.node == self._one:
                    wish.answered.add(self._other)
        return session

    def request(self, verb: str, *args: int, body: bytes = b"") -> bytes:
        """As `Connection.request`."""
        return self.stream(verb, *args, body=body).result


class Link:
    """A peer of a node."""

    def __init__(self, history: History, one: str, member: Member) -> None:
        self._history, self._one, self.member = history, one, member

    @property
    def clock_ahead_s(self) -> float:
        """Its clock less ours."""
        ahead = self._history.ahead_ms
        return (ahead[self.member.id] - ahead[self._one]) / 1000

    def read_clock(self) -> None:
        """It is always known."""

    def call(self, lane: str, use: Callable[[Any], Any], wait_s: float = 10.0) -> Any:
        """As `Peer.call`."""
        if self.member.id in self._history.slow:
            green.sleep(0.001)
        return use(Wires(self._history, self._one, self.member.id))


class View:
    """The cluster as one node sees it."""

    has_met, knows_nobody = True, False
    membership = SimpleNamespace(unmet=list, left_out=0)

    def __init__(self, history: History, id: str) -> None:
        self._history, self.id = history, id

    @property
    def is_draining(self) -> bool:
        """This node is to leave."""
        return self.id in self._history.draining

    def members(self) -> list[Member]:
        """All that belong to the cluster."""
        history = self._history
        alive = {id: history.side[id] == history.side[self.id] for id in history.ids}
        return [
            Member(id, id, (), "alive" if alive[id] else "dead", drains=id in history.draining)
            for id in history.ids if alive[id] or id not in history.struck[self.id]
        ]

    def absent(self) -> list[Member]:
        """Those that do not answer."""
        return [member for member in self.members() if member.state == "dead"]

    def live_peers(self) -> list[Any]:
        """Those that should."""
        return [Link(self._history, self.id, it) for it in self.members() if it.state == "alive" and it.id != self.id]

    def quorum(self, copies: int) -> int:
        """As `Cluster.quorum`."""
        return max(1, min(copies, sum(not member.drains for member in self.members())))

    def names(self, ids: list[str]) -> str:
        """For people."""
        return ", ".join(ids)


class Wish:
    """A store, or a removal, of some keys."""

    def __init__(self, node: str, begin: int) -> None:
        self.node, self.begin = node, begin
        self.end = begin
        self.keys: set[Key] = set()
        self.is_done = False
        """It was acknowledged."""
        self.answered: set[str] = {node}
        """Nodes that said something to its records."""
        self.quorum = 1
        self.lost: set[str] = set()
        """Nodes that lost all their records since then, until all was everywhere."""
        self.unsure: set[Key] = set()
        """Of these nobody can say which of two wishes is the later one."""


class Damage(NamedTuple):
    """In the place of a database that broke."""

    close: Callable[[], None]

    def execute(self, *args: object) -> None:
        """As it is told."""
        broken = sqlite3.DatabaseError("database disk image is malformed")
        broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise broken


class History:
    """Some nodes, and all that happened."""

    def __init__(self, folder: Path, size: int, write_quorum: int) -> None:
        self.folder, self.write_quorum = folder, write_quorum
        self.now_ms = START_MS
        self.ids = [f"n{number}" for number in range(size)]
        self.side = dict.fromkeys(self.ids, 0)
        self.ahead_ms = dict.fromkeys(self.ids, 0)
        self.deaf: set[tuple[str, str]] = set()
        self.answers_lost: set[tuple[str, str]] = set()
        self.slow: set[str] = set()
        self.draining: set[str] = set()
        self.struck: dict[str, set[str]] = {id: set() for id in self.ids}
        self.nodes: dict[str, Pinning] = {}
        self.levelling: dict[str, Levelling] = {}
        self.services: dict[str, Any] = {}
        self.under_way: list[Wish] = []
        self.stores: list[Wish] = []
        self.removals: list[Wish] = []
        self.meanwhile: list[tuple[int, Callable[[], None]]] = []
        self.may_return = False
        """Something happened after which what was removed may come back."""
        self._ticks = 0
        for id in self.ids:
            self._begin(id)

    # --- nodes ---------------------------------------------------------------------------------------

    def _begin(self, id: str) -> None:
        folder = self.folder / id
        folder.mkdir(exist_ok=True)
        config = SimpleNamespace(
            storage=SimpleNamespace(max_pins=MAX_RECORDS), cluster=SimpleNamespace(write_quorum=self.write_quorum),
        )
        catalog = Node._open_catalog(cast(Any, SimpleNamespace(_data_dir=folder, config=config)), self._ticks > 0)
        catalog._db.execute("PRAGMA synchronous = OFF")
        view = cast(Any, View(self, id))
        node = Pinning(catalog, view, folder / "catalog.jsonl", lambda: self.now_ms + self.ahead_ms[id])
        node._thread.close()
        node._thread = cast(Any, Inline())
        self.nodes[id] = node
        self.levelling[id] = Levelling(node, view, folder, 30.0)
        self.services[id] = SimpleNamespace(
            pinning=node, levelling=self.levelling[id], cluster=view, config=config,
            fetcher=SimpleNamespace(branch=None),
        )
        self.tend(id)

    def tend(self, id: str) -> None:
        """The journal is written anew, if it wants to be."""
        node = self.nodes[id]
        node.run(node.catalog.tend_journal)

    def end(self, id: str, *, is_clean: bool = True) -> None:
        """Stop a node, or kill it."""
        self.levelling[id].stop()
        if not is_clean:
            journal = self.nodes[id].catalog._journal
            assert journal is not None
            journal.close()
            self.nodes[id].catalog._journal = None
        self.nodes[id].stop()

    def restart(self, id: str, how: str) -> None:
        """`clean`, `kill`, or with something lost: `catalog`, `journal`, `both`; or `broken` while it runs."""
        if any(wish.node == id for wish in self.under_way):
            return
        folder, catalog = self.folder / id, self.nodes[id].catalog
        was_current = catalog._journal is not None and catalog._journal.is_current
        if how == "broken":
            catalog._db = cast(Any, Damage(catalog._db.close))
            self.nodes[id].run(catalog.pins)
        else:
            self.end(id, is_clean=how in ("clean", "journal"))
            if how in ("catalog", "both"):
                for path in folder.glob("catalog.sqlite*"):
                    path.unlink()
            if how in ("journal", "both"):
                (folder / "catalog.jsonl").unlink(missing_ok=True)
            self._begin(id)
        if how == "both" or (how in ("broken", "catalog") and not was_current):
            self.may_return = True
            for wish in self.stores:
                wish.lost.add(id)

    def close(self) -> None:
        """End all."""
        for id in self.ids:
            self.end(id)

    # --- the network, and time -----------------------------------------------------------------------

    def hears(self, one: str, other: str) -> bool:
        """What one sends reaches the other."""
        return self.side[one] == self.side[other] and (one, other) not in self.deaf

    def interrupt(self) -> None:
        """Something may happen in the middle of an operation."""
        if self.meanwhile:
            left, action = self.meanwhile.pop()
            if left:
                self.meanwhile.append((left - 1, action))
            else:
                action()

    def cut(self, ids: set[str]) -> None:
        """These on one side, the others on the other; none: one network again."""
        self.side = {id: int(id in ids) for id in self.ids}
        for id in self.ids:
            self.struck[id] -= {other for other in self.ids if self.side[other] == self.side[id]}

    def strike(self, one: str) -> None:
        """Everybody on this node's side forgets those on the other side."""
        others = {id for id in self.ids if self.side[id] != self.side[one]}
        self.may_return |= bool(others)
        for id in self.ids:
            if id not in others:
                self.struck[id] |= others

    def pass_s(self, seconds: float) -> None:
        """Time goes by."""
        self.now_ms += int(seconds * 1000)

    # --- what users do -------------------------------------------------------------------------------

    def _tick(self) -> int:
        self._ticks += 1
        self.now_ms += 1
        return self._ticks

    def _play(self, wish: Wish, act: Callable[[], None]) -> None:
        self.under_way.append(wish)
        try:
            act()
            wish.is_done = True
        except (errors.TooFewNodes, errors.NoSpace, errors.Refused, errors.NotFound):
            pass
        finally:
            self.under_way.remove(wish)
            wish.end = self._tick()

    def _make(self, id: str, pins: Callable[[], list[Pin]], is_new: bool) -> None:
        wish = Wish(id, self._tick())
        node = self.nodes[id]

        def act() -> None:
            if is_new:
                node.check_room()
            made = pins()
            wish.keys = {pin.key for pin in made}
            wish.quorum = View(self, id).quorum(self.write_quorum)
            ingest = SimpleNamespace(keep=lambda: None, quorum=wish.quorum)
            make_pins(self.services[id], cast(Any, ingest), made, rights.OF_MEMBER)

        self.stores.append(wish)
        self._play(wish, act)
        for key in wish.keys:
            stamp = max((it.stamp for it in self.known(key) if not it.removed), default=0)
            # Who was not heard, and removed it by a clock that is ahead: of two wishes apart either may hold.
            rivals = self.known(key, set(self.ids) - wish.answered)
            ours = self.known(key, {id})
            if any(it.removed and it.stamp > stamp for it in rivals) and not any(it.removed for it in ours):
                wish.unsure.add(key)

    def store(self, id: str, root: int, name: str) -> None:
        """STORE, when all blocks are there."""
        self._make(id, lambda: [Pin(ROOTS[root], name, 1, None, 1, 1, 1, self.nodes[id].stamp(), id)], True)

    def restore(self, id: str, ref: str) -> None:
        """RESTORE, when all blocks are there."""
        self._make(id, lambda: [
            pin._replace(removed=False, origin=id)
            for pin in user_verbs._last_known(self.services[id], ref)
        ], False)

    def remove(self, id: str, ref: str) -> None:
        """UNPIN."""
        wish = Wish(id, self._tick())
        session = Session()
        catalog = self.nodes[id].catalog
        # Should it fail in the middle, any of these may be gone.
        wish.keys = {pin.key for pin in catalog.pins() if ref in (str(pin.cid), pin.name)}

        def act() -> None:
            user_verbs.unpin(self.services[id], cast(Any, session), cast(Any, SimpleNamespace(args=(ref,))))

        self.removals.append(wish)
        self._play(wish, act)
        if wish.is_done:
            wish.keys = {(CID.parse(it["cid"]), it["name"]) for it in json.loads(session.result)["removed"]}
        for key in wish.keys:
            stamp = max((it.stamp for it in self.known(key) if it.removed), default=0)
            if any(not it.removed and it.stamp > stamp for it in self.known(key)):
                wish.unsure.add(key)

    # --- what nodes do -------------------------------------------------------------------------------

    def compare(self, one: str, other: str) -> None:
        """One compares with the other, if it can."""
        if one != other and self.side[one] == self.side[other]:
            self.levelling[one]._try_compare(cast(Any, Link(self, one, Member(other, other, ()))))

    def level(self) -> None:
        """Everybody compares with everybody."""
        for one in self.ids:
            for other in self.ids:
                self.compare(one, other)

    def purge(self, id: str) -> None:
        """What an audit does with old tombstones, when nothing speaks against collecting."""
        collection = Collection(cast(Any, None), cast(Any, View(self, id)), self.levelling[id])
        collection._past_ms = max(0, self.nodes[id].now_ms() - DAY_S * 1000)
        if not (collection.obstacle() or collection.meet_all()):
            self.levelling[id].purge(LIFE_S)

    # --- what must hold ------------------------------------------------------------------------------

    def known(self, key: Key, ids: set[str] | None = None) -> list[Pin]:
        """Records of a key."""
        found = (self.nodes[id].run(self.nodes[id].catalog.record, key) for id in (self.ids if ids is None else ids))
        return [pin for pin in found if pin is not None]

    def heal(self) -> None:
        """All faults end, clocks are right, and time passes until no stamp is of the future."""
        self.meanwhile, self.deaf, self.answers_lost, self.slow = [], set(), set(), set()
        self.ahead_ms = dict.fromkeys(self.ids, 0)
        self.cut(set())
        for node in self.nodes.values():
            node.catalog.max_records = MAX_RECORDS
        newest = max(hlc.ms_of(node.catalog.newest_stamp()) for node in self.nodes.values())
        self.now_ms = max(self.now_ms, newest)
        for _ in range(3):
            self.level()
            self.pass_s(1)
        for wish in self.stores:
            if len(wish.lost) < wish.quorum:
                wish.lost, wish.quorum = set(), len(self.ids)

    def live(self, id: str) -> dict[Key, Pin]:
        """The pins that a node knows."""
        return {pin.key: pin for pin in self.nodes[id].catalog.pins()}

    def check(self) -> None:
        """To be called when all is healed."""
        lives = {id: self.live(id) for id in self.ids}
        first = lives[self.ids[0]]
        assert all(live == first for live in lives.values()), lives
        assert all(levelling.compare_all() == {} for levelling in self.levelling.values())
        for root in ROOTS:
            for name in NAMES:
                key = (root, name)
                if self._must_live(key):
                    assert key in first, f"an acknowledged store of {key} is lost"
                if self._must_not_live(key):
                    assert key not in first, f"a removed pin of {key} is back"

    def _must_live(self, key: Key) -> bool:
        removals = [wish for wish in self.removals if key in wish.keys]
        return any(
            key in wish.keys and wish.is_done and key not in wish.unsure and len(wish.lost) < wish.quorum
            and all(other.end < wish.begin for other in removals)
            for wish in self.stores
        )

    def _must_not_live(self, key: Key) -> bool:
        if self.may_return:
            return False
        stores = [wish for wish in self.stores if key in wish.keys]
        return any(
            key in wish.keys and wish.is_done and key not in wish.unsure
            and all(other.end < wish.begin for other in stores)
            for wish in self.removals
        )
