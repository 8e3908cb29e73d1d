"""Two JSON values compared: where they differ, by paths that people can find again. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "nothing"
_LONGEST = 160


@dataclass(frozen=True)
class Difference:
    """At `path`, one has `there` where the other has `should`; both as JSON, cut if they are long.

    Where one has nothing, it says `nothing`.
    """

    path: str
    there: str
    should: str


def differences(there: Any, should: Any, path: str = "") -> Iterator[Difference]:
    """The innermost values that differ. Lists of what has names are compared by these."""
    if there == should:
        return
    if isinstance(there, dict) and isinstance(should, dict):
        for key in sorted({*there, *should}):
            inner = f"{path}.{key}" if path else str(key)
            yield from _either(there, should, key, inner)
    elif isinstance(there, list) and isinstance(should, list):
        ours, theirs = _named(there), _named(should)
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            yield from _either(ours, theirs, key, f"{path}[{key}]")
        if list(ours) != list(theirs) and ours.keys() == theirs.keys():
            yield Difference(path, f"the order {_short(list(ours))}", _short(list(theirs)))
    else:
        yield Difference(path, _short(there), _short(should))


def _either(
    there: Mapping[Any, Any], should: Mapping[Any, Any], key: Any, path: str
) -> Iterator[Difference]:
    if key not in should:
        yield Difference(path, _short(there[key]), ABSENT)
    elif key not in there:
        yield Difference(path, ABSENT, _short(should[key]))
    else:
        yield from differences(there[key], should[key], path)


def _named(items: list[Any]) -> dict[str, Any]:
    """The items by what tells them apart, or by their places."""
    names = [_name(item) for item in items]
    if None in names or len(set(names)) < len(names):
        return {str(at): item for at, item in enumerate(items)}
    return {str(name): item for name, item in zip(names, items, strict=True)}


def _name(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    name = item.get("name")
    if isinstance(name, str):
        return name
    match item.get("match"):
        case {"path": str(path)}:
            headers: list[Any] = item["match"].get("headers", [])
            return " ".join([path, *map(_short, headers)])
    return None


def _short(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
