"""The end of a link that sends changes, as a state machine over LinkService's messages.

It sends what it has stored beyond what the receiver has, as far as the credit reaches, in the order
in which it committed, which is a causal order. Frames travel as stored bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from isthmus.replication.v1 import frame_pb2, lag_pb2, link_pb2, signature_pb2, snapshot_pb2

from mesh.replication.core import errors
from mesh.replication.core.answers import Answers
from mesh.replication.core.batches import Write
from mesh.replication.core.clocks import Origin, Vector, vector_from_proto
from mesh.replication.core.frames import FrameLog, StoredFrame
from mesh.replication.core.handing import Giving
from mesh.replication.core.handshake import check_hello, hello
from mesh.replication.core.journal import Journal
from mesh.replication.core.signatures import KEY_ID_BYTES

HEARTBEAT_MS = 1000

_READ_BYTES = 2 << 20


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
        self._here_then: Vector = {}

    def on_message(
        self, message: link_pb2.FollowRequest, now_ms: int
    ) -> tuple[list[link_pb2.FollowResponse], list[Write]]:
        """Takes a message in. Returns the answers, and local writes that are lost by it.

        Raises the `LinkFault` that ends the link. What the peer said in its hello that it has is
        `durable` then too.
        """
        kind = message.WhichOneof("message")
        if kind == "hello":
            check_hello(message.hello, self._group, self._peer, self._journal.region)
            self.durable = vector_from_proto(message.hello.vector)
        self._journal.members.check_link(self._peer)
        if kind == "hello":
            self._process = message.hello.process
            self._heard(now_ms)
            self._wanted = frozenset(message.hello.regions)
            self._sent = dict(self.durable)
            self._here_then = self._journal.vector
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
            self._here_then = self._journal.vector
            taken = vector_from_proto(message.acknowledgement.applied)
            return [], self._journal.confirm(self._peer, taken, now_ms)
        elif kind == "want":
            self._wanted = frozenset(message.want.regions)
        elif kind == "inquiry":
            self._answers.ask(message.inquiry)
        elif kind == "snapshot":
            return self._begin_snapshot(message.snapshot, now_ms), []
        return [], []

    def _heard(self, now_ms: int) -> None:
        self._journal.speakers.heard(self._peer, self, self._process, now_ms)

    def close(self) -> None:
        """The stream is over."""
        self._journal.speakers.ended(self._peer, self)

    def _begin_snapshot(
        self, message: snapshot_pb2.SnapshotRequest, now_ms: int
    ) -> list[link_pb2.FollowResponse]:
        given = self._giving.asked(message, now_ms, self.durable)
        if given is None:
            return []
        header, begin = given
        signatures = (position.signature for position in header.positions.values())
        keys = [key for signature in signatures for key in self._introduction(signature)]
        return [*keys, begin]

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
        self._giving.tire(now_ms)
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
                vector=self._journal.told,
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
            if origin.region in wanted and self._due(origin, sequence) > self._position(origin)
        ]

    def _due(self, origin: Origin, sequence: int) -> int:
        """Up to where the receiver may need an origin's frames.

        What it lacks of its own past was here before it said how far it is; what came since came
        from itself, mostly, and it says of that only now and then that it has it.
        """
        if origin.region != self._peer:
            return sequence
        return min(sequence, self._here_then.get(origin, 0))

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
