"""What a region tells of its state to a peer that compares itself with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from isthmus.replication.v1 import digest_pb2, frame_pb2

from mesh.replication.core.clocks import origin_from_proto
from mesh.replication.core.entities import EntityKey, encode
from mesh.replication.core.frames import FrameLog

if TYPE_CHECKING:
    from mesh.replication.core.journal import Journal

MOST_SUMMED = 1024
MOST_LISTED = 256
"""How many entities a range holds, at most, that is summed up or listed in one piece."""

_ANSWER_BYTES = 1 << 20


class Answers:
    """Answers one peer, within the budget of its region."""

    def __init__(self, journal: Journal, log: FrameLog) -> None:
        self._journal = journal
        self._log = log
        self._inquiry: digest_pb2.Inquiry | None = None

    def ask(self, inquiry: digest_pb2.Inquiry) -> None:
        """The peer asks; what it had asked before is forgotten."""
        self._inquiry = inquiry

    def next(self, now_ms: int) -> digest_pb2.Answer | None:
        """The answer, if one is due now: to as much of what was asked as the budget allows."""
        budget = self._journal.integrity.comparing
        if self._inquiry is None or not budget.open:
            return None
        inquiry, self._inquiry = self._inquiry, None
        answer = digest_pb2.Answer(id=inquiry.id, vector=self._journal.told)
        steps = self._answer(inquiry, answer, now_ms)
        room = _ANSWER_BYTES
        while room > 0 and budget.open:
            with budget.spending():
                size = next(steps, None)
            if size is None:
                break
            room -= size
        return answer

    def _answer(
        self, inquiry: digest_pb2.Inquiry, answer: digest_pb2.Answer, now_ms: int
    ) -> Iterator[int]:
        """Answers one thing at each step, and gives its size. What is damaged comes first."""
        for name in inquiry.entities:
            answer.entities.append(self._copy((name.type, name.key), now_ms))
            yield answer.entities[-1].ByteSize()
        for place in inquiry.frames:
            found = self._frame(place)
            answer.frames.extend(found)
            yield sum(frame.ByteSize() for frame in found)
        for asked in inquiry.listings:
            answer.listings.append(self._listing(asked))
            yield answer.listings[-1].ByteSize()
        for asked in inquiry.ranges:
            answer.ranges.append(self._sum(asked))
            yield answer.ranges[-1].ByteSize()

    def _copy(self, entity: EntityKey, now_ms: int) -> digest_pb2.EntityCopy:
        integrity = self._journal.integrity
        copy = digest_pb2.EntityCopy(entity=entity_to_proto(entity))
        state = self._journal.committed.get(entity)
        if integrity.suspect(entity, now_ms) or integrity.damages.wanted(entity) is not None:
            # Of two that differ each joins the other's; of one that is known to be damaged none.
            copy.damaged = not integrity.damages.is_divergence(entity)
        copy.parked = self._journal.parks(entity)
        if state is not None and not copy.damaged:
            copy.state = encode(state)
        return copy

    def _frame(self, place: frame_pb2.Position) -> list[frame_pb2.Frame]:
        for frame in self._log.after(origin_from_proto(place.origin), place.sequence - 1, 1)[:1]:
            if frame.first == place.sequence:
                return [
                    frame_pb2.Frame(body=frame.body, hash=frame.hash, signature=frame.signature)
                ]
        return []

    def _listing(self, asked: digest_pb2.BucketRange) -> digest_pb2.RangeEntities:
        digest = self._journal.integrity.digest
        end = min(asked.end, digest.reach(asked.first, MOST_LISTED))
        return digest_pb2.RangeEntities(
            range=digest_pb2.BucketRange(first=asked.first, end=end),
            entities=[
                digest_pb2.EntityFingerprint(
                    entity=entity_to_proto(entity),
                    fingerprint=digest.part(entity).to_bytes(32, "big"),
                    parked=self._journal.parks(entity),
                )
                for entity in digest.within(asked.first, end)
            ],
        )

    def _sum(self, asked: digest_pb2.BucketRange) -> digest_pb2.RangeDigest:
        digest = self._journal.integrity.digest
        end = min(asked.end, digest.reach(asked.first, MOST_SUMMED))
        return digest_pb2.RangeDigest(
            range=digest_pb2.BucketRange(first=asked.first, end=end),
            digest=digest.range_sum(asked.first, end),
        )


def entity_to_proto(entity: EntityKey) -> digest_pb2.EntityName:
    """The message for an entity's name."""
    return digest_pb2.EntityName(type=entity[0], key=entity[1])
