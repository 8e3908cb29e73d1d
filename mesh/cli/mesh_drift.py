"""`isthmus mesh drift`: what runs is not what should run, in which sidecar or server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from isthmus.mesh.v1 import inspection_pb2 as pb

    from mesh.cli.inspecting import Region, Served
    from mesh.contracts import Contract
    from mesh.xds.drift import Compiled, Drift, Key
    from mesh.xds.fleet import Instance, Revision
    from mesh.xds.resources import Resource


def drift(mesh: MeshPath = MESH, as_json: AsJson = False) -> int:
    """Compares contract, compiled resources, what each Envoy says it runs, and servers' reflection.

    The contract is that of the revision which a region's control plane gives each sidecar; it is
    compiled anew here. Envoys answer with their own configuration dumps, those that start from
    files too. What a discovering Envoy was started from is compared as well, and a value that
    somebody set in an Envoy's runtime by hand counts. Servers answer by reflection: services,
    methods, messages and options are compared. Each difference is told with what is there and what
    should be.

    Ends with 1 if anything differs, with 3 if nothing does but a sidecar, a server or a region does
    not answer, so that it is not known.
    """
    from mesh.cli import output
    from mesh.cli.exits import Exit
    from mesh.cli.session import run
    from mesh.topology import load

    topology = load(mesh)
    found = run(_Look(mesh).look(topology.region_names, topology.workloads))
    if as_json:
        output.print_json(
            {
                "drifts": [
                    {
                        "region": each.region,
                        "workload": each.workload,
                        "between": each.between.name,
                        "subject": each.subject,
                        "path": each.path,
                        "there": each.there,
                        "should": each.should,
                    }
                    for each in found.drifts
                ],
                "unknown": [
                    {"what": what, "why": why} for what, why in sorted(found.unknown.items())
                ],
                "sidecars": found.sidecars,
                "resources": found.resources,
                "servers": found.servers,
                "revisions": found.revisions,
            }
        )
    else:
        for each in found.drifts:
            print(each)
        for what, why in sorted(found.unknown.items()):
            print(f"{what}: unknown: {why}")
        print(
            f"{_count(len(found.drifts), 'difference')} in {_count(found.resources, 'resource')} "
            f"of {_count(found.sidecars, 'sidecar')} and {_count(found.servers, 'server')}; "
            f"{len(found.unknown)} unknown"
        )
    if found.drifts:
        return Exit.FAILED
    return Exit.UNREACHABLE if found.unknown else Exit.OK


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Look:
    """One look at all regions: what was found, and what could not be."""

    def __init__(self, mesh: Path) -> None:
        self.drifts: list[Drift] = []
        self.unknown: dict[str, str] = {}
        self.sidecars = self.resources = self.servers = 0
        self.revisions: dict[str, str] = {}
        self._mesh = mesh
        self._known: dict[str, tuple[Compiled, Contract, FileDescriptorSet]] = {}
        self._unread: dict[str, str] = {}
        self._served: dict[tuple[str, str], Revision] = {}

    async def look(self, regions: tuple[str, ...], workloads: tuple[str, ...]) -> _Look:
        """Asks all regions, and once more for the texts of what differs."""
        from mesh.cli.inspecting import ask_all, ask_texts
        from mesh.contracts import load

        contract = load()
        services = {
            workload: [service.name for service in contract.served_by(workload)]
            for workload in workloads
        }
        found = await ask_all(self._mesh, regions, services)
        wanted: dict[str, list[pb.SidecarResource]] = {}
        for region, answer in found.items():
            if isinstance(answer, str):
                self.unknown[region] = answer
                continue
            self.revisions[region] = answer.answer.fleet.good
            asked = self._compare(region, answer, answer.answer, {})
            if asked:
                wanted[region] = asked
        if wanted:
            more = await ask_texts(self._mesh, wanted)
            self.drifts.clear()
            self.sidecars = self.resources = 0
            for region, answer in found.items():
                if not isinstance(answer, str):
                    again = more.get(region, answer.answer)
                    self._compare(region, answer, again, _texts(again))
        for region, answer in found.items():
            if not isinstance(answer, str):
                self._reflected(region, answer)
        return self

    def _compare(
        self,
        region: str,
        found: Region,
        answer: pb.InspectSidecarsResponse,
        texts: Mapping[tuple[str, str, str], str],
    ) -> list[pb.SidecarResource]:
        """Notes how a region's sidecars differ; returns whose texts would say more."""
        from isthmus.mesh.v1 import inspection_pb2 as pb
        from isthmus.mesh.v1 import revision_pb2

        from mesh.xds.drift import against_contract, against_envoy
        from mesh.xds.fleet import Instance

        asked = []
        running = {each.workload: each.running for each in answer.sidecars}
        for each in answer.fleet.sidecars:
            instance = Instance(region, each.name.workload)
            fleet = answer.fleet
            name = fleet.installed if each.from_files else each.revision or fleet.good
            known = self._revision(name, found.revisions)
            served = self._serves(instance, name, found.revisions)
            if known is None or served is None:
                self.unknown[str(instance)] = self._unread.get(
                    name, f"{region} does not say what revision {name} is"
                )
                continue
            self.drifts += against_contract(instance, known[0], served)
            runs = running.get(each.name.workload)
            if runs is None or runs.problem:
                self.unknown[str(instance)] = (
                    runs.problem if runs is not None else "its agent does not answer"
                )
                continue
            self.unknown.pop(str(instance), None)
            self.sidecars += 1
            self.resources += len(runs.resources)
            compared = against_envoy(
                instance,
                known[0],
                served,
                {(one.type_url, one.name): one.digest for one in runs.resources},
                {key[1:]: text for key, text in texts.items() if key[0] == instance.workload},
            )
            self.drifts += compared.drifts
            asked += [
                pb.SidecarResource(
                    workload=instance.workload,
                    resource=revision_pb2.ResourceName(type_url=key[0], name=key[1]),
                )
                for key in compared.texts
            ]
        return asked

    def _reflected(self, region: str, found: Region) -> None:
        from mesh.xds.fleet import Instance

        revisions = {
            each.name.workload: found.answer.fleet.installed if each.from_files else each.revision
            for each in found.answer.fleet.sidecars
        }
        for workload, server in found.servers.items():
            instance = Instance(region, workload)
            known = self._revision(
                revisions.get(workload) or found.answer.fleet.good, found.revisions
            )
            if isinstance(server, str):
                self.unknown[f"{instance} (server)"] = server
            elif known is None:
                self.unknown[f"{instance} (server)"] = "the revision that it should have is unknown"
            else:
                self.servers += 1
                self.drifts += _server(instance, server, known[1], known[2])

    def _revision(
        self, name: str, answers: Mapping[str, pb.GetRevisionResponse]
    ) -> tuple[Compiled, Contract, FileDescriptorSet] | None:
        """A revision compiled here, once for all regions; None if it is not what its name says."""
        from google.protobuf.descriptor_pb2 import FileDescriptorSet

        from mesh.contracts import ContractError
        from mesh.contracts.read import image, load
        from mesh.control.source import Source
        from mesh.topology import TopologyError
        from mesh.xds.drift import Compiled

        if name not in self._known and name in answers:
            source = Source(answers[name].contract, answers[name].topology)
            try:
                contract = load() if source.image == image() else source.contract()
                topology = source.topology()
            except (ContractError, TopologyError) as error:
                self._unread[name] = f"revision {name} cannot be read by this version: {error}"
                return None
            if source.name != name:
                self._unread[name] = f"revision {name} is kept as {source.name}: it was changed"
                return None
            files = FileDescriptorSet.FromString(source.image)
            self._known[name] = Compiled(contract, topology), contract, files
        return self._known.get(name)

    def _serves(
        self, instance: Instance, name: str, answers: Mapping[str, pb.GetRevisionResponse]
    ) -> dict[Key, Resource] | None:
        """What a region's control plane has for a sidecar under a revision."""
        from mesh.control.compiled import unpack
        from mesh.xds.resources import Library

        key = (instance.region, name)
        if key not in self._served:
            if name not in answers:
                return None
            self._served[key] = unpack(answers[name].compiled.SerializeToString(), Library())
        snapshot = self._served[key].snapshots.get(instance)
        if snapshot is None:
            return None
        return {
            (each.type_url, each.name): each
            for collection in snapshot.values()
            for each in collection.values()
        }


def _texts(answer: pb.InspectSidecarsResponse) -> dict[tuple[str, str, str], str]:
    """By workload, type and name."""
    return {
        (each.workload, one.type_url, one.name): one.text
        for each in answer.sidecars
        for one in each.running.resources
        if one.text
    }


def _server(
    instance: Instance, server: Served, contract: Contract, image: FileDescriptorSet
) -> Iterator[Drift]:
    """How a server differs from the contract."""
    from mesh.contracts.differences import ABSENT, Difference
    from mesh.contracts.exceptions import CALLS
    from mesh.contracts.reflected import compare
    from mesh.envoy.routes import DEFAULT_WORKLOAD
    from mesh.xds.drift import Between, limited

    should = {service.name for service in contract.served_by(instance.workload)}
    extra = server.services - should - {each.service for each in CALLS}
    if instance.workload == DEFAULT_WORKLOAD:
        extra -= set(contract.services)  # it lists what the whole edge carries
    between = Between.CONTRACT_SERVER
    for name in sorted(extra):
        yield from limited(instance, between, name, [Difference("", "the service", ABSENT)])
    by_subject: dict[str, list[Difference]] = {}
    for each in compare(image, server.files, should & server.services):
        by_subject.setdefault(each.subject, []).append(each.difference)
    for name in sorted(should - server.services):
        by_subject[name] = [Difference("", ABSENT, "the service")]
    for subject, found in by_subject.items():
        yield from limited(instance, between, subject, found)
