"""What is different between two contracts is told by method, in words, with a line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.contracts.changes import Change, Kind, changes, with_only
from mesh.contracts.model import (
    Callers,
    Contract,
    Durability,
    Idempotency,
    Locality,
    Location,
    Method,
    RateLimit,
    Retry,
    Role,
)
from mesh.contracts.read import load

SERVICE = "isthmus.channels.v1.ChannelService"
GET = f"{SERVICE}/GetChannel"


def edited(**methods: dict[str, Any] | None) -> Contract:
    """The project's contract with some methods of the channels' service changed, or gone."""
    contract = load()
    service = contract.services[SERVICE]
    kept: list[Method] = [
        replace(method, **(methods.get(method.name) or {}))
        for method in service.methods
        if methods.get(method.name, {}) is not None
    ]
    services = {**contract.services, SERVICE: replace(service, methods=tuple(kept))}
    return replace(contract, services=services)


def only(old: Contract, new: Contract) -> Change:
    (change,) = changes(old, new)
    return change


def test_the_same_contract_has_no_changes() -> None:
    assert not changes(load(), load())


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ({"timeout": 9.0}, "timeout is 9 s, was 3 s"),
        ({"retry": None}, "retry is none, was attempts 3, per_try 1"),
        ({"retry": Retry(2, 2.0)}, "retry is attempts 2, per_try 2, was attempts 3, per_try 1"),
        ({"rate_limit": RateLimit(5, 2)}, "rate_limit is per_second 5, burst 2, was none"),
        ({"locality": Locality.LOCAL}, "locality is local, was nearest"),
        ({"durability": Durability.MAJORITY}, "durability is majority, was region"),
        ({"idempotency": Idempotency.IDEMPOTENT}, "idempotency_level is idempotent, was no side"),
    ],
)
def test_terms_are_told_with_what_they_were(terms: dict[str, Any], what: str) -> None:
    change = only(load(), edited(GetChannel=terms))
    assert (change.subject, change.kind) == (GET, Kind.OTHER)
    assert change.what.startswith(what)


def test_access_is_told_by_caller_with_the_line_of_the_callers() -> None:
    wider = Callers(frozenset({"overview"}), frozenset({Role.OPERATOR}), peers=True)
    new = edited(GetChannel={"callers": wider, "lines": (("callers", 4711),)})
    gained = changes(load(), new)
    where = Location("isthmus/channels/v1/channels.proto", 4711)
    assert [(each.kind, each.what, each.location) for each in gained] == [
        (Kind.GAINS, "caller `overview` gains access", where),
        (Kind.GAINS, "the same workload in other regions gains access", where),
    ]
    assert [each.kind for each in changes(new, load())] == [Kind.LOSES, Kind.LOSES]


def test_every_option_that_is_set_has_its_line() -> None:
    method = next(m for m in load().methods() if m.path[1:] == GET)
    assert {"callers", "timeout", "retry", "idempotency_level"} <= {
        name for name, _ in method.lines
    }
    assert all(method.at(name).line > method.location.line for name, _ in method.lines)
    assert method.at("rate_limit") == method.location


def test_methods_and_services_come_and_go() -> None:
    without = edited(GetChannel=None)
    assert only(without, load()).kind is Kind.ADDED
    assert only(load(), without).kind is Kind.REMOVED
    services = dict(load().services)
    gone = services.pop(SERVICE)
    removed = changes(load(), replace(load(), services=services))
    assert {each.subject for each in removed} == {method.path[1:] for method in gone.methods}


def test_a_service_that_moves_is_told() -> None:
    contract = load()
    moved = replace(contract.services[SERVICE], workload="devices", group=None)
    new = replace(contract, services={**contract.services, SERVICE: moved})
    assert [change.what for change in changes(contract, new)] == [
        "served by `devices`, was `channels`",
        "its replication group is `none`, was `channels`",
    ]


def test_one_subject_can_be_taken_over_alone() -> None:
    new = edited(GetChannel={"timeout": 9.0}, ListChannels=None, StopChannel={"timeout": 8.0})
    part = with_only(load(), new, GET)
    assert [change.subject for change in changes(load(), part)] == [GET]
    part = with_only(load(), new, f"{SERVICE}/ListChannels")
    assert [change.kind for change in changes(load(), part)] == [Kind.REMOVED]
    back = with_only(new, load(), f"{SERVICE}/ListChannels")
    assert [change.kind for change in changes(new, back)] == [Kind.ADDED]
