"""Writes the configuration of every sidecar and edge of a mesh, to read and to diff."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mesh import envoy
from mesh.contracts.model import Contract
from mesh.local.layout import Layout
from mesh.place import EDGE, Place
from mesh.topology import Topology


def render_all(contract: Contract, topology: Topology, out: Path) -> list[Path]:
    """Writes `out/<region>/<workload>/`, the same bytes for the same inputs; returns the files.

    Each configuration is exactly what `isthmus up` runs here. Envoy judges a copy of it in a
    folder of its own, as the judgement needs the named files to exist. Raises `EnvoyConfigError`.
    """
    layout = Layout.of(topology)
    places = [
        layout.place(region, workload)
        for region in topology.region_names
        for workload in (*topology.workloads, EDGE)
    ]
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch, ThreadPoolExecutor(2) as pool:
        copies = [_copy(contract, topology, place, Path(scratch)) for place in places]
        list(pool.map(envoy.validate, copies))
    written: list[Path] = []
    for place in places:
        configuration = envoy.compile_for(contract, topology, place)
        folder = out / place.region / place.workload
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in sorted(configuration.files.items()):
            (folder / name).write_text(content)
            written.append(folder / name)
    return written


def _copy(contract: Contract, topology: Topology, place: Place, scratch: Path) -> Path:
    home = scratch / place.region / place.workload
    there = replace(place, state=home, run=home)
    there.identity.mkdir(parents=True)
    configuration = envoy.compile_for(contract, topology, there)
    return configuration.write(envoy.folder(there))
