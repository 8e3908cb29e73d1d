"""The links of a simulated region: both ends of each stream, and what keeps one up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.replication.v1 import link_pb2

from mesh.replication.core.clocks import covers, vector_from_proto
from mesh.replication.core.errors import Left, LinkFault
from mesh.replication.core.handshake import error_message
from mesh.replication.core.receiving import PeerView, Receiver
from mesh.replication.core.sending import Sender
from tests.simulation.liar import Liar
from tests.simulation.model import Violation
from tests.simulation.network import Pipe

if TYPE_CHECKING:
    from tests.simulation.region import Region

SILENCE_MS = 5000
BACKOFF_MS = (100, 2000)
FAULT_MS = 5000


class Follower:
    """The receiving end of all streams from one peer."""

    def __init__(self, region: Region, peer: str) -> None:
        self.region = region
        self.peer = peer
        self.view = PeerView()
        self.streams: dict[Stream, None] = {}
        self._lost: frozenset[str] = frozenset()
        self._attempt = 0

    def open(self) -> None:
        """Opens a stream; if there is one, it ends once the new one has greeted."""
        stream = Stream(self.region.world.regions[self.peer], self)
        self.streams[stream] = None
        stream.ask(stream.receiver.open(self._wanted()))

    def greeted(self, stream: Stream) -> None:
        """A stream is up: it takes over from the others."""
        self._attempt = 0
        for other in tuple(self.streams):
            if other is not stream:
                other.close()
        self.settle()

    def ended(self, stream: Stream, fault: LinkFault | None = None) -> None:
        """A stream is over: another is opened after a pause, unless one is left."""
        self.streams.pop(stream, None)
        if fault is not None:
            self.region.fault(self.peer, fault)
        if not self.streams:
            least, most = BACKOFF_MS
            pause = FAULT_MS if fault else min(most, least << min(self._attempt, 5))
            self._attempt += 1
            again = self.region.living(self._open_if_none)
            self.region.world.timeline.after(pause, again)

    def _open_if_none(self) -> None:
        if not self.streams:
            self.open()

    def relay(self, lost: set[str]) -> None:
        """Wants lost regions' changes from this peer too."""
        if self._lost != lost:
            self._lost = frozenset(lost)
            self.settle()

    def settle(self) -> None:
        """Takes what is proven, says what is durable, and what is wanted."""
        for stream in tuple(self.streams):
            if stream.greeted:
                try:
                    stream.settle(self._wanted())
                except LinkFault as fault:
                    stream.close()
                    self.ended(stream, fault)

    def tick(self) -> None:
        """Gives up streams on which nothing comes."""
        for stream in tuple(self.streams):
            stream.tick()

    def _wanted(self) -> set[str]:
        return {self.peer, self.region.name} | self._lost


class Stream:
    """One call of Follow: from `source` to a follower's region."""

    def __init__(self, source: Region, follower: Follower) -> None:
        target = follower.region
        self.receiver = Receiver(target.journal, "channels", source.name, follower.view)
        self.greeted = False
        self.heard_ms = target.world.timeline.now
        self._follower = follower
        self._source = source
        self._target = target
        self._sender: Sender | None = None
        self._liar = Liar(source.name, source.disk)
        paths = target.world.paths
        self._up = Pipe(paths[target.name, source.name], self._at_source)
        self._down = Pipe(paths[source.name, target.name], self._at_target)

    # The target's end.

    def ask(self, messages: list[link_pb2.FollowRequest]) -> None:
        """Sends requests."""
        for message in messages:
            if message.HasField("acknowledgement"):
                durable = vector_from_proto(message.acknowledgement.durable)
                if not covers(self._target.disk.vector(), durable):
                    raise Violation(f"{self._target.name} acknowledges what it has not synced")
            self._up.send(message)

    def settle(self, wanted: set[str]) -> None:
        """Takes what is proven, acknowledges, grants and asks."""
        self.receiver.release()
        now_ms = self._target.wall_ms
        messages = self.receiver.settle(now_ms) + self.receiver.want(wanted)
        self.ask(messages + self.receiver.compare(now_ms))

    def close(self) -> None:
        """The target ends the stream."""
        self.leave_target()
        self._up.send(None)

    def leave_target(self) -> None:
        """The target's end is gone: nothing that comes is read."""
        self._follower.streams.pop(self, None)
        self.receiver.close()
        self._down.drop()

    def tick(self) -> None:
        """Gives up if nothing comes, or if the source has started anew and knows of no stream."""
        silent = self._target.world.timeline.now - self.heard_ms > SILENCE_MS
        if silent or (self._up.dropped and self._source.up):
            self.close()
            self._follower.ended(self)

    def _at_target(self, message: link_pb2.FollowResponse | None) -> None:
        if message is None:
            self.leave_target()
            self._follower.ended(self)
            return
        target, peer = self._target, self._source.name
        now = target.world.timeline.now
        self.heard_ms = now
        target.hearing.heard(peer, now)
        try:
            target.refuse(self.receiver.on_message(message, target.wall_ms))
        except LinkFault as fault:
            self.close()
            self._follower.ended(self, fault)
            return
        kind = message.WhichOneof("message")
        if kind == "heartbeat":
            target.hearing.heard_of(self._follower.view.clocks, now)
        elif kind == "offer" and not target.world.may_be_past_the_horizon(target.name, peer):
            raise Violation(f"{peer} lacks what {target.name} needs next")
        elif kind == "hello":
            self.greeted = True
            self._follower.greeted(self)
        self._follower.settle()
        target.commit()

    # The source's end.

    def _at_source(self, message: link_pb2.FollowRequest | None) -> None:
        source = self._source
        if message is None:
            self.leave_source()
            return
        if not source.up:
            self._up.drop()
            self._down.send(None)
            return
        if self._sender is None:
            self._sender = Sender(source.journal, source.disk, "channels", self._target.name)
            source.serving[self] = None
        try:
            answers, lost = self._sender.on_message(message, source.wall_ms)
        except LinkFault as fault:
            if isinstance(fault, Left):
                durable = source.office.membership.durable
                durable.acknowledged(self._target.name, self._sender.durable)
            self._refuse(fault)
            return
        source.refuse(lost)
        if not message.HasField("credit"):
            source.office.membership.durable.acknowledged(self._target.name, self._sender.durable)
            source.calls.look()
        for answer in answers:
            for each in self._told(answer):
                self._down.send(each)
        self.pump()

    def pump(self) -> None:
        """Sends what the credit allows."""
        if self._down.dropped and self._target.up:
            self.leave_source()  # the target has started anew and knows of no stream
        source = self._source
        try:
            while self._sender is not None:
                for message in self._sender.poll(source.wall_ms, source.hearing.clocks):
                    for each in self._told(message):
                        self._down.send(self._carried(each))
                if not self._sender.has_more:
                    return
        except LinkFault as fault:
            self._refuse(fault)

    def _told(self, message: link_pb2.FollowResponse) -> list[link_pb2.FollowResponse]:
        path = self._source.world.paths[self._source.name, self._target.name]
        told = self._liar.told(message, path.lie)
        if told != [message]:
            path.lie = ""
        return told

    def _carried(self, message: link_pb2.FollowResponse) -> link_pb2.FollowResponse:
        if not self._source.journal.members.holds(self._target.name):
            raise Violation(f"{self._source.name} links with {self._target.name}, which is out")
        path = self._source.world.paths[self._source.name, self._target.name]
        kind = message.WhichOneof("message")
        if not path.tampering or kind not in ("frame", "piece"):
            return message
        path.tampering = False
        altered = link_pb2.FollowResponse()
        altered.CopyFrom(message)
        part = altered.frame if kind == "frame" else altered.piece
        part.body = part.body[:-1] + bytes([part.body[-1] ^ 1]) if part.body else b"\1"
        return altered

    def _refuse(self, fault: LinkFault) -> None:
        self._source.fault(self._target.name, fault)
        self._down.send(error_message(fault))
        self._down.send(None)
        self.leave_source()

    def leave_source(self, *, telling: bool = False) -> None:
        """The source's end is gone; `telling` if the target hears of it."""
        self._source.serving.pop(self, None)
        if self._sender is not None:
            self._sender.close()
        self._sender = None
        self._up.drop()
        if telling:
            self._down.send(None)

    @property
    def lies(self) -> bool:
        """Whether its source does not say what others wrote."""
        return self._liar.lies

    def reset(self) -> None:
        """The connection breaks: what is under way is lost."""
        self.leave_source()
        self.leave_target()
        self._follower.ended(self)
