"""What must hold of the regions' last states: nothing lost, nothing made up, nothing come back.

All are pure: from a history to what is wrong with it, one text for each finding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.faults.effects import NEVER, Effect, Effects
from tests.faults.history import State

Check = Callable[[Effects], Iterator[str]]


def converged(effects: Effects) -> Iterator[str]:
    """All regions hold the same: by vector, digest, canonical bytes, and as readers see it."""
    final = effects.history.final
    for part in ("vector", "digest", "bytes", "things"):
        held = {region: json.dumps(state[part], sort_keys=True) for region, state in final.items()}
        if len(set(held.values())) > 1:
            listed = ", ".join(f"{region} has {text[:200]}" for region, text in held.items())
            yield f"the regions differ in their {part}: {listed}"


def _last(effects: Effects) -> Iterator[tuple[str, str, State, list[Effect]]]:
    """Each region's last state of each entity, with what may have been written into it."""
    for region, final in effects.history.final.items():
        things: dict[str, State] = final["things"]
        for key in sorted({*things, *effects.by_key}):
            state = things.get(key, NEVER)
            yield region, key, state, effects.of(key, state["generation"])


def _living(effects: Effects) -> Iterator[tuple[str, str, State, list[Effect]]]:
    for region, key, state, written in _last(effects):
        if not state["deleted"]:
            yield region, key, state, written


def lives(effects: Effects) -> Iterator[str]:
    """Nothing written is in a life that is lost; what was deleted stays so; none is made up."""
    for region, key, state, written in _last(effects):
        generation = state["generation"]
        for effect in effects.by_key[key]:
            if effect.certain and (effect.generation or 0) > generation:
                yield f"{region}: {key} is in life {generation}: lost is the {effect}"
        if not generation:
            continue
        if not any(effect.does("create") for effect in written):
            yield f"{region}: {key} is in life {generation}, which nobody began"
        deletes = [effect for effect in written if effect.does("delete")]
        if state["deleted"] and not deletes:
            yield f"{region}: {key} is deleted in life {generation}, which nobody did"
        for effect in deletes:
            if effect.certain and not state["deleted"]:
                yield f"{region}: {key} lives, in spite of the {effect}"
        known = {e.generation for e in effects.by_key[key] if e.certain and e.generation}
        for former in sorted(life for life in known if life < generation):
            if not any(effect.does("delete") for effect in effects.of(key, former)):
                yield f"{region}: nobody ended life {former} of {key}, which is in {generation}"


def values(effects: Effects) -> Iterator[str]:
    """LATEST, FIRST, MAX and MIN show what was written, and what may win."""
    for region, key, state, written in _living(effects):
        where = f"{region}: {key}"
        for field in ("latest", "first"):
            yield from _shown(effects, where, field, state[field], written)
        by = _by_value(written, "first").get(state["first"], [])
        if by and all(effect.certain and effect.saw("first") for effect in by):
            yield f"{where} has a first that came second: {by[0]}"
        for field, best in (("most", max), ("least", min)):
            shown = state[field] or None
            found = _by_value(written, field)
            must = [value for value, by in found.items() if any(e.certain for e in by)]
            if must and (shown is None or best(shown, *must) != shown):
                yield f"{where}: {field} is {shown}, and {best(must)} was acknowledged"
            if shown is not None and shown not in found:
                yield f"{where}: {field} is {shown}, which nobody wrote"


def _by_value(written: Iterable[Effect], field: str) -> dict[Any, list[Effect]]:
    found: dict[Any, list[Effect]] = {}
    for effect in written:
        for value in effect.written(field):
            found.setdefault(value, []).append(effect)
    return found


def _shown(
    effects: Effects, where: str, field: str, shown: str, written: list[Effect]
) -> Iterator[str]:
    """What is shown was written, and not overwritten by who had read it."""
    found = _by_value(written, field)
    if not shown:
        for by in found.values():
            for effect in by:
                if effect.certain:
                    yield f"{where}: {field} is not set: lost is the {effect}"
        return
    if shown not in found:
        yield f"{where}: {field} is {shown!r}, which nobody wrote into this life"
    elif field == "latest":
        for value, by in found.items():
            for effect in by:
                if effect.certain and value != shown and effect.saw(field) == shown:
                    yield f"{where}: {field} is {shown!r} again: lost is the {effect}"


def counters(effects: Effects) -> Iterator[str]:
    """A counter is the sum of what was acknowledged and of some of what may have been done."""
    for region, key, state, written in _living(effects):
        for field in ("count", "stock"):
            certain = sum(effect.amounts(field) for effect in written if effect.certain)
            # Attempts of one request are done once at most.
            possible = {
                effect.attempt.request: effect.amounts(field)
                for effect in written
                if not effect.certain
            }
            missing = state[field] - certain
            if missing not in _sums(possible.values()):
                yield (
                    f"{region}: {field} of {key} is {state[field]}: {certain} was acknowledged, "
                    f"and no choice of {sorted(filter(None, possible.values()))} makes the rest"
                )


def _sums(amounts: Iterable[int]) -> set[int]:
    """Every sum of some of the amounts."""
    found = {0}
    for amount in filter(None, amounts):
        found |= {each + amount for each in found}
    return found


def sets(effects: Effects) -> Iterator[str]:
    """A SET has what was added and not removed by who saw it; a removed element stays away."""
    for region, key, state, written in _living(effects):
        added: dict[str, list[Effect]] = {}
        removed: dict[str, list[Effect]] = {}
        for effect in written:
            for created in effect.written("labels"):
                for value in created:
                    added.setdefault(value, []).append(effect)
            for verb, *rest in effect.operations:
                if verb == "add":
                    added.setdefault(rest[0], []).append(effect)
                elif verb == "remove":
                    removed.setdefault(rest[0], []).append(effect)
        labels = set(state["labels"])
        for value in sorted(labels - added.keys()):
            yield f"{region}: {key} has the label {value!r}, which nobody added to this life"
        for value, by in added.items():
            took = [
                e
                for e in removed.get(value, [])
                if e.before is None or value in (e.saw("labels") or ())
            ]
            if value not in labels and not took and any(effect.certain for effect in by):
                yield f"{region}: {key} lacks the label {value!r}: lost is the {by[0]}"
            if value in labels and any(e.certain for e in took):
                yield f"{region}: {key} has the label {value!r} again, in spite of the {took[0]}"


def maps(effects: Effects) -> Iterator[str]:
    """A MAP shows what was put under a name, and not what was replaced or dropped by who saw it."""
    for region, key, state, written in _living(effects):
        for name in "abc":
            where = f"{region}: {key} has under {name}"
            shown = state["tags"].get(name)
            puts = {
                op[2]: effect
                for effect in written
                for op in effect.operations
                if op[:2] == ("put", name)
            }
            ends = [e for e in written for op in e.operations if op[:2] == ("drop", name)]
            if shown is None:
                for effect in puts.values():
                    later = (
                        e for e in ends if not e.certain or e.attempt.end > effect.attempt.start
                    )
                    if effect.certain and not any(later):
                        yield f"{where} nothing: lost is the {effect}"
            elif shown not in puts:
                yield f"{where} {shown!r}, which nobody put into this life"
            else:
                others = (effect for value, effect in puts.items() if value != shown)
                for effect in (*ends, *others):
                    if effect.certain and (effect.saw("tags") or {}).get(name) == shown:
                        yield f"{where} {shown!r} again, in spite of the {effect}"


def kept_both(effects: Effects) -> Iterator[str]:
    """Every value of a KEEP_BOTH stands until somebody who saw it writes another."""
    for region, key, state, written in _living(effects):
        notes = _by_value(written, "note")
        standing = set(state["note"])
        for value in sorted(standing - notes.keys()):
            yield f"{region}: a note of {key} is {value!r}, which nobody wrote into this life"
        for value, by in notes.items():
            over = [
                effect
                for other, others in notes.items()
                if other != value
                for effect in others
                if effect.before is None or value in (effect.saw("note") or ())
            ]
            if value not in standing and not over and any(effect.certain for effect in by):
                yield f"{region}: a note of {key} is missing: lost is the {by[0]}"
            certain = [effect for effect in over if effect.certain]
            if value in standing and certain:
                yield f"{region}: the note {value!r} of {key} stands in spite of the {certain[0]}"


OF_STATES: dict[str, Check] = {
    "regions are equal": converged,
    "lives and deletes": lives,
    "LATEST FIRST MAX MIN": values,
    "COUNTER BOUNDED_COUNTER": counters,
    "SET": sets,
    "MAP": maps,
    "KEEP_BOTH": kept_both,
}
