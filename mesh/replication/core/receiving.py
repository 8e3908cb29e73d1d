"""The end of a link that receives changes, as a state machine over LinkService's messages.

It says where it is and how much it can take, and what of it is durable since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from isthmus.replication.v1 import frame_pb2, link_pb2

from mesh.replication.core import errors
from mesh.replication.core.batches import Write
from mesh.replication.core.clocks import (
    COUNTER_BITS,
    MAX_AHEAD_MS,
    Origin,
    Vector,
    origin_from_proto,
    vector_from_proto,
    vector_to_proto,
)
from mesh.replication.core.handing import Taking
from mesh.replication.core.handshake import check_hello, fault, hello
from mesh.replication.core.journal import Journal
from mesh.replication.core.relayed import Relayed

WINDOW_BYTES = 8 << 20
WINDOW_CHANGES = 1 << 16
"""How much a receiver takes on one link before it has merged it durably.

So much for the peer's own changes, and once more for each region that the peer relays.
"""

HEARSAY_MS = 100
"""How often a peer hears of what did not come from it, while nothing else is to be said."""


@dataclass
class PeerView:
    """What is known of a peer from its link."""

    origin: Origin | None = None
    vector: Vector = field(default_factory=dict)
    clocks: dict[str, int] = field(default_factory=dict)
    """By region, its own included, the clock of the newest heartbeat that reached the peer."""
    wall_ms: int = 0
    """What its wall clock showed in its last heartbeat; 0 if it never said."""


def bereft(peer: str, views: Mapping[str, PeerView], taken: Mapping[Origin, int]) -> set[str]:
    """The regions that lost a former life of their own, of which a peer has more than is here.

    By what all of them say of themselves: such a region is heard, and yet cannot send it.
    """
    found = set()
    for origin, sequence in views[peer].vector.items():
        own = views.get(origin.region)
        if own is None or own.origin is None or sequence <= taken.get(origin, 0):
            continue
        # Its new life need not have the higher number: its clock may have been set back.
        if sequence > own.vector.get(origin, 0) and own.origin != origin:
            found.add(origin.region)
    return found


class Receiver:
    """The end that asks for changes. One object serves one stream."""

    def __init__(self, journal: Journal, group: str, peer: str, view: PeerView) -> None:
        self._journal = journal
        self._group = group
        self._peer = peer
        self._view = view
        self._greeted = False
        self.relayed = Relayed(journal, peer)
        self._owed: deque[tuple[Origin, int, int, int]] = deque()
        self._taking = Taking(journal, peer)
        self._requests: list[link_pb2.FollowRequest] = []
        # Granted, and not merged yet: what is on its way, and what is owed.
        self._bytes = 0
        self._changes = 0
        # Of that, what came.
        self._owed_bytes = 0
        self._owed_changes = 0
        self._acknowledged: Vector | None = None
        self._acknowledged_ms = 0
        self._wanted: frozenset[str] = frozenset()
        # All that was ever wanted on this stream: frames may be under way when it changes.
        self._asked: frozenset[str] = frozenset()
        self._process = 0

    @property
    def greeted(self) -> bool:
        """Whether the sender answered."""
        return self._greeted

    def open(self, regions: Iterable[str]) -> list[link_pb2.FollowRequest]:
        """The first messages: who asks, what it wants, how much it can take."""
        self._wanted = self._asked = frozenset(regions)
        return [
            link_pb2.FollowRequest(hello=hello(self._journal, self._group, self._wanted)),
            *self._grant(),
        ]

    def want(self, regions: Iterable[str]) -> list[link_pb2.FollowRequest]:
        """Asks for other regions' changes from now on.

        More regions come with more credit: what was sent may wait for just their changes. With
        fewer, that much is not granted again.
        """
        wanted = frozenset(regions)
        if wanted == self._wanted:
            return []
        self._wanted = wanted
        self._asked |= wanted
        want = link_pb2.FollowRequest(want=link_pb2.Want(regions=sorted(wanted)))
        return [want, *self._grant()]

    def _grant(self) -> list[link_pb2.FollowRequest]:
        """More credit, once the sender has less than half a window left."""
        windows = 1 + len(self._wanted - {self._peer, self._journal.region})
        if (
            self._bytes - self._owed_bytes >= windows * WINDOW_BYTES // 2
            and self._changes - self._owed_changes >= windows * WINDOW_CHANGES // 2
        ):
            return []
        size = max(0, windows * WINDOW_BYTES - self._bytes)
        changes = max(0, windows * WINDOW_CHANGES - self._changes)
        if not size and not changes:
            return []
        self._bytes += size
        self._changes += changes
        return [_credit(size, changes)]

    def on_message(self, message: link_pb2.FollowResponse, now_ms: int) -> list[Write]:
        """Takes a message in. Returns local writes that are lost by it, to be refused.

        Raises the `LinkFault` that ends the link.
        """
        kind = message.WhichOneof("message")
        if kind == "error":
            raise fault(self._peer, message.error)
        self._journal.members.check_link(self._peer)
        if kind == "hello":
            check_hello(message.hello, self._group, self._peer, self._journal.region)
            self._process = message.hello.process
            self._heard(now_ms)
            self._greeted = True
            self._journal.integrity.with_peer(self._peer).forget()
            self._view.origin = origin_from_proto(message.hello.origin)
            self._view.vector = vector_from_proto(message.hello.vector)
            return self._journal.learn(self._peer, self._view.vector, now_ms)
        if not self._greeted:
            raise errors.LinkFault(f"{self._peer} sent {kind} before its hello")
        self._heard(now_ms)
        if kind == "frame":
            self._frame(message.frame, now_ms)
        elif kind == "key":
            self.relayed.introduce(message.key.SerializeToString(deterministic=True))
        elif kind == "heartbeat":
            self._heartbeat(message.heartbeat, now_ms)
        elif kind == "answer":
            self._journal.integrity.with_peer(self._peer).answered(message.answer)
        else:
            self._requests += self._taking.on_message(message, now_ms)
            if kind == "start":
                vector = self._journal.intake.vector
                return self._journal.learn(self._peer, vector, now_ms)
        return []

    def _heard(self, now_ms: int) -> None:
        self._journal.speakers.heard(self._peer, self, self._process, now_ms)

    def close(self) -> None:
        """The stream is over."""
        self._journal.speakers.ended(self._peer, self)

    def _frame(self, message: frame_pb2.Frame, now_ms: int) -> None:
        frame = self._journal.read(
            message.body, message.hash, now_ms, self._asked, message.signature
        )
        if frame.origin.region == self._peer:
            # The link itself vouches for it: both ends are authenticated.
            self._journal.take(frame)
        else:
            self.relayed.hold(frame)
        self._owed.append((frame.origin, frame.last, len(frame.body), frame.count))
        self._owed_bytes += len(frame.body)
        self._owed_changes += frame.count

    def release(self) -> bool:
        """Takes the relayed frames that are proven by now; tells whether there were any.

        One signature proves all that came while the last commit went on, so that many frames cost
        one check. Raises the `LinkFault` that ends the link.
        """
        return not self._journal.storing and self.relayed.release()

    def _heartbeat(self, message: link_pb2.Heartbeat, now_ms: int) -> None:
        vector = vector_from_proto(message.vector)
        self._view.vector = vector
        for mark in message.marks:
            self._journal.lag.note(origin_from_proto(mark.origin), mark.sequence, mark.clock)
        self._journal.lag.applied(self._journal.vector)
        self._view.wall_ms = message.wall_ms
        # One from the far future would hide all that come after it.
        heard, latest = message.heard, (now_ms + MAX_AHEAD_MS + 1) << COUNTER_BITS
        clocks = {region: clock for region in heard if (clock := heard[region]) < latest}
        if message.clock < latest:
            clocks[self._peer] = message.clock
        self._view.clocks = clocks
        # Acknowledged whether or not there is news: who asks is alive.
        self._acknowledged = None
        own = self._journal.origin
        if vector.get(own, 0) > self._journal.vector.get(own, 0):
            raise errors.RestoredBackup(f"{self._peer} knows more of {own} than is here")
        self._journal.integrity.with_peer(self._peer).parked = message.parked

    def settle(self, now_ms: int) -> list[link_pb2.FollowRequest]:
        """After a commit: acknowledges what is durable, and grants what it freed.

        At once if any of it was wanted from this peer. What came otherwise holds nobody up, and
        is said along with that, or with the first message or commit after `HEARSAY_MS`.
        """
        vector = self._journal.vector
        kept: deque[tuple[Origin, int, int, int]] = deque()
        for owed in self._owed:
            if vector.get(owed[0], 0) >= owed[1]:
                self._bytes -= owed[2]
                self._changes -= owed[3]
                self._owed_bytes -= owed[2]
                self._owed_changes -= owed[3]
            else:
                kept.append(owed)
        self._owed = kept
        freed = self._taking.freed()
        self._bytes -= freed
        messages, self._requests = self._requests, []
        if freed or self._news(vector, now_ms):
            self._acknowledged = vector
            self._acknowledged_ms = now_ms
            known, told = self._journal.known_of, self._journal.told
            messages.append(
                link_pb2.FollowRequest(
                    acknowledgement=link_pb2.Acknowledgement(
                        applied=told if known == vector else vector_to_proto(known),
                        durable=told,
                    )
                )
            )
        return messages + self._grant()

    def _news(self, vector: Vector, now_ms: int) -> bool:
        said = self._acknowledged
        if said is None or vector == said:
            return said is None
        mine = self._journal.origin
        return not 0 <= now_ms - self._acknowledged_ms < HEARSAY_MS or any(
            sequence != said.get(origin)
            for origin, sequence in vector.items()
            if origin != mine and origin.region in self._asked
        )

    def compare(self, now_ms: int) -> list[link_pb2.FollowRequest]:
        """Goes on comparing what is here with what the peer holds; asks it when that is due."""
        if not self._greeted:
            return []
        inquiry = self._journal.integrity.with_peer(self._peer).go_on(now_ms)
        return [] if inquiry is None else [link_pb2.FollowRequest(inquiry=inquiry)]


def _credit(size: int, changes: int) -> link_pb2.FollowRequest:
    return link_pb2.FollowRequest(credit=link_pb2.Credit(bytes=size, changes=changes))
