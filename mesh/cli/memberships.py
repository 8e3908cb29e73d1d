"""Calls to the services that decide about members: one for each workload that owns a group."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from isthmus.replication.v1 import member_pb2, members_pb2
from isthmus.replication.v1.members_pb2 import MembersStatus, MemberStatus
from isthmus.replication.v1.members_pb2_grpc import MembersServiceStub

from mesh.cli import output
from mesh.cli.calls import DEADLINE
from mesh.cli.exits import CommandError, Exit
from mesh.cli.session import run, session
from mesh.cli.standing import WORKLOAD_HEADER
from mesh.contracts import load as load_contract
from mesh.runtime.client import NoEdge
from mesh.topology import load

MARKS = {
    members_pb2.MEMBER_MARK_SILENT: "silence",
    members_pb2.MEMBER_MARK_HOLDS_JOURNAL: "the journal kept for it",
}


def state_of(member: MemberStatus) -> str:
    """The name of a member's state: `JOINED`."""
    return member_pb2.MemberState.Name(member.member.state).removeprefix("MEMBER_STATE_")


def remarks(found: Iterable[MembersStatus]) -> list[str]:
    """What an operator should know of members, each thing once."""
    return list(dict.fromkeys(line for status in found for line in _remarks(status)))


def _remarks(status: MembersStatus) -> Iterator[str]:
    for member in status.members:
        region = member.member.region
        state = state_of(member)
        if state != "JOINED":
            yield f"{status.group}: {region} is {state}: see `isthmus members --help`"
        if member.marks:
            listed = " and ".join(MARKS[mark] for mark in member.marks)
            yield (
                f"{status.group}: {region} is marked for {listed}: bring it back, or go on without "
                f"it with `isthmus members evict {region}`"
            )
        if member.HasField("early"):
            ahead = output.duration(member.early.ToTimedelta())
            yield (
                f"{status.group}: changes of {region} come from {ahead} in the future: "
                f"{status.region} keeps them and applies them in time; set the clock of {region}"
            )


def owners(mesh: Path, groups: Sequence[str] | None) -> dict[str, str]:
    """The workload that owns each group, by the group's name; `groups` limits which.

    Raises `CommandError` for a group that there is not.
    """
    contract = load_contract()
    found = {
        group: workload
        for workload in load(mesh).workloads
        if (group := contract.group_of(workload)) is not None
    }
    for group in groups or ():
        if group not in found:
            raise CommandError(
                f"there is no group {group!r}; there are {', '.join(found)}", Exit.NOT_FOUND
            )
    return {group: workload for group, workload in found.items() if not groups or group in groups}


def statuses(
    mesh: Path, region: str, groups: Sequence[str] | None, *, only: bool = False
) -> list[MembersStatus]:
    """How each group's members stand; `only` at that region's edge and no other.

    With no region, by the one that knows the latest decisions.
    """
    workloads = owners(mesh, groups).values()
    if not region:
        return run(_newest_of(mesh, workloads))
    return [
        _call(mesh, workload, region, "List", members_pb2.ListRequest(), only=only).members
        for workload in workloads
    ]


def decide(
    mesh: Path, method: str, name: str, groups: Sequence[str] | None
) -> list[tuple[str, MembersStatus]]:
    """Takes a decision about a region in each group, at the group's home."""
    request_type = getattr(members_pb2, f"{method}Request")
    found = []
    for workload in owners(mesh, groups).values():
        request = request_type(region=name, request_id=str(uuid.uuid4()))
        reply = _call(mesh, workload, _home(mesh, workload), method, request, only=True)
        found.append((name, reply.members))
    return found


def move_home(
    mesh: Path, to: str, groups: Sequence[str] | None, *, force: bool
) -> list[tuple[str, MembersStatus]]:
    """Moves the home of each group: asks that, or with `force` the new one."""
    load(mesh).region(to)
    found = []
    for workload in owners(mesh, groups).values():
        request = members_pb2.MoveHomeRequest(region=to, force=force, request_id=str(uuid.uuid4()))
        asked = to if force else _home(mesh, workload)
        reply = _call(mesh, workload, asked, "MoveHome", request, only=True)
        found.append((to, reply.members))
    return found


def _home(mesh: Path, workload: str) -> str:
    return run(_newest(mesh, workload)).home


async def _newest_of(mesh: Path, workloads: Iterable[str]) -> list[MembersStatus]:
    return list(await asyncio.gather(*(_newest(mesh, workload) for workload in workloads)))


async def _newest(mesh: Path, workload: str) -> MembersStatus:
    """What the region says that knows the latest decisions: one that is out is not told them."""

    async def one(region: str) -> MembersStatus | grpc.aio.AioRpcError | NoEdge | CommandError:
        try:
            request = members_pb2.ListRequest()
            reply = await _asked(mesh, workload, region, "List", request, only=True)
        except (grpc.aio.AioRpcError, NoEdge, CommandError) as error:
            return error
        status: MembersStatus = reply.members
        return status

    found = await asyncio.gather(*map(one, load(mesh).region_names))
    told = [each for each in found if isinstance(each, MembersStatus)]
    if not told:
        raise next(each for each in found if not isinstance(each, MembersStatus))
    return max(told, key=lambda each: (each.generation, each.home, each.version))


def _call(
    mesh: Path, workload: str, region: str, method: str, request: Any, *, only: bool = False
) -> Any:
    return run(_asked(mesh, workload, region, method, request, only=only))


async def _asked(
    mesh: Path, workload: str, region: str, method: str, request: Any, *, only: bool
) -> Any:
    async with session(mesh, region, only=only) as opened:
        return await opened.edges.call(
            lambda channel: getattr(MembersServiceStub(channel), method)(
                request, timeout=DEADLINE, metadata=((WORKLOAD_HEADER, workload),)
            ),
            repeatable=True,
        )
