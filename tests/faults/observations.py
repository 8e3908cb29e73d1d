"""What must hold of each answer, and of answers to the same client: pure, as `checks`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.faults.checks import Check
from tests.faults.clients import WAIT_SECONDS
from tests.faults.effects import Effects
from tests.faults.history import ACKNOWLEDGED, HURRIED, REFUSED, UNKNOWN, Attempt, State

_OF_PROCESSES = ("kill", "pause", "disk")
_OF_THE_WRITE = {"NotFound", "AlreadyExists", "RightsShort"}
_ORDINARY = _OF_THE_WRITE | {"NotYetHere", "OriginChanged"}
"""Refusals that may be told in health and in faults."""


def _observed(attempt: Attempt) -> dict[str, State]:
    """What an attempt itself saw; a repeat is told what an earlier one saw."""
    if attempt.write and attempt.by != attempt.uid:
        return {}
    return attempt.read or attempt.saw


def bounds(effects: Effects) -> Iterator[str]:
    """A bounded counter is never below its bound, whoever reads it."""
    for attempt in effects.history.attempts:
        for key, state in _observed(attempt).items():
            if state.get("stock", 0) < 0:
                shown = f"a stock of {state['stock']} of {key}"
                yield f"{attempt.region}: {attempt.uid} was shown {shown}"


def together(effects: Effects) -> Iterator[str]:
    """What was written together is seen together."""
    for attempt in effects.history.attempts:
        seen = _observed(attempt)
        for left, state in seen.items():
            right = left.replace("left-", "right-")
            if right == left or right not in seen:
                continue
            other = seen[right]
            if state.get("latest") != other.get("latest"):
                yield (
                    f"{attempt.region}: {attempt.uid} was shown {state.get('latest')!r} in {left} "
                    f"and {other.get('latest')!r} in {right}"
                )


def known(effects: Effects) -> Iterator[str]:
    """Nobody is shown what nobody wrote, or what was refused."""
    begun = effects.begun
    for attempt in effects.history.attempts:
        for key, state in _observed(attempt).items():
            for field, value in _values(state):
                if begun.get((key, field, value), float("inf")) > attempt.end:
                    yield (
                        f"{attempt.region}: {attempt.uid} was shown {field} {value!r} of {key}, "
                        "which nobody had written by then"
                    )


def _values(state: State) -> Iterator[tuple[str, Any]]:
    for field in ("latest", "first", "most", "least"):
        if state.get(field):
            yield field, state[field]
    for field in ("labels", "note"):
        for value in state.get(field, ()):
            yield field, value
    for name, value in state.get("tags", {}).items():
        yield "tags", (name, value)


def sessions(effects: Effects) -> Iterator[str]:
    """A session reads its own writes, and never an older state than before, in any region."""
    floors: dict[str, dict[str, State]] = defaultdict(dict)
    for attempt in effects.history.attempts:
        if attempt.outcome != ACKNOWLEDGED:
            continue
        floor = floors[attempt.session]
        seen = _observed(attempt)
        for key, state in seen.items():
            if key in floor:
                for wrong in _older(effects, attempt, key, floor[key], state):
                    yield (
                        f"{attempt.region}: {attempt.uid} of session {attempt.session} went back: "
                        f"{key} {wrong}"
                    )
            floor[key] = state
        if attempt.write and attempt.by == attempt.uid:
            for verb, key, *rest in attempt.write:
                floor[key] = _after(floor[key], verb, rest)


def _older(
    effects: Effects, attempt: Attempt, key: str, floor: State, state: State
) -> Iterator[str]:
    """How a state is older than another that it must not be older than."""
    life, least = state["generation"], floor["generation"]
    if (life, state["deleted"]) < (least, floor["deleted"]):
        yield f"was in life {least}{' and deleted' * floor['deleted']}, and is in {life}"
    if life != least or state["deleted"] or floor["deleted"]:
        return
    for field in ("latest", "first"):
        if floor[field] and not state[field]:
            yield f"had a {field}, and has none"
    for field in ("most", "count"):
        if state[field] < floor[field]:
            yield f"had {field} {floor[field]}, and has {state[field]}"
    if floor["least"] is not None and (state["least"] or float("inf")) > floor["least"]:
        yield f"had least {floor['least']}, and has {state['least']}"
    for label in set(floor["labels"]) - set(state["labels"]):
        if effects.removed.get((key, label), float("inf")) > attempt.end:
            yield f"had the label {label!r}, which nobody had removed by then"


def _after(state: State, verb: str, rest: list[Any]) -> State:
    """What a write makes of what it saw, as far as sessions are judged by it."""
    if verb == "create":
        empty = dict.fromkeys(("latest", "first"), "") | dict.fromkeys(("most", "count"), 0)
        fields: State = {"generation": state["next"], "deleted": False, "least": None}
        return fields | empty | {"labels": []} | rest[0]
    if verb == "delete":
        return {"generation": state["generation"], "deleted": True}
    match verb, *rest:
        case "set", "most", value:
            return state | {"most": max(state["most"], value)}
        case "set", "least", value:
            return state | {"least": min(state["least"] or value, value)}
        case "set", "first", value:
            return state | {"first": state["first"] or value}
        case "set", "latest", value:
            return state | {"latest": value}
        case "increment", "count", by:
            return state | {"count": state["count"] + by}
        case "add", value:
            return state | {"labels": [*state["labels"], value]}
        case "remove", value:
            return state | {"labels": [each for each in state["labels"] if each != value]}
    return state


def operations(effects: Effects) -> Iterator[str]:
    """A request has one effect, and a repeat is told what that did, in whatever region it comes.

    What went with a lost disk may be done again, and so may what changed nothing once the disk is
    lost that has its receipt.
    """
    done: dict[str, list[tuple[Attempt, float]]] = defaultdict(list)
    for uid, answers in effects.lasting.items():
        by = effects.by_uid.get(uid)
        for answer in answers:
            if by is None or by.request != answer.request:
                yield f"{answer.region}: {answer.uid} was told of {uid!r}, another request"
        if by is not None and not (_idle(by, answers) and effects.lost_later(by)):
            done[by.request].append((by, min(answer.end for answer in answers)))
    for request, attempts in done.items():
        if len(attempts) > 1:
            places = ", ".join(f"{by.uid} in {by.region}" for by, _ in attempts)
            yield f"{request} was done {len(attempts)} times: {places}"
    for attempt in effects.history.attempts:
        if attempt.error in _OF_THE_WRITE and attempt.repeated:
            for by, end in done[attempt.request]:
                if end < attempt.start:
                    yield (
                        f"{attempt.region} tried {attempt.uid} ({attempt.error}), though {by.uid} "
                        "had done that request, and its client knew"
                    )


def _idle(by: Attempt, answers: list[Attempt]) -> bool:
    """Whether a write changed nothing: its receipt has no frame to travel with."""
    saw_all = answers[0].saw
    for verb, key, *rest in by.write:
        saw = saw_all[key]
        match verb, *rest:
            case "set", "most", value if value <= saw["most"]:
                pass
            case "set", "least", value if value >= (saw["least"] or float("inf")):
                pass
            case "set", "first", _ if saw["first"]:
                pass
            case "remove", label if label not in saw["labels"]:
                pass
            case "drop", name if name not in saw["tags"]:
                pass
            case _:
                return False
    return True


def available(effects: Effects) -> Iterator[str]:
    """A region whose process runs answers, whatever its links do, with nothing out of the way."""
    faults = effects.history.faults
    troubles = [fault for fault in faults if fault.kind in _OF_PROCESSES]
    for attempt in effects.history.attempts:
        if any(
            attempt.region in fault.targets
            and fault.start <= attempt.end
            and attempt.start <= fault.end
            for fault in troubles
        ):
            continue
        waited = attempt.end - attempt.start
        if attempt.error == "OperationUnknown" and (faults or waited >= WAIT_SECONDS):
            continue  # others were out of reach, or too busy to answer in time
        if attempt.outcome == UNKNOWN and attempt.error not in (HURRIED, "DurabilityPending"):
            yield f"{attempt.region} gave {attempt.uid} no answer in {waited:.1f} s, though it ran"
        if attempt.outcome == REFUSED and attempt.error not in _ORDINARY:
            yield f"{attempt.region} refused {attempt.uid} with {attempt.error}, though it ran"


OF_ANSWERS: dict[str, Check] = {
    "bounds at every read": bounds,
    "written together, seen together": together,
    "nothing made up": known,
    "sessions": sessions,
    "one effect per request": operations,
    "available while it runs": available,
}
