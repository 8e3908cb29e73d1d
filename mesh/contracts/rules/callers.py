"""Who may call a method, and from which region its callee is chosen."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.options.v1 import options_pb2

from mesh.contracts.model import EVERY_WORKLOAD
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import METHOD, MethodNode

_CALLERS = options_pb2.MethodContract.CALLERS_FIELD_NUMBER
_LOCALITY = options_pb2.MethodContract.LOCALITY_FIELD_NUMBER
_WORKLOADS = options_pb2.Callers.WORKLOADS_FIELD_NUMBER
_ROLES = options_pb2.Callers.ROLES_FIELD_NUMBER
_PEERS = options_pb2.Callers.PEERS_FIELD_NUMBER

ENROLMENT_SERVICE = "isthmus.mesh.v1.EnrolmentService"
"""The one service that a listener without client certificates carries."""


def _unknown_caller(subject: Subject) -> Iterator[Problem]:
    served = {service.contract.workload for service in subject.schema.services.values()}
    known = (served - {EVERY_WORKLOAD, ""}) | subject.workloads
    for method in subject.schema.methods():
        for name in method.contract.callers.workloads:
            if name not in known:
                every = " (any_workload: true means all of them)" if name == EVERY_WORKLOAD else ""
                yield Problem(
                    method.source.at(METHOD, _CALLERS, _WORKLOADS),
                    f'{method.name}: caller "{name}" is no workload',
                    f"write one of {', '.join(sorted(known))}{every}",
                )


def _unspecified_role(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if options_pb2.ROLE_UNSPECIFIED in method.contract.callers.roles:
            yield Problem(
                method.source.at(METHOD, _CALLERS, _ROLES),
                f"{method.name}: ROLE_UNSPECIFIED is nobody",
                "write ROLE_OPERATOR or ROLE_DEVICE, or leave roles out",
            )


def _unenrolled(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        roles = method.contract.callers.roles
        if options_pb2.ROLE_UNENROLLED in roles and method.service.name != ENROLMENT_SERVICE:
            yield Problem(
                method.source.at(METHOD, _CALLERS, _ROLES),
                f"{method.name}: ROLE_UNENROLLED reaches {ENROLMENT_SERVICE} and nothing else",
                "write ROLE_DEVICE or ROLE_OPERATOR: whoever calls must have a certificate",
            )


def _peers_unreachable(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        pinned = method.contract.locality == options_pb2.LOCALITY_PINNED
        if method.contract.callers.peers and not pinned:
            yield Problem(
                method.source.at(METHOD, _CALLERS, _PEERS),
                f"{method.name}: peers are in other regions, and {_locality(method)} "
                "does not let a caller name one",
                "write locality: LOCALITY_PINNED",
            )


def _pinned_through_edge(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        pinned = method.contract.locality == options_pb2.LOCALITY_PINNED
        if method.contract.callers.roles and pinned:
            yield Problem(
                method.source.at(METHOD, _LOCALITY),
                f"{method.name}: roles call through an edge, which names no region",
                "write LOCALITY_NEAREST or LOCALITY_LOCAL, or let workloads alone call it",
            )


def _single_region(subject: Subject) -> Iterator[Problem]:
    if subject.regions != 1:
        return
    for method in subject.schema.methods():
        if method.contract.locality == options_pb2.LOCALITY_NEAREST:
            yield Problem(
                method.source.at(METHOD, _LOCALITY),
                f"{method.name}: LOCALITY_NEAREST fails over to another region, "
                "and the topology has one region",
                "write LOCALITY_LOCAL, or add a region to mesh.yaml",
            )


def _locality(method: MethodNode) -> str:
    return options_pb2.Locality.Name(
        method.contract.locality or options_pb2.LOCALITY_LOCAL,
    )


RULES = (
    Rule("CALLER_UNKNOWN", "A caller is a workload that exists.", _unknown_caller),
    Rule("ROLE_UNSPECIFIED", "A role is named.", _unspecified_role),
    Rule("ROLE_UNENROLLED", "Only enrolment is called without a certificate.", _unenrolled),
    Rule("PEERS_NOT_PINNED", "Peers call a region that they name.", _peers_unreachable),
    Rule("PINNED_THROUGH_EDGE", "Edges name no region.", _pinned_through_edge),
    Rule("FAILOVER_SINGLE_REGION", "Failover needs a second region.", _single_region),
)
