"""Asks regions what they should run, what they run, and what their servers reflect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2
from isthmus.mesh.v1 import inspection_pb2 as pb
from isthmus.mesh.v1.inspection_pb2_grpc import InspectionServiceStub

from mesh.cli.session import Session, session
from mesh.cli.standing import WORKLOAD_HEADER, problem
from mesh.runtime.client import NoEdge

_INSPECTED_WITHIN = 12.0
_REFLECTED_WITHIN = 10.0
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True)
class Served:
    """What one server reflects: the services that it lists, and descriptors."""

    services: frozenset[str]
    files: descriptor_pb2.FileDescriptorSet


@dataclass
class Region:
    """One region's word."""

    answer: pb.InspectSidecarsResponse
    revisions: dict[str, pb.GetRevisionResponse] = field(default_factory=dict)
    servers: dict[str, Served | str] = field(default_factory=dict)
    """By workload; a text says why nothing is known."""


async def ask_all(
    mesh: Path, regions: Iterable[str], workloads: Mapping[str, Iterable[str]]
) -> dict[str, Region | str]:
    """What each region says, by its own edge; or why nothing is known of it.

    `workloads` are the servers, with the services that each should serve.
    """
    names = list(regions)
    found = await asyncio.gather(*(_ask(mesh, region, workloads) for region in names))
    return dict(zip(names, found, strict=True))


async def ask_texts(
    mesh: Path, wanted: Mapping[str, list[pb.SidecarResource]]
) -> dict[str, pb.InspectSidecarsResponse]:
    """The same again with the texts of these resources, by region; of those that answer."""

    async def one(region: str) -> pb.InspectSidecarsResponse | None:
        try:
            async with session(mesh, region, only=True) as opened:
                return await _inspect(opened, wanted[region])
        except (NoEdge, grpc.aio.AioRpcError):
            return None

    found = await asyncio.gather(*map(one, wanted))
    return {region: each for region, each in zip(wanted, found, strict=True) if each is not None}


async def _ask(mesh: Path, region: str, workloads: Mapping[str, Iterable[str]]) -> Region | str:
    try:
        async with session(mesh, region, only=True) as opened:
            found = Region(await _inspect(opened, ()))
            fleet = found.answer.fleet
            names = {fleet.good, fleet.installed, *(each.revision for each in fleet.sidecars)}
            asked = sorted(names - {""})
            answers, servers = await asyncio.gather(
                asyncio.gather(*(_revision(opened, name) for name in asked)),
                asyncio.gather(*(_reflect(opened, *each) for each in workloads.items())),
            )
            found.revisions = dict(zip(asked, answers, strict=True))
            found.servers = dict(zip(workloads, servers, strict=True))
            return found
    except NoEdge as error:
        return str(error)
    except grpc.aio.AioRpcError as error:
        return problem(error)


async def _inspect(
    opened: Session, texts: Iterable[pb.SidecarResource]
) -> pb.InspectSidecarsResponse:
    request = pb.InspectSidecarsRequest(texts=texts)
    answer: pb.InspectSidecarsResponse = await opened.read(
        lambda channel: InspectionServiceStub(channel).InspectSidecars(
            request, timeout=_INSPECTED_WITHIN
        )
    )
    return answer


async def _revision(opened: Session, name: str) -> pb.GetRevisionResponse:
    request = pb.GetRevisionRequest(name=name)
    answer: pb.GetRevisionResponse = await opened.read(
        lambda channel: InspectionServiceStub(channel).GetRevision(request, timeout=10)
    )
    return answer


async def _reflect(opened: Session, workload: str, services: Iterable[str]) -> Served | str:
    try:
        return await opened.read(lambda channel: _reflected(channel, workload, services))
    except NoEdge as error:
        return str(error)
    except grpc.aio.AioRpcError as error:
        return problem(error)


async def _reflected(channel: grpc.aio.Channel, workload: str, services: Iterable[str]) -> Served:
    """Lists what a workload serves, and fetches the files of what it should serve."""
    method: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
        _REFLECTION,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    stream = method(timeout=_REFLECTED_WITHIN, metadata=((WORKLOAD_HEADER, workload),))
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
    answer = await stream.read()
    if not isinstance(answer, reflection_pb2.ServerReflectionResponse):
        raise await _ended(stream)
    listed = frozenset(each.name for each in answer.list_services_response.service)
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for name in services:
        if name not in listed:
            continue
        await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        answer = await stream.read()
        if not isinstance(answer, reflection_pb2.ServerReflectionResponse):
            raise await _ended(stream)
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            files[file.name] = file
    await stream.done_writing()
    await stream.read()  # its end: to cancel it would look like a failed call
    return Served(listed, descriptor_pb2.FileDescriptorSet(file=files.values()))


async def _ended(stream: Any) -> grpc.aio.AioRpcError:
    """Why a stream gave no answer."""
    return grpc.aio.AioRpcError(
        await stream.code(),
        await stream.initial_metadata(),
        await stream.trailing_metadata(),
        details=await stream.details(),
    )
