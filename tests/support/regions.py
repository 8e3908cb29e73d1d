"""Regions without I/O: the pure state machines, wired by hand, with links that can break."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message
from isthmus.channels.v1 import channel_pb2

from mesh.contracts.model import Contract, Entity, Field, Location, Merge
from mesh.replication import Transaction, WriteContext
from mesh.replication.core import entities, rendering
from mesh.replication.core.batches import Batch, Recovered, Visible, Write
from mesh.replication.core.clocks import Origin, Vector, covers
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import LinkFault
from mesh.replication.core.frames import StoredFrame
from mesh.replication.core.journal import Journal
from mesh.replication.core.reach import Hearing
from mesh.replication.core.receipts import Receipt, ReceiptKey
from mesh.replication.core.receiving import PeerView, Receiver
from mesh.replication.core.repair import repair
from mesh.replication.core.sending import Sender
from mesh.replication.membership import ENTITY as MEMBERS
from mesh.replication.schema import GroupSchema
from tests.support.signing import keyring

M = TypeVar("M", bound=Message)

CHANNEL = "isthmus.channels.v1.Channel"
FIRST_OPERATOR = WriteContext(actor="operator/first")


def receive(
    journal: Journal, body: bytes, hash: bytes, now_ms: int, signature: bytes = b""
) -> bool:
    """Takes a frame as from its origin; tells whether it is new. Raises what a journal raises."""
    return journal.take(journal.read(body, hash, now_ms, None, signature))


def _field(name: str, number: int, merge: Merge, *order_by: str) -> Field:
    return Field(name, number, (number,), merge, order_by)


def contract(*without: str, history: bool = True) -> Contract:
    """The channels group; `without` names fields that an older contract does not have yet."""
    fields = (
        _field("title", 2, Merge.LATEST),
        _field("source", 4, Merge.LATEST),
        Field(
            "profile",
            5,
            (5,),
            Merge.MESSAGE,
            fields=(
                Field("width", 1, (5, 1), Merge.LATEST),
                Field("height", 2, (5, 2), Merge.LATEST),
            ),
        ),
        _field("assignment", 8, Merge.MAX, "epoch", "region"),
        _field("takeovers", 9, Merge.COUNTER),
        _field("labels", 10, Merge.SET),
    )
    entity = Entity(
        CHANNEL,
        "channels",
        "channel_id",
        1,
        history,
        tuple(field for field in fields if field.name not in without),
        Location("isthmus/channels/v1/channel.proto", 10),
    )
    return Contract(services={}, entities={CHANNEL: entity}, group_digests={"channels": b"digest"})


SCHEMA = GroupSchema((*contract().group_entities("channels"), MEMBERS))


class MemoryLog:
    """A region's journal as it would lie on a disk."""

    def __init__(self) -> None:
        self.frames: list[StoredFrame] = []
        self.keys: list[bytes] = []
        self.states: dict[EntityKey, bytes | None] = {}
        """As flushed, in canonical bytes; None if it is damaged."""
        self.watermark: Vector = {}

    def commit(self, batch: Batch) -> None:
        self.keys += [key.statement for key in batch.keys]
        for frame in batch.frames:
            place = len(self.frames) + 1
            self.frames.append(
                StoredFrame(
                    place,
                    frame.origin,
                    frame.first,
                    frame.last,
                    frame.body,
                    frame.hash,
                    frame.signature,
                )
            )

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        found = [f for f in self.frames if f.origin == origin and f.last > sequence]
        return found[:2]

    def receipts(self, after: ReceiptKey, most_bytes: int, until_ms: int) -> list[Receipt]:
        return []

    def flush(self, journal: Journal) -> None:
        """Stores all states, and cuts the journal up to there."""
        self.states = {e: entities.encode(state) for e, state in journal.committed.items()}
        self.watermark = dict(journal.vector)
        self.frames.clear()

    def flushed(self) -> Vector:
        return self.watermark

    def stored(self, entity: EntityKey) -> bytes | None:
        return self.states.get(entity, b"")


class Region:
    """One region: its journal, its log, and a wall clock that may be wrong."""

    def __init__(
        self, name: str, peers: list[str], skew_ms: int = 0, schema: GroupSchema = SCHEMA
    ) -> None:
        self.name = name
        self.schema = schema
        self.peers = peers
        self.skew_ms = skew_ms
        self.log = MemoryLog()
        self.hearing = Hearing(peers)
        self.refused: list[Write] = []
        self.repaired: list[Visible] = []
        self._batch: Batch | None = None
        self.start(Recovered(), 0)

    def start(self, recovered: Recovered, now_ms: int) -> None:
        self.journal = Journal(
            self.name,
            self.peers,
            b"digest",
            recovered,
            1_000_000 + now_ms + self.skew_ms,
            keys=keyring(self.name, self.log.keys),
        )

    def write(self, change: Callable[[Transaction], M], now_ms: int) -> M:
        self.journal.begin_write(1_000_000 + now_ms + self.skew_ms)
        transaction = Transaction(
            self.journal, self.schema, FIRST_OPERATOR, 1_000_000 + now_ms + self.skew_ms
        )
        result = change(transaction)
        self.journal.submit(transaction.finish(None))
        return result

    def take(self) -> None:
        """Begins a commit, which others may then write behind."""
        self._batch = self._batch or self.journal.next_batch()

    def commit(self, works: bool = True) -> None:
        """Ends a commit, begun or not."""
        self.take()
        batch, self._batch = self._batch, None
        if batch is None:
            return
        if works:
            self._check(batch)
            self.log.commit(batch)
            self.journal.stored(batch)
        else:
            self.refused += self.journal.failed(batch)

    def _check(self, batch: Batch) -> None:
        """Each origin's frames follow one another, and nothing comes before what it saw."""
        vector = dict(self.journal.vector)
        for frame in batch.frames:
            assert frame.first == vector.get(frame.origin, 0) + 1
            vector[frame.origin] = frame.last
            assert covers(vector, frame.dependencies)
        if batch.staging is not None and batch.staging.install is not None:
            assert covers(batch.vector, vector)
            return
        assert vector == batch.vector

    def tend(self, now_ms: int) -> None:
        """Scrubs and repairs, with all peers in reach."""
        now_ms += 1_000_000 + self.skew_ms
        self.journal.integrity.hash_changed(now_ms)
        self.journal.integrity.scrub(now_ms)
        self.repaired += repair(self.journal, self.log, self.peers, now_ms)

    def get(self, key: str) -> channel_pb2.Channel | None:
        state = self.journal.committed.get((CHANNEL, key))
        if state is None or state.deleted:
            return None
        schema = SCHEMA.entities[CHANNEL]
        return channel_pb2.Channel.FromString(
            rendering.render(state, schema.rules, schema.key_field(key))
        )


class Link:
    """From `source` to `target`: messages wait in both directions until they are carried."""

    def __init__(self, source: Region, target: Region) -> None:
        self.source = source
        self.target = target
        self.view = PeerView()
        self.fault: LinkFault | None = None
        self._receiver: Receiver | None = None
        self._sender: Sender | None = None
        self._up: deque[object] = deque()
        self._down: deque[object] = deque()

    @property
    def open(self) -> bool:
        return self._receiver is not None

    def connect(self, *regions: str) -> None:
        wanted = regions or (self.source.name, self.target.name)
        self._receiver = Receiver(self.target.journal, "channels", self.source.name, self.view)
        self._sender = Sender(self.source.journal, self.source.log, "channels", self.target.name)
        self._up = deque(self._receiver.open(wanted))
        self._down = deque()

    def cut(self) -> None:
        self._receiver = self._sender = None

    def carry(self, now_ms: int, most: int = 1000, *, twice: bool = False) -> None:
        """Carries up to `most` messages each way; `twice` delivers frames again."""
        if self._receiver is None or self._sender is None:
            return
        wall = 1_000_000 + now_ms
        try:
            self._receiver.release()
            self._up.extend(self._receiver.settle(wall + self.target.skew_ms))
            self._up.extend(self._receiver.compare(wall + self.target.skew_ms))
            for _ in range(min(most, len(self._up))):
                answers, lost = self._sender.on_message(
                    self._up.popleft(),  # type: ignore[arg-type] # only requests go up
                    wall + self.source.skew_ms,
                )
                self.source.refused += lost
                self._down.extend(answers)
            heard = self.source.hearing.clocks
            self._down.extend(self._sender.poll(wall + self.source.skew_ms, heard))
            for _ in range(min(most, len(self._down))):
                message = self._down.popleft()
                for _ in range(1 + twice):
                    lost = self._receiver.on_message(
                        message,  # type: ignore[arg-type] # only responses come down
                        wall + self.target.skew_ms,
                    )
                    self.target.refused += lost
                    self.target.hearing.heard(self.source.name, now_ms)
                    self.target.hearing.heard_of(self.view.clocks, now_ms)
            self._receiver.release()
        except LinkFault as fault:
            self.fault = fault
            self.cut()


class World:
    """Some regions and a link each way between all of them."""

    def __init__(self, *names: str, schema: GroupSchema = SCHEMA) -> None:
        self.now_ms = 0
        self.regions = {
            name: Region(name, [n for n in names if n != name], schema=schema) for name in names
        }
        self.links = {
            (a, b): Link(self.regions[a], self.regions[b]) for a in names for b in names if a != b
        }

    def run(self, milliseconds: int, *cut: str) -> None:
        """Goes on in steps of 100 ms; `cut` names links that are down, as "eu>us"."""
        for _ in range(milliseconds // 100):
            self.now_ms += 100
            for (source, target), link in self.links.items():
                if f"{source}>{target}" in cut:
                    link.cut()
                    continue
                if not link.open:
                    link.connect()
                link.carry(self.now_ms)
            for region in self.regions.values():
                region.commit()

    def settle(self) -> None:
        """Heals everything and carries until nothing changes."""
        before = None
        for _ in range(200):
            self.now_ms += 1100
            for link in self.links.values():
                if not link.open:
                    link.connect()
                link.carry(self.now_ms)
            for region in self.regions.values():
                region.commit()
            after = [dict(region.journal.vector) for region in self.regions.values()]
            if after == before and all(vector == after[0] for vector in after):
                return
            before = after
        raise AssertionError("the regions did not settle")
