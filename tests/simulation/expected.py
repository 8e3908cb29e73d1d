"""What a field must be: from who wrote what to it, and what each writer had read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Offer(NamedTuple):
    """What a write does to a field.

    `past` are the bits of the writes that its writer saw, `read` those whose values it replaces.
    """

    number: int
    verb: str
    value: Any
    past: int
    read: int


class Expected(NamedTuple):
    """An entity as it must be; of a field in `choices` one of several values is right.

    `standing` are the values that stand in a KEEP_BOTH field.
    """

    exact: Mapping[str, Any]
    choices: Mapping[str, frozenset[Any]]
    standing: Mapping[str, list[Any]]


def expected(rules: Mapping[str, tuple[str, Any]], offers: Mapping[str, list[Offer]]) -> Expected:
    """The fields of one life of an entity."""
    exact: dict[str, Any] = {}
    choices: dict[str, frozenset[Any]] = {}
    standing: dict[str, list[Any]] = {}
    for name, (rule, unset) in rules.items():
        offered = offers.get(name, [])
        if rule in _EXACT:
            exact[name] = _EXACT[rule](offered, unset)
        elif rule == "map":
            entries = {key: live(of_key(offered, key)) for key in keys(offered)}
            exact[name] = frozenset(key for key, puts in entries.items() if puts)
            for key, puts in entries.items():
                if puts:
                    choices[f"{name}.{key}"] = _values(latest(puts))
        else:
            stand = live(offered) if rule == "both" else offered
            chosen = first(stand) if rule == "first" else latest(stand)
            choices[name] = _values(chosen) or frozenset([unset])
            if rule == "both":
                standing[name] = sorted(offer.value for offer in stand)
    return Expected(exact, choices, standing)


def latest(offered: list[Offer]) -> list[Offer]:
    """Those that no later one, whose writer saw them, stands above."""
    return [
        offer
        for offer in offered
        if not any(o.number != offer.number and o.past >> offer.number & 1 for o in offered)
    ]


def first(offered: list[Offer]) -> list[Offer]:
    """Those whose writers saw none of the others."""
    numbers = sum(1 << offer.number for offer in offered)
    return [offer for offer in offered if not offer.past & numbers & ~(1 << offer.number)]


def live(offered: list[Offer]) -> list[Offer]:
    """The values written that nobody who had read them replaced or removed."""
    return [
        offer
        for offer in offered
        if offer.verb != "remove"
        and not any(o.number != offer.number and o.read >> offer.number & 1 for o in offered)
    ]


def keys(offered: list[Offer]) -> Iterable[str]:
    """All keys of a map, or elements of a set, that any write names."""
    return sorted({key for offer in offered for key in offer.value})


def of_key(offered: list[Offer], key: str) -> list[Offer]:
    """What is done to one key of a map, or to one element of a set."""
    return [
        offer._replace(value=offer.value[key] if isinstance(offer.value, dict) else key)
        for offer in offered
        if key in offer.value
    ]


def _values(offered: list[Offer]) -> frozenset[Any]:
    return frozenset(offer.value for offer in offered)


def _elements(offered: list[Offer], unset: Any) -> frozenset[str]:
    return frozenset(key for key in keys(offered) if live(of_key(offered, key)))


def _sum(offered: list[Offer], unset: Any) -> Any:
    return sum(offer.value for offer in offered)


def _max(offered: list[Offer], unset: Any) -> Any:
    return max((offer.value for offer in offered), default=unset)


def _min(offered: list[Offer], unset: Any) -> Any:
    return min((offer.value for offer in offered), default=unset)


_EXACT: Mapping[str, Callable[[list[Offer], Any], Any]] = {
    "sum": _sum,
    "max": _max,
    "min": _min,
    "set": _elements,
}
