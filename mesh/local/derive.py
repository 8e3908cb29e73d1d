"""A copy of a mesh with ports and state of its own, to run beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from mesh.topology import Topology, load


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
        **({"telemetry": {"otlp": otlp}} if otlp else {}),
    }
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load(path)
