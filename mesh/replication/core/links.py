"""Both ends of a link, as state machines over the messages of isthmus.replication.v1.LinkService.

The receiver says where it is and how much it can take; the sender sends what it has stored beyond
that, in the order in which it committed, which is a causal order. Frames travel as stored bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from isthmus.replication.v1 import frame_pb2, lag_pb2, link_pb2, signature_pb2

from mesh.replication.core import errors
from mesh.replication.core.answers import Answers
from mesh.replication.core.clocks import (
    MAX_AHEAD_MS,
    Origin,
    Vector,
    milliseconds,
    origin_from_proto,
    vector_from_proto,
    vector_to_proto,
)
from mesh.replication.core.frames import FORMAT, FORMATS, FrameLog, StoredFrame
from mesh.replication.core.handing import Giving, Taking
from mesh.replication.core.journal import Journal, Write
from mesh.replication.core.relayed import Relayed
from mesh.replication.core.signatures import KEY_ID_BYTES

HEARTBEAT_MS = 1000
WINDOW_BYTES = 8 << 20
WINDOW_CHANGES = 1 << 16
"""How much a receiver takes on one link before it has merged it durably.

So much for the peer's own changes, and once more for each region that the peer relays.
"""

_READ_BYTES = 2 << 20

_FAULTS: dict[int, type[errors.LinkFault]] = {
    fault.reason: fault
    for fault in (
        errors.HistoryTruncated,
        errors.ChainBroken,
        errors.WrongGroup,
        errors.WrongRegion,
        errors.FormatUnknown,
        errors.ClockAhead,
        errors.RestoredBackup,
        errors.Evicted,
        errors.Left,
        errors.SnapshotDamaged,
        errors.SignatureInvalid,
        errors.RegionClaimedTwice,
    )
}


def error_message(fault: errors.LinkFault) -> link_pb2.FollowResponse:
    """What tells the peer why its link ends."""
    return link_pb2.FollowResponse(
        error=link_pb2.LinkError(reason=fault.reason, message=str(fault), remedy=fault.remedy)
    )


def hello(journal: Journal, group: str, regions: Iterable[str] = ()) -> link_pb2.FollowHello:
    """What either end says of itself first."""
    return link_pb2.FollowHello(
        group=group,
        origin=frame_pb2.Origin(
            region=journal.origin.region, incarnation=journal.origin.incarnation
        ),
        formats=FORMATS,
        contract_digest=journal.contract_digest,
        vector=vector_to_proto(journal.vector),
        regions=sorted(regions),
        process=journal.process,
    )


def check_hello(message: link_pb2.FollowHello, group: str, peer: str, own_region: str) -> None:
    """Raises the `LinkFault` for which two ends cannot link."""
    if message.group != group:
        raise errors.WrongGroup(f"{peer} speaks of group {message.group!r}, here is {group!r}")
    region = message.origin.region
    if region != peer or region == own_region:
        raise errors.WrongRegion(f"{peer} says that it is {region!r}; here is {own_region!r}")
    if FORMAT not in message.formats:
        raise errors.FormatUnknown(
            f"{peer} reads the frame formats {list(message.formats)}, here {FORMAT} is written"
        )


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
        if sequence > own.vector.get(origin, 0) and any(
            life.region == origin.region and life.incarnation > origin.incarnation
            for life in (own.origin, *own.vector)
        ):
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
        self._acknowledged: Vector | None = None
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
        windows = 1 + len(self._wanted - {self._peer, self._journal.region})
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
            fault = _FAULTS.get(message.error.reason, errors.LinkFault)
            raise fault(f"{self._peer} says: {message.error.message}")
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
            self._journal.lag.note(frame.origin, frame.first, frame.columns.clocks[0])
        self._owed.append((frame.origin, frame.last, len(frame.body), frame.count))

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
        self._view.clocks = {
            region: clock
            for region, clock in {**message.heard, self._peer: message.clock}.items()
            if milliseconds(clock) - now_ms <= MAX_AHEAD_MS
        }
        # Acknowledged whether or not there is news: who asks is alive.
        self._acknowledged = None
        own = self._journal.origin
        if vector.get(own, 0) > self._journal.vector.get(own, 0):
            raise errors.RestoredBackup(f"{self._peer} knows more of {own} than is here")
        self._journal.integrity.with_peer(self._peer).parked = message.parked

    def settle(self) -> list[link_pb2.FollowRequest]:
        """After a commit: acknowledges what is durable, and grants what it freed."""
        vector = self._journal.vector
        kept: deque[tuple[Origin, int, int, int]] = deque()
        for owed in self._owed:
            if vector.get(owed[0], 0) >= owed[1]:
                self._bytes -= owed[2]
                self._changes -= owed[3]
            else:
                kept.append(owed)
        self._owed = kept
        self._bytes -= self._taking.freed()
        messages, self._requests = self._requests, []
        if vector != self._acknowledged:
            self._acknowledged = vector
            messages.append(
                link_pb2.FollowRequest(
                    acknowledgement=link_pb2.Acknowledgement(
                        applied=vector_to_proto(self._journal.taken),
                        durable=vector_to_proto(vector),
                    )
                )
            )
        return messages + self._grant()

    def compare(self, now_ms: int) -> list[link_pb2.FollowRequest]:
        """Goes on comparing what is here with what the peer holds; asks it when that is due."""
        if not self._greeted:
            return []
        inquiry = self._journal.integrity.with_peer(self._peer).go_on(now_ms)
        return [] if inquiry is None else [link_pb2.FollowRequest(inquiry=inquiry)]


class Sender:
    """The end that sends changes. One object serves one stream."""

    def __init__(self, journal: Journal, log: FrameLog, group: str, peer: str) -> None:
        self._journal = journal
        self._log = log
        self._group = group
        self._peer = peer
        self._wanted: frozenset[str] | None = None
        self._sent: Vector = {}
        self._read: dict[Origin, deque[StoredFrame]] = {}
        self._bytes = 0
        self._changes = 0
        self._beat_ms: int | None = None
        self._answers = Answers(journal, log)
        self._giving = Giving(journal, log)
        self._truncated = False
        self._introduced: set[bytes] = set()
        self._process = 0
        self.durable: Vector = {}

    def on_message(
        self, message: link_pb2.FollowRequest, now_ms: int
    ) -> tuple[list[link_pb2.FollowResponse], list[Write]]:
        """Takes a message in. Returns the answers, and local writes that are lost by it.

        Raises the `LinkFault` that ends the link.
        """
        self._journal.members.check_link(self._peer)
        kind = message.WhichOneof("message")
        if kind == "hello":
            check_hello(message.hello, self._group, self._peer, self._journal.region)
            self._process = message.hello.process
            self._heard(now_ms)
            self._wanted = frozenset(message.hello.regions)
            self._sent = vector_from_proto(message.hello.vector)
            self.durable = dict(self._sent)
            lost = self._journal.learn(self._peer, self.durable, now_ms)
            return [link_pb2.FollowResponse(hello=hello(self._journal, self._group))], lost
        if self._wanted is None:
            raise errors.LinkFault(f"{self._peer} sent {kind} before its hello")
        self._heard(now_ms)
        if kind == "credit":
            self._bytes += message.credit.bytes
            self._changes += message.credit.changes
        elif kind == "acknowledgement":
            self.durable = vector_from_proto(message.acknowledgement.durable)
            taken = vector_from_proto(message.acknowledgement.applied)
            return [], self._journal.confirm(self._peer, taken, now_ms)
        elif kind == "want":
            self._wanted = frozenset(message.want.regions)
        elif kind == "inquiry":
            self._answers.ask(message.inquiry)
        elif kind == "snapshot":
            return self._giving.asked(message.snapshot, now_ms, self.durable), []
        return [], []

    def _heard(self, now_ms: int) -> None:
        self._journal.speakers.heard(self._peer, self, self._process, now_ms)

    def close(self) -> None:
        """The stream is over."""
        self._journal.speakers.ended(self._peer, self)

    @property
    def has_more(self) -> bool:
        """Whether the next poll sends frames, or pieces of a snapshot, at once."""
        if self._bytes <= 0 or self._giving.waits(self.durable):
            return self._bytes > 0 and self._giving.has_more
        return self._changes > 0 and not self._truncated and bool(self._open_origins())

    def poll(self, now_ms: int, heard: Mapping[str, int]) -> list[link_pb2.FollowResponse]:
        """What to send now: a heartbeat when it is due, and frames as far as the credit reaches.

        If the log lacks what the receiver needs next, a snapshot is offered, and its pieces are
        sent before any more frames. `heard` holds the clocks of the newest heartbeats of other
        regions, to pass on.
        """
        if self._wanted is None:
            return []
        self._journal.members.check_link(self._peer)
        messages = []
        # First on each stream: that a region is alive must not come after its decisions.
        if self._beat_ms is None or not 0 <= now_ms - self._beat_ms < HEARTBEAT_MS:
            self._beat_ms = now_ms
            messages.append(self._heartbeat(now_ms, heard))
        if self._giving.waits(self.durable):
            # One at a time: to encode it takes some ms.
            pieces = self._giving.pieces(min(self._bytes, 1), now_ms)
            self._bytes -= sum(len(message.piece.body) for message in pieces)
            return messages + pieces
        try:
            self._frames(messages)
            self._truncated = False
        except errors.HistoryTruncated:
            self._truncated = True
            messages += self._giving.offer(now_ms)
        # Behind the frames: who asked compares once it has all that is here now.
        answer = self._answers.next(now_ms)
        if answer is not None:
            messages.append(link_pb2.FollowResponse(answer=answer))
        return messages

    def _frames(self, messages: list[link_pb2.FollowResponse]) -> None:
        size = 0
        while self._bytes > 0 and self._changes > 0 and size < _READ_BYTES:
            frame = self._next()
            if frame is None:
                break
            self._sent[frame.origin] = frame.last
            self._bytes -= len(frame.body)
            self._changes -= frame.last - frame.first + 1
            size += len(frame.body)
            messages += self._introduction(frame.signature)
            messages.append(
                link_pb2.FollowResponse(
                    frame=frame_pb2.Frame(
                        body=frame.body, hash=frame.hash, signature=frame.signature
                    )
                )
            )

    def _introduction(self, signature: bytes) -> list[link_pb2.FollowResponse]:
        """Introduces a signature's key, once on each stream."""
        key = signature[:KEY_ID_BYTES]
        statement = None if key in self._introduced else self._journal.keys.statement(signature)
        if statement is None:
            return []
        self._introduced.add(key)
        return [link_pb2.FollowResponse(key=signature_pb2.OriginKey.FromString(statement))]

    def _heartbeat(self, now_ms: int, heard: Mapping[str, int]) -> link_pb2.FollowResponse:
        return link_pb2.FollowResponse(
            heartbeat=link_pb2.Heartbeat(
                vector=vector_to_proto(self._journal.vector),
                clock=self._journal.beat(now_ms),
                wall_ms=now_ms,
                heard={region: clock for region, clock in heard.items() if region != self._peer},
                parked=not self._journal.reads_all,
                marks=self._marks(),
            )
        )

    def _marks(self) -> Iterator[lag_pb2.Mark]:
        """When what the peer lacks was made: the oldest and the newest of each origin."""
        journal = self._journal
        for origin, sequence in journal.vector.items():
            first = self.durable.get(origin, 0) + 1
            if first > sequence:
                continue
            oldest = journal.lag.clock_at(self._log, origin, first)
            said = frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation)
            if oldest is not None:
                yield lag_pb2.Mark(origin=said, sequence=first, clock=oldest)
            newest = journal.seen.clocks.get(origin, 0)
            if newest:
                yield lag_pb2.Mark(origin=said, sequence=sequence, clock=newest)

    def _next(self) -> StoredFrame | None:
        heads = [self._head(origin) for origin in self._open_origins()]
        if not heads:
            return None
        first = min(heads, key=lambda frame: frame.place)
        self._read[first.origin].popleft()
        return first

    def _open_origins(self) -> list[Origin]:
        wanted = self._wanted or ()
        return [
            origin
            for origin, sequence in self._journal.vector.items()
            if origin.region in wanted and sequence > self._position(origin)
        ]

    def _head(self, origin: Origin) -> StoredFrame:
        sent = self._position(origin)
        frames = self._read.setdefault(origin, deque())
        while frames and frames[0].last <= sent:
            frames.popleft()
        if not frames:
            frames.extend(self._log.after(origin, sent, _READ_BYTES))
        if not frames:
            raise errors.HistoryTruncated(f"nothing is held of {origin} after {sent}")
        first = frames[0].first
        if first > sent + 1:
            raise errors.HistoryTruncated(f"{origin} is held from {first}, not from {sent + 1}")
        if first <= sent:
            raise errors.ChainBroken(f"{self._peer} has {origin} up to {sent}, inside a frame")
        return frames[0]

    def _position(self, origin: Origin) -> int:
        return max(self._sent.get(origin, 0), self.durable.get(origin, 0))


def _credit(size: int, changes: int) -> link_pb2.FollowRequest:
    return link_pb2.FollowRequest(credit=link_pb2.Credit(bytes=size, changes=changes))
