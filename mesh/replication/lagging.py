"""How far a group is behind and what waits in it, as its status tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration
from isthmus.replication.v1 import frame_pb2, lag_pb2, link_pb2

from mesh.replication.core.clocks import Origin, Vector, milliseconds, vector_to_proto
from mesh.replication.core.durable import Durable
from mesh.replication.core.frames import Frame, FrameLog
from mesh.replication.core.journal import Journal
from mesh.replication.core.relayed import Relayed
from mesh.replication.core.sending import HEARTBEAT_MS

HEARD_WITHIN_MS = 3 * HEARTBEAT_MS
"""What a peer said longer ago is old: it may hold more by now."""


def duration(milliseconds: int) -> Duration:
    """Milliseconds as a message; not below zero."""
    found = Duration()
    found.FromMilliseconds(max(0, milliseconds))
    return found


def fill(
    status: link_pb2.LinkStatus,
    journal: Journal,
    held: Mapping[Origin, int],
    silence_ms: int | None,
    now_ms: int,
) -> None:
    """Says what a peer holds, as it said last, and this region lacks."""
    behind = journal.lag.behind(journal.vector, [held], now_ms).values()
    silent = silence_ms is None or silence_ms > HEARD_WITHIN_MS
    status.lag_changes = sum(each.changes for each in behind)
    status.lag_at_least = silent or not all(each.exact for each in behind)
    status.lag.CopyFrom(duration(max((each.age_ms or 0 for each in behind), default=0)))


class Lagging:
    """How a group stands at one moment."""

    def __init__(self, journal: Journal, durable: Durable, log: FrameLog, now_ms: int) -> None:
        self._journal = journal
        self._durable = durable
        self._log = log
        self._now_ms = now_ms

    def unacknowledged(self, status: link_pb2.LinkStatus) -> link_pb2.LinkStatus:
        """Adds to a link's status what is durable here and not, as far as it said, at the peer."""
        held = self._durable.of(status.peer)
        if held is not None:
            vector, lag = self._journal.vector, self._journal.lag
            missing = {o: n for o, n in vector.items() if n > held.get(o, 0)}
            clocks = [lag.clock_at(self._log, o, held.get(o, 0) + 1) for o in missing]
            made = [milliseconds(clock) for clock in clocks if clock is not None]
            status.unacknowledged_changes = sum(n - held.get(o, 0) for o, n in missing.items())
            status.unacknowledged.CopyFrom(duration(self._now_ms - min(made) if made else 0))
        return status

    def origins(
        self, known: Sequence[Vector], silences: Mapping[str, int | None]
    ) -> Iterator[lag_pb2.OriginLag]:
        """The origins of which something is missing, and those whose region is silent.

        `silences` has, by peer, for how long it gave no sign of life: 0 if it lives, None if it
        never gave one.
        """
        journal = self._journal
        behind = journal.lag.behind(journal.vector, [journal.taken, *known], self._now_ms)
        latest = {o.region: o for o in sorted({*journal.vector, *behind})}
        silent = {region for region, silence in silences.items() if silence != 0}
        quiet = {latest.get(region, Origin(region, 0)) for region in silent}
        for origin in sorted(behind.keys() | quiet):
            status = lag_pb2.OriginLag(origin=_origin(origin), at_least=origin.region in silent)
            silence = silences.get(origin.region)
            if silence is not None:
                status.silence.CopyFrom(duration(silence))
            if origin in behind:
                found = behind[origin]
                status.changes = found.changes
                status.at_least |= not found.exact
                if found.age_ms is not None:
                    status.lag.CopyFrom(duration(found.age_ms))
            yield status

    def waiting(self, relayed: Mapping[str, Iterable[Relayed]]) -> Iterator[lag_pb2.WaitingFrames]:
        """What came and is not applied: for want of what it depends on, or of a signature."""
        vector = self._journal.vector
        for origin, frames in sorted(self._journal.arrivals.waiting.items()):
            needed = frames[0].dependencies
            missing = {o: n for o, n in needed.items() if n > vector.get(o, 0)}
            yield _waiting(origin, frames, missing=vector_to_proto(missing))
        for peer, streams in sorted(relayed.items()):
            for stream in streams:
                held: dict[Origin, list[Frame]] = {}
                for frame in stream:
                    held.setdefault(frame.origin, []).append(frame)
                for origin, part in sorted(held.items()):
                    yield _waiting(origin, part, relay=peer, refusal=stream.refusal)


def _waiting(
    origin: Origin,
    frames: Sequence[Frame],
    missing: frame_pb2.Vector | None = None,
    relay: str = "",
    refusal: str = "",
) -> lag_pb2.WaitingFrames:
    return lag_pb2.WaitingFrames(
        origin=_origin(origin),
        frames=len(frames),
        bytes=sum(len(frame.body) for frame in frames),
        missing=missing,
        relay=relay,
        refusal=refusal,
    )


def _origin(origin: Origin) -> frame_pb2.Origin:
    return frame_pb2.Origin(region=origin.region, incarnation=origin.incarnation)
