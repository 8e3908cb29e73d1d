"""A copy of a mesh with ports and state of its own, to run beside the original."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mesh.access import Access
from mesh.topology import PORTS_PER_REGION, Topology, load
from mesh.traffic import Drill, Mirror


def derive(topology: Topology, folder: Path, bases: Sequence[int], *, otlp: str = "") -> Topology:
    """Writes `folder/mesh.yaml`: one block of ports for each region, and one for the origin.

    Raises ValueError unless there is one base more than regions. Telemetry goes to `otlp` alone.
    """
    if len(bases) != len(topology.regions) + 1:
        raise ValueError(f"{len(topology.regions) + 1} blocks of ports are needed")
    document = {
        "version": 1,
        "trust_domain": topology.trust_domain,
        "regions": [
            {"name": region.name, "host": "127.0.0.1", "base_port": base}
            for region, base in zip(topology.regions, bases, strict=False)
        ],
        "workloads": list(topology.workloads),
        "devices": [
            {"id": device.device_id, "region": device.region, "capacity": device.capacity}
            for device in topology.devices
        ],
        "media": {"root": str(topology.media_root), "origin": f"127.0.0.1:{bases[-1]}"},
        "members": {
            "home": topology.members.home or topology.regions[0].name,
            "silent_after": topology.members.silent_after,
            "held_bytes": topology.members.held_bytes,
        },
        "edge": _edge(topology.access),
        "traffic": _traffic(topology, bases),
        "revoked": sorted(topology.revoked),
        **({"telemetry": {"otlp": otlp}} if otlp else {}),
    }
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load(path)


def _edge(access: Access) -> dict[str, Any]:
    section: dict[str, Any] = {"origins": list(access.origins)}
    if access.jwt is not None:
        section["jwt"] = {
            "issuer": access.jwt.issuer,
            "audience": access.jwt.audience,
            "keys": json.loads(access.jwt.keys),
        }
        if (role := access.jwt.operators) is not None:
            section["jwt"]["operators"] = {"claim": list(role.path), "values": list(role.values)}
    return section


def _traffic(topology: Topology, bases: Sequence[int]) -> dict[str, Any]:
    traffic = topology.traffic
    moved = dict(zip(topology.region_names, bases, strict=False))

    def listed(each: Mirror | Drill) -> dict[str, Any]:
        found = {name: value for name, value in asdict(each).items() if value and name != "line"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
        }

    versions = []
    for each in traffic.versions:
        offset = each.port - topology.region(each.region).base_port
        versions.append(
            {
                "workload": each.workload,
                "version": each.name,
                "region": each.region,
                "address": f"127.0.0.1:{moved[each.region] + offset % PORTS_PER_REGION}",
                "weight": each.weight,
                **({"command": list(each.command)} if each.command else {}),
            }
        )
    drills = [listed(each) | {"percent": each.percent} for each in traffic.drills]
    return {
        "bounds": {name: asdict(each) for name, each in traffic.bounds},
        "versions": versions,
        "mirrors": [listed(each) | {"percent": each.percent} for each in traffic.mirrors],
        "drills": [{**each, "until": each["until"].isoformat()} for each in drills],
    }
