"""Services say which workload serves them, who answers for them, and which group they own."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.options.v1 import options_pb2

from mesh.contracts.model import EVERY_WORKLOAD
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import ENTITY, SERVICE, ServiceNode

_GROUP = options_pb2.ServiceContract.GROUP_FIELD_NUMBER
_ENTITY_GROUP = options_pb2.EntityContract.GROUP_FIELD_NUMBER


def _unowned(subject: Subject) -> Iterator[Problem]:
    for service in subject.schema.services.values():
        for name, example in (
            ("workload", '"channels": the last part of its SPIFFE identity'),
            ("owner", '"media-operations": who answers for it'),
            ("runbook", '"docs/runbooks/channels.md": what the on-call operator does'),
        ):
            if not getattr(service.contract, name):
                yield Problem(
                    service.source.at(SERVICE),
                    f"{service.name} has no {name}",
                    f"add to `option (isthmus.options.v1.service)` a {name} such as {example}",
                )


def _groups(subject: Subject) -> Iterator[tuple[ServiceNode, str, str]]:
    for service in subject.schema.services.values():
        if service.contract.group:
            yield service, service.contract.workload, service.contract.group


def _platform_group(subject: Subject) -> Iterator[Problem]:
    for service, workload, group in _groups(subject):
        if workload == EVERY_WORKLOAD:
            yield Problem(
                service.source.at(SERVICE, _GROUP),
                f'{service.name} is served by every workload, so none owns group "{group}"',
                "leave group out, or name the one workload that owns the group",
            )


def _shared_group(subject: Subject) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for service, workload, group in _groups(subject):
        owner = owners.setdefault(group, workload)
        if owner != workload:
            yield Problem(
                service.source.at(SERVICE, _GROUP),
                f'group "{group}" is owned by "{owner}" and by "{workload}": '
                "a group has one writer in a region",
                f'give "{workload}" a group of its own, or serve {service.name} from "{owner}"',
            )


def _two_groups(subject: Subject) -> Iterator[Problem]:
    owned: dict[str, str] = {}
    for service, workload, group in _groups(subject):
        first = owned.setdefault(workload, group)
        if first != group:
            yield Problem(
                service.source.at(SERVICE, _GROUP),
                f'"{workload}" owns group "{first}" and group "{group}": '
                "one write would span two groups, and nothing makes it atomic",
                f'write group: "{first}", or serve {service.name} from another workload',
            )


def _homeless_entity(subject: Subject) -> Iterator[Problem]:
    groups = {group for _, _, group in _groups(subject)}
    known = ", ".join(sorted(groups)) or "none"
    for message in subject.schema.entities():
        group = message.entity.group if message.entity else ""
        if group not in groups:
            yield Problem(
                message.source.at(ENTITY, _ENTITY_GROUP),
                f'{message.name} is in group "{group}", which no service owns',
                f"name the group of the workload that writes it (there are: {known}), "
                "or declare the group on that workload's service",
            )


RULES = (
    Rule(
        "SERVICE_INCOMPLETE",
        "Every service names its workload, its owner and its runbook.",
        _unowned,
    ),
    Rule("GROUP_ON_PLATFORM", "A group is owned by one named workload.", _platform_group),
    Rule("GROUP_SHARED", "A group has one writer, so one workload owns it.", _shared_group),
    Rule("GROUP_SECOND", "A write never spans two groups, so a workload owns one.", _two_groups),
    Rule("GROUP_UNKNOWN", "An entity lives in a group that a service owns.", _homeless_entity),
)
