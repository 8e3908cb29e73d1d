"""From what clients were told to what must, may and must not have taken effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.faults.history import ACKNOWLEDGED, PENDING, REFUSED, UNKNOWN, Attempt, History, State

NEVER: State = {"generation": 0, "deleted": True, "next": 1}


@dataclass(frozen=True)
class Effect:
    """What an attempt wrote to one entity; `certain` if it must be there.

    `before` is what it saw of the entity, None if no answer told; `generation` is that of the
    entity's lives that it wrote into, None if unknown.
    """

    attempt: Attempt
    key: str
    certain: bool
    operations: tuple[tuple[Any, ...], ...]
    before: State | None

    @cached_property
    def generation(self) -> int | None:
        """The life of the entity that it wrote into."""
        if self.before is None:
            return None
        return int(self.before["next" if self.does("create") else "generation"])

    def does(self, verb: str) -> bool:
        """Whether one of its operations is such."""
        return any(operation[0] == verb for operation in self.operations)

    def written(self, field: str) -> Iterator[Any]:
        """Values that it set a field to, or created it with."""
        for verb, *rest in self.operations:
            if verb == "set" and rest[0] == field:
                yield rest[1]
            elif verb == "create" and field in rest[0]:
                yield rest[0][field]

    def amounts(self, field: str) -> int:
        """What it added to a counter."""
        created = sum(self.written(field))
        increments = (rest for verb, *rest in self.operations if verb == "increment")
        return int(created + sum(by for name, by in increments if name == field))

    def saw(self, field: str) -> Any:
        """What a field was in the same life; None if it was not, or nothing is known."""
        if self.before is None or self.does("create"):
            return None
        return self.before.get(field)

    def __str__(self) -> str:
        told = "acknowledged" if self.certain else "possible"
        does = ", ".join(" ".join(map(str, operation)) for operation in self.operations)
        return f"{told} write {self.attempt.uid} in {self.attempt.region} ({does})"


class Effects:
    """Every write's effects, by entity.

    A write that was acknowledged is certain, but for one that was to be durable in its region
    alone, whose disk was lost before any other region had it. One without an answer is possible,
    unless another attempt of its request is certain: each request has one effect. That holds too
    if another did the work in the same region, on the same disk.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.lasting: dict[str, list[Attempt]] = {}
        """What must be there: by the attempt that did it, the answers that tell of it."""
        self.by_uid = {attempt.uid: attempt for attempt in history.attempts}
        self.disks = [fault for fault in history.faults if fault.kind == "disk" and fault.vectors]
        self.by_key: dict[str, list[Effect]] = defaultdict(list)
        for effect in self._effects():
            self.by_key[effect.key].append(effect)

    def _effects(self) -> Iterator[Effect]:
        told: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.history.attempts:
            if attempt.write and attempt.by and attempt.outcome in (ACKNOWLEDGED, PENDING):
                told[attempt.by].append(attempt)
        done = {self._place(self.by_uid[uid]) for uid in told if uid in self.by_uid}
        self.lasting = {uid: each for uid, each in told.items() if self._must_last(each)}
        certain = {self.by_uid[uid].request for uid in self.lasting if uid in self.by_uid}
        for attempt in self.history.attempts:
            if not attempt.write:
                continue
            answers = told.get(attempt.uid, [])
            if answers:
                yield from _split(attempt, attempt.uid in self.lasting, answers[0].saw)
            elif attempt.request in certain or self._place(attempt) in done:
                pass
            elif attempt.outcome == UNKNOWN:
                yield from _split(attempt, False, {})

    def _place(self, attempt: Attempt) -> tuple[str, str, int]:
        return attempt.request, attempt.region, self.disk_of(attempt)

    def disk_of(self, attempt: Attempt) -> int:
        """The number of disks that its region lost before the attempt began."""
        return sum(
            attempt.region in fault.targets and fault.start < attempt.start for fault in self.disks
        )

    def lost_later(self, attempt: Attempt) -> bool:
        """Whether its region lost a disk after the attempt began."""
        return any(
            attempt.region in fault.targets and attempt.start < fault.end for fault in self.disks
        )

    def _must_last(self, answers: list[Attempt]) -> bool:
        """Whether some region that told of the write keeps it, whatever disks were lost."""
        return any(
            (answer.durability != "REGION" and answer.outcome == ACKNOWLEDGED)
            or not any(_lost_with(fault, answer) for fault in self.disks)
            for answer in answers
        )

    def of(self, key: str, generation: int) -> list[Effect]:
        """What may have been written into one life of an entity."""
        return [e for e in self.by_key[key] if e.generation in (None, generation)]

    @cached_property
    def begun(self) -> dict[tuple[str, str, Any], float]:
        """When each value of a field may have been there first, by entity and field."""
        found: dict[tuple[str, str, Any], float] = {}
        for attempt in self.history.attempts:
            if attempt.outcome == REFUSED:
                continue
            for _, key, field, value in values(attempt.write):
                place = (key, field, value)
                found[place] = min(attempt.start, found.get(place, attempt.start))
        return found

    @cached_property
    def removed(self) -> dict[tuple[str, str], float]:
        """When each label may first have been removed, by entity and label."""
        found: dict[tuple[str, str], float] = {}
        for attempt in self.history.attempts:
            for verb, key, *rest in attempt.write:
                if verb == "remove" and attempt.outcome != REFUSED:
                    place = (key, rest[0])
                    found[place] = min(attempt.start, found.get(place, attempt.start))
        return found


def _lost_with(fault: Any, answer: Attempt) -> bool:
    """Whether a write went with a disk: told by its region before, and on no other living disk."""
    if answer.region not in fault.targets or answer.start > fault.end:
        return False
    *origin, sequence = answer.position or ["", 0, 1]
    return not any(
        entry[:2] == origin and entry[2] >= sequence
        for vector in fault.vectors.values()
        for entry in vector
    )


def _split(attempt: Attempt, certain: bool, saw: dict[str, State]) -> Iterator[Effect]:
    for key in sorted({operation[1] for operation in attempt.write}):
        mine = tuple((op[0], *op[2:]) for op in attempt.write if op[1] == key)
        yield Effect(attempt, key, certain, mine, saw.get(key))


def values(write: Iterable[list[Any]]) -> Iterator[tuple[str, str, str, Any]]:
    """Each value in a write: verb, key, field and value; of a tag its name and value."""
    for verb, key, *rest in write:
        if verb == "create":
            for field, value in rest[0].items():
                for each in value if isinstance(value, list) else [value]:
                    yield verb, key, field, each
        elif verb == "set":
            yield verb, key, rest[0], rest[1]
        elif verb == "add":
            yield verb, key, "labels", rest[0]
        elif verb == "put":
            yield verb, key, "tags", (rest[0], rest[1])
