"""Both ends of a snapshot on one stream: the sender's turn to give, the receiver's room for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from isthmus.replication.v1 import link_pb2, snapshot_pb2

from mesh.replication.core.clocks import Origin, covers
from mesh.replication.core.frames import FrameLog
from mesh.replication.core.journal import Journal
from mesh.replication.core.snapshots import Capture, Header

OFFERED_EVERY_MS = 1000
PATIENCE_MS = 10_000
"""So long after the last piece the snapshot is waited for: the receiver may have taken another."""


class Giving:
    """The sender's part, while it cannot bring the receiver forward by frames alone."""

    def __init__(self, journal: Journal, log: FrameLog) -> None:
        self._journal = journal
        self._log = log
        self._offered_ms: int | None = None
        self._capture: Capture | None = None
        self._next: int | None = None
        self._ended_ms = 0

    def waits(self, durable: Mapping[Origin, int]) -> bool:
        """Whether a snapshot is under way: frames come after it is on the receiver's disk."""
        if self._capture is not None and covers(durable, self._capture.header.vector):
            self._capture = self._next = self._offered_ms = None
        return self._capture is not None

    def tire(self, now_ms: int) -> None:
        """Waits no longer for what was given whole long ago, and is not on the receiver's disk."""
        if self._capture is None or self.has_more:
            return
        if not 0 <= now_ms - self._ended_ms < PATIENCE_MS:
            self._capture = self._offered_ms = None

    @property
    def has_more(self) -> bool:
        """Whether pieces are left to send."""
        return self._next is not None

    def offer(self, now_ms: int) -> list[link_pb2.FollowResponse]:
        """What to say when frames are missing that the receiver needs."""
        if self._journal.integrity.damages.repairing:
            return []  # Once it is repaired; another peer may be whole.
        last = self._offered_ms
        if last is not None and 0 <= now_ms - last < OFFERED_EVERY_MS:
            return []
        self._offered_ms = now_ms
        vector = self._journal.told
        return [link_pb2.FollowResponse(offer=snapshot_pb2.SnapshotOffer(vector=vector))]

    def asked(
        self, message: snapshot_pb2.SnapshotRequest, now_ms: int, durable: Mapping[Origin, int]
    ) -> tuple[Header, link_pb2.FollowResponse] | None:
        """The receiver, which has `durable`, takes the offer: what comes, and what says so."""
        if self._journal.integrity.damages.repairing:
            return None
        self._capture = self._journal.capture(message.id, now_ms, durable)
        header = self._capture.header
        known = message.id == header.id and self._capture.has(message.pieces)
        self._next = message.pieces if known else 0
        begin = snapshot_pb2.SnapshotStart(header=header.encode(), first_piece=self._next)
        return header, link_pb2.FollowResponse(start=begin)

    def pieces(self, most_bytes: int, now_ms: int) -> list[link_pb2.FollowResponse]:
        """The next pieces, until there are so many bytes."""
        damaged = self._journal.integrity.damages.repairing
        if self._capture is not None and (damaged or self._capture.spoilt):
            self._capture = self._next = None
        messages: list[link_pb2.FollowResponse] = []
        size = 0
        while self._capture is not None and self._next is not None and size < most_bytes:
            self._capture.used_ms = now_ms
            piece = self._capture.piece(self._next, self._log.receipts)
            if self._capture.spoilt:
                self._capture = self._next = None  # It begins anew once that is repaired.
                break
            self._next = None if piece.last else self._next + 1
            self._ended_ms = now_ms
            size += len(piece.body)
            messages.append(
                link_pb2.FollowResponse(
                    piece=snapshot_pb2.SnapshotPiece(
                        id=self._capture.header.id,
                        number=piece.number,
                        body=piece.body,
                        hash=piece.hash,
                        last=piece.last,
                    )
                )
            )
        return messages


class Taking:
    """The receiver's part: which pieces of this stream take room."""

    def __init__(self, journal: Journal, peer: str) -> None:
        self._journal = journal
        self._peer = peer
        self._owed: deque[tuple[bytes, int, int]] = deque()

    def on_message(
        self, message: link_pb2.FollowResponse, now_ms: int
    ) -> list[link_pb2.FollowRequest]:
        """Takes a message in, and answers. Raises the `LinkFault` that ends the link."""
        intake = self._journal.intake
        if message.HasField("offer"):
            request = intake.accept(self._peer, now_ms)
            return [] if request is None else [link_pb2.FollowRequest(snapshot=request)]
        if message.HasField("start"):
            intake.started(self._peer, message.start, self._journal, now_ms)
            return []
        piece = message.piece
        intake.piece(self._peer, piece, now_ms)
        self._owed.append((piece.id, piece.number, len(piece.body)))
        return []

    def freed(self) -> int:
        """How many bytes of pieces were stored since."""
        freed = 0
        while self._owed and self._journal.intake.durable(*self._owed[0][:2]):
            freed += self._owed.popleft()[2]
        return freed
