"""From one contract to the next, method by method, in the contract's own terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from mesh.contracts.model import Callers, Contract, Location, Method, Service


class Kind(Enum):
    """What a change does to those who call."""

    ADDED = "added"
    REMOVED = "removed"
    GAINS = "gains access"
    LOSES = "loses access"
    OTHER = "other terms"


@dataclass(frozen=True)
class Change:
    """One thing that is different.

    `subject` is ``package.Service/Method``, or a service. `location` is a line of the new contract,
    or of the old one for what is gone.
    """

    subject: str
    kind: Kind
    what: str
    location: Location

    def __str__(self) -> str:
        return f"{self.subject}: {self.what} ({self.location})"


def changes(old: Contract, new: Contract) -> list[Change]:
    """All changes of services and methods, by subject."""
    return [
        change
        for name in sorted(old.services.keys() | new.services.keys())
        for change in _of_service(name, old.services.get(name), new.services.get(name))
    ]


def with_only(old: Contract, new: Contract, subject: str) -> Contract:
    """The old contract with what the new one says of one subject, and of nothing else."""
    name, _, method = subject.partition("/")
    services = dict(old.services)
    before, after = services.pop(name, None), new.services.get(name)
    if not method and after is not None and before is not None:
        services[name] = replace(after, methods=before.methods)
    elif after is not None:
        kept = before or replace(after, methods=())
        services[name] = replace(kept, methods=_with_method(kept, after, method))
    elif before is not None and method:
        services[name] = replace(before, methods=_with_method(before, None, method))
    return replace(old, services=dict(sorted(services.items())))


def _with_method(before: Service, after: Service | None, name: str) -> tuple[Method, ...]:
    now = {method.name: method for method in (after.methods if after else ())}
    # The order stays: it is that of the routes.
    kept = {method.name: method for method in before.methods}
    if name in now:
        kept[name] = now[name]
    else:
        kept.pop(name, None)
    return tuple(kept.values())


def _of_service(name: str, old: Service | None, new: Service | None) -> Iterator[Change]:
    if old is not None and new is not None:
        for what, was, now in (
            ("served by", old.workload, new.workload),
            ("its replication group is", old.group, new.group),
        ):
            if was != now:
                said = f"{what} `{now or 'none'}`, was `{was or 'none'}`"
                yield Change(name, Kind.OTHER, said, new.location)
    before = {method.name: method for method in (old.methods if old else ())}
    after = {method.name: method for method in (new.methods if new else ())}
    for method in sorted(before.keys() | after.keys()):
        yield from _of_method(before.get(method), after.get(method))


def _of_method(old: Method | None, new: Method | None) -> Iterator[Change]:
    if old is None and new is not None:
        who = ", ".join(sorted(_named(new.callers))) or "nobody"
        yield Change(new.path[1:], Kind.ADDED, f"is new, for {who}", new.location)
    elif old is not None and new is None:
        yield Change(old.path[1:], Kind.REMOVED, "is gone", old.location)
    elif old is not None and new is not None:
        where = new.at("callers")
        was, now = _named(old.callers), _named(new.callers)
        for who in sorted(was - now):
            yield Change(new.path[1:], Kind.LOSES, f"{who} loses access", where)
        for who in sorted(now - was):
            yield Change(new.path[1:], Kind.GAINS, f"{who} gains access", where)
        for option, before, after in _terms(old, new):
            if before != after:
                what = f"{option} is {after}, was {before}"
                yield Change(new.path[1:], Kind.OTHER, what, new.at(option))


def _named(callers: Callers) -> set[str]:
    named = {f"caller `{workload}`" for workload in callers.workloads}
    named |= {f"role `{role.value}`" for role in callers.roles}
    if callers.peers:
        named.add("the same workload in other regions")
    if callers.any_workload:
        named.add("every workload")
    return named


def _terms(old: Method, new: Method) -> Iterator[tuple[str, str, str]]:
    for option in (
        "timeout",
        "stream_max_age",
        "retry",
        "rate_limit",
        "locality",
        "consistency",
        "durability",
    ):
        yield option, _said(getattr(old, option)), _said(getattr(new, option))
    yield "google.api.http", _bindings(old), _bindings(new)
    yield "idempotency_level", _said(old.idempotency), _said(new.idempotency)


def _bindings(method: Method) -> str:
    return ", ".join(f"{each.verb} {each.path}" for each in method.http) or "none"


def _said(value: object) -> str:
    match value:
        case None:
            return "none"
        case float():
            return f"{value:g} s"
        case Enum():
            return str(value.value)
    return ", ".join(f"{name} {found:g}" for name, found in vars(value).items())
