"""Conflicts as the regions noted them: asked of all, each shown once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from isthmus.replication.v1 import conflict_pb2
from isthmus.replication.v1.conflict_pb2_grpc import ConflictsServiceStub

from mesh.cli.exits import CommandError, Exit
from mesh.cli.memberships import owners
from mesh.cli.session import NOT_UP, run, session
from mesh.cli.standing import WORKLOAD_HEADER, problem
from mesh.contracts import load as load_contract
from mesh.runtime.client import NoEdge
from mesh.topology import load

_DEADLINE = 3.0

Silent = tuple[str, str, str]
"""A region and a workload that gave no answer, and why."""


@dataclass(frozen=True)
class Noted:
    """A conflict, and the regions that noted it."""

    group: str
    view: conflict_pb2.ConflictView
    regions: tuple[str, ...]


def ask(mesh: Path, region: str, workload: str, entity: str) -> tuple[list[Noted], list[Silent]]:
    """The conflicts that regions noted, the newest first, and who did not answer.

    `entity` is TYPE or TYPE/KEY. Raises `CommandError` if none answers, and for what there is not.
    """
    topology = load(mesh)
    regions = (topology.region(region).name,) if region else topology.region_names
    asked = owners(mesh, None)
    if workload and workload not in asked.values():
        raise CommandError(
            f"{workload!r} owns no group; those that do are {', '.join(asked.values())}",
            Exit.NOT_FOUND,
        )
    type, _, key = entity.partition("/")
    if type:
        type, group = _of_type(type)
        asked = {name: owner for name, owner in asked.items() if name == group}
    request = conflict_pb2.ListConflictsRequest(type=type, key=key)
    pairs = [
        (name, owner)
        for owner in asked.values()
        for name in regions
        if not workload or owner == workload
    ]
    answers, silent = run(_ask_all(mesh, pairs, request))
    if pairs and not answers:
        raise CommandError(silent[0][2] if silent else NOT_UP, Exit.UNREACHABLE)
    return merge(answers), silent


def _of_type(name: str) -> tuple[str, str]:
    """A message type by its full name or the last part of it, and its group."""
    entities = load_contract().entities
    found = [each for each in entities.values() if name in (each.name, each.name.split(".")[-1])]
    if len(found) != 1:
        raise CommandError(
            f"{name!r} is no entity; there are {', '.join(sorted(entities))}", Exit.NOT_FOUND
        )
    return found[0].name, found[0].group


async def _ask_all(
    mesh: Path, pairs: list[tuple[str, str]], request: conflict_pb2.ListConflictsRequest
) -> tuple[list[conflict_pb2.ListConflictsResponse], list[Silent]]:
    async def one(region: str, workload: str) -> conflict_pb2.ListConflictsResponse | Silent:
        try:
            async with session(mesh, region, only=True) as opened:
                return await opened.edges.call(
                    lambda channel: ConflictsServiceStub(channel).ListConflicts(
                        request, timeout=_DEADLINE, metadata=((WORKLOAD_HEADER, workload),)
                    ),
                    repeatable=True,
                )
        except NoEdge:
            return region, workload, "its region's edge does not answer"
        except grpc.aio.AioRpcError as error:
            return region, workload, problem(error)

    found = await asyncio.gather(*(one(*pair) for pair in pairs))
    answers = [each for each in found if isinstance(each, conflict_pb2.ListConflictsResponse)]
    return answers, [each for each in found if isinstance(each, tuple)]


def merge(answers: list[conflict_pb2.ListConflictsResponse]) -> list[Noted]:
    """Each conflict once, whoever noted it, the newest first."""
    found: dict[bytes, Noted] = {}
    for answer in answers:
        for view in answer.conflicts:
            same = found.get(id := view.SerializeToString(deterministic=True))
            regions = (*(same.regions if same else ()), answer.region)
            found[id] = Noted(answer.group, view, regions)
    return sorted(found.values(), key=_time, reverse=True)


def _time(noted: Noted) -> int:
    values = noted.view.read, noted.view.other
    return max(value.time.ToMilliseconds() for value in values)


def message_of(type: str, value: bytes) -> Message:
    """A serialized entity of a type of the contract, or of members."""
    entity = load_contract().entities.get(type)
    if entity is not None:
        import_module(entity.location.file.removesuffix(".proto").replace("/", ".") + "_pb2")
    descriptor = descriptor_pool.Default().FindMessageTypeByName(type)
    return message_factory.GetMessageClass(descriptor).FromString(value)
