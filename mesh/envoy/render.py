"""All configurations of a mesh as files, to read and to diff."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mesh.contracts.model import Contract
from mesh.envoy.binary import validate
from mesh.envoy.bootstrap import compile_for
from mesh.envoy.credentials import write_credentials
from mesh.envoy.parts import folder
from mesh.identity import authority, keys
from mesh.identity import folder as identity_folder
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place
from mesh.topology import Topology

# Certificates to validate with need some time; any will do, and nothing rendered depends on it.
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def render(
    contract: Contract, topology: Topology, place: Callable[[str, str], Place], out: Path
) -> list[Path]:
    """Writes `<out>/<region>/<instance>/` for each sidecar and each edge; returns those folders.

    `place(region, instance)` says where that instance lives. Each configuration has passed Envoy's
    own validation, in folders of its own: nothing of the mesh needs to exist. The same inputs give
    the same bytes. Raises `EnvoyConfigError`.
    """
    written = []
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        for region in topology.region_names:
            for instance in topology.instances(region):
                where = place(region, instance)
                accepted(contract, topology, where, Path(scratch) / region / instance)
                into = out / region / instance
                compile_for(contract, topology, where).write(into)
                written.append(into)
    return written


def accepted(contract: Contract, topology: Topology, place: Place, scratch: Path) -> None:
    """Has one configuration validated by the real Envoy. Raises `EnvoyConfigError`.

    Envoy opens the files that a configuration names, so it gets a place with some: `scratch`, which
    is made.
    """
    stand_in = replace(place, run=scratch, state=scratch)
    identity = WorkloadId(topology.trust_domain, place.region, place.workload)
    root = authority.make_root(topology.trust_domain, _SOME_TIME)
    key = keys.make_key()
    leaf = authority.sign(root, keys.signing_request(key), identity, _SOME_TIME)
    identity_folder.write(stand_in.identity, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)
    write_credentials(stand_in)
    stand_in.logs.mkdir()
    validate(compile_for(contract, topology, stand_in).write(folder(stand_in)))
