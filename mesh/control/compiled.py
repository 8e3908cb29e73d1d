"""A compiled revision as bytes, and back. Pure.

Reading takes nothing of what compiling does: resources stay as they were encoded.
"""

from __future__ import annotations

from isthmus.mesh.v1 import revision_pb2 as pb

from mesh.xds.fleet import Instance, Revision
from mesh.xds.resources import Library, Resource


def pack(revision: Revision, region: str) -> bytes:
    """What the sidecars of one region get under a revision."""
    packed = pb.CompiledRevision(name=revision.name)
    places: dict[Resource, int] = {}
    for instance, snapshot in sorted(revision.snapshots.items()):
        if instance.region != region:
            continue
        sidecar = packed.sidecars.add(region=instance.region, workload=instance.workload)
        for collection in snapshot.values():
            for each in collection.values():
                if each not in places:
                    places[each] = len(places)
                    _add(packed, each)
                sidecar.resources.append(places[each])
    return packed.SerializeToString(deterministic=True)


def unpack(data: bytes, library: Library) -> Revision:
    """The revision; what is in the library already is the same object.

    Raises `google.protobuf.message.DecodeError` or IndexError for bytes that are none.
    """
    packed = pb.CompiledRevision.FromString(data)
    resources = [
        library.resource(
            each.resource.type_url,
            each.name,
            each.resource.value,
            [(need.type_url, need.name) for need in each.needs],
        )
        for each in packed.resources
    ]
    return Revision(
        packed.name,
        {
            Instance(each.region, each.workload): library.snapshot(
                resources[place] for place in each.resources
            )
            for each in packed.sidecars
        },
    )


def _add(packed: pb.CompiledRevision, resource: Resource) -> None:
    added = packed.resources.add(name=resource.name)
    added.resource.type_url = resource.type_url
    added.resource.value = resource.message
    for type_url, name in sorted(resource.needs):
        added.needs.add(type_url=type_url, name=name)
