"""What a method promises of a group's data: to its readers, and of its writes."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.options.v1 import options_pb2

from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import METHOD, MethodNode

_CONSISTENCY = options_pb2.MethodContract.CONSISTENCY_FIELD_NUMBER
_DURABILITY = options_pb2.MethodContract.DURABILITY_FIELD_NUMBER
_DEFAULT_DURABILITIES = (options_pb2.DURABILITY_UNSPECIFIED, options_pb2.DURABILITY_REGION)


def _promises(subject: Subject) -> Iterator[tuple[MethodNode, int, str]]:
    """Each promise beyond the default: its method, its option's number and its value's name."""
    for method in subject.schema.methods():
        contract = method.contract
        if contract.consistency == options_pb2.CONSISTENCY_SESSION:
            yield method, _CONSISTENCY, "CONSISTENCY_SESSION"
        if contract.durability not in _DEFAULT_DURABILITIES:
            yield method, _DURABILITY, options_pb2.Durability.Name(contract.durability)


def _without_group(subject: Subject) -> Iterator[Problem]:
    owners = {
        service.contract.workload
        for service in subject.schema.services.values()
        if service.contract.group
    }
    for method, option, value in _promises(subject):
        workload = method.service.contract.workload
        if workload not in owners:
            yield Problem(
                method.source.at(METHOD, option),
                f'{method.name}: {value} is about a replication group, and "{workload}" owns none',
                "leave it out, or declare a group on the service",
            )


def _on_stream(subject: Subject) -> Iterator[Problem]:
    for method, option, value in _promises(subject):
        if method.streaming:
            yield Problem(
                method.source.at(METHOD, option),
                f"{method.name} streams: {value} is a promise about one answer",
                "leave it out: a watch begins with a snapshot and goes on from there",
            )


RULES = (
    Rule("PROMISE_WITHOUT_GROUP", "Consistency and durability are a group's.", _without_group),
    Rule("PROMISE_ON_STREAM", "Consistency and durability are of one answer.", _on_stream),
)
