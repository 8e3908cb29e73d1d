"""A relay that lies about what a third region wrote, and does it well: its chains are whole.

From the frame with which it begins, all that it passes on of that origin on that stream is chained
anew, and so are a snapshot's pieces below a header that claims more of an origin than there is;
what it cannot make is the origin's signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from isthmus.replication.v1 import frame_pb2, link_pb2, snapshot_pb2

from mesh.replication.core import snapshots
from mesh.replication.core.clocks import Origin, origin_from_proto
from mesh.replication.core.frames import GENESIS, chain
from mesh.replication.core.snapshots import Header
from tests.simulation.disk import Disk

CLAIM = "claim"
"""The lie about a snapshot; all others are about frames."""

OTHER_KEY = {"c1": "c2", "c2": "c3", "c3": "c1"}


class Liar:
    """One stream's sender, from the disk of which it knows the true chain."""

    def __init__(self, region: str, disk: Disk) -> None:
        self._region = region
        self._disk = disk
        self._end: dict[Origin, tuple[int, bytes]] = {}
        self._kept: frame_pb2.Frame | None = None
        self._pieces: bytes | None = None

    @property
    def lies(self) -> bool:
        """Whether it has begun: it goes on for as long as its stream."""
        return bool(self._end) or self._pieces is not None

    def told(self, message: link_pb2.FollowResponse, how: str) -> list[link_pb2.FollowResponse]:
        """What goes out instead of a message; `how` names the lie to begin with, if any."""
        if message.HasField("start"):
            return [self._claimed(message)] if how == CLAIM else [message]
        if message.HasField("piece"):
            return [self._under_the_claim(message)]
        if not message.HasField("frame") or how == CLAIM:
            return [message]
        body = frame_pb2.FrameBody.FromString(message.frame.body)
        origin = origin_from_proto(body.origin)
        if origin.region == self._region:
            return [message]
        if origin in self._end:
            frames = self._later(message.frame)
        elif how:
            first = body.first_sequence
            before = self._disk.after(origin, first - 2, 0)[0] if first > 1 else None
            if before is not None and before.last != first - 1:
                return [message]  # its journal is cut there: the chain would not fit
            self._end[origin] = first, GENESIS if before is None else before.hash
            frames = LIES[how](self, message.frame)
        else:
            return [message]
        return [link_pb2.FollowResponse(frame=self._chained(origin, frame)) for frame in frames]

    def _claimed(self, message: link_pb2.FollowResponse) -> link_pb2.FollowResponse:
        """A snapshot whose header says that other regions wrote one change more."""
        header = Header.decode(message.start.header)
        positions = {
            origin: position
            if origin.region == self._region
            else position._replace(sequence=position.sequence + 1, hash=bytes(32))
            for origin, position in header.positions.items()
        }
        if positions == header.positions or message.start.first_piece:
            return message
        forged = replace(header, positions=positions).encode()
        self._pieces = snapshots.start(forged)
        start = snapshot_pb2.SnapshotStart(header=forged)
        return link_pb2.FollowResponse(start=start)

    def _under_the_claim(self, message: link_pb2.FollowResponse) -> link_pb2.FollowResponse:
        if self._pieces is None:
            return message
        piece = snapshot_pb2.SnapshotPiece()
        piece.CopyFrom(message.piece)
        piece.hash = snapshots.chain(self._pieces, piece.body, last=piece.last)
        self._pieces = None if piece.last else piece.hash
        return link_pb2.FollowResponse(piece=piece)

    def _later(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        kept, self._kept = self._kept, None
        return [frame] if kept is None else [frame, kept]

    def _chained(self, origin: Origin, frame: frame_pb2.Frame) -> frame_pb2.Frame:
        first, head = self._end[origin]
        body = frame_pb2.FrameBody.FromString(frame.body)
        body.first_sequence = first
        data = body.SerializeToString(deterministic=True)
        self._end[origin] = first + len(body.clocks), chain(head, data)
        return frame_pb2.Frame(body=data, hash=chain(head, data), signature=frame.signature)

    def _alter(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        return [_altered(frame, frame.signature)]

    def _unsign(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        return [_altered(frame, b"")]

    def _forge(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        return [_altered(frame, frame.signature), frame]

    def _drop(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        return []

    def _reorder(self, frame: frame_pb2.Frame) -> list[frame_pb2.Frame]:
        self._kept = frame
        return []


def _altered(frame: frame_pb2.Frame, signature: bytes) -> frame_pb2.Frame:
    body = frame_pb2.FrameBody.FromString(frame.body)
    body.keys[0] = OTHER_KEY.get(body.keys[0], "c1")
    return frame_pb2.Frame(body=body.SerializeToString(deterministic=True), signature=signature)


LIES: dict[str, Callable[[Liar, frame_pb2.Frame], list[frame_pb2.Frame]]] = {
    "alter": Liar._alter,
    "unsign": Liar._unsign,
    "forge": Liar._forge,
    "drop": Liar._drop,
    "reorder": Liar._reorder,
}
