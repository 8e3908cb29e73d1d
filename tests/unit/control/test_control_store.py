"""What a control plane keeps, and what a new installation does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mesh import topology as topologies
from mesh.contracts.read import image, load
from mesh.control import Installation, Source, Store, StoreDamaged, compile_mesh
from mesh.control.compiled import pack, unpack
from mesh.control.store import Standing
from mesh.xds.resources import Library

MESH = Path(__file__).parents[3] / "mesh.yaml"
TOPOLOGY = topologies.load(MESH)


@pytest.fixture(scope="module")
def installation() -> Installation:
    return compile_mesh(image(), load(), TOPOLOGY)


def other(found: Installation, name: str) -> Installation:
    """Another installation, whose revision has this name."""
    source = Source(found.source.image, f"# {name}\n{found.source.topology_text}")
    source.__dict__["name"] = name
    return Installation(source, replace(found.revision, name=name))


def test_what_is_packed_is_what_was_compiled(installation: Installation) -> None:
    library = Library()
    packed = pack(installation.revision, "us")
    found = unpack(packed, library)
    assert found.name == installation.revision.name
    expected = {i: s for i, s in installation.revision.snapshots.items() if i.region == "us"}
    assert found.snapshots.keys() == expected.keys()
    for instance, snapshot in expected.items():
        assert found.snapshots[instance].version == snapshot.version
        for type_url, collection in snapshot.items():
            again = found.snapshots[instance][type_url]
            assert {(r.delta, r.whole, r.needs) for r in again.values()} == {
                (r.delta, r.whole, r.needs) for r in collection.values()
            }
    assert pack(found, "us") == packed


def test_a_revisions_name_is_what_it_is_made_of(installation: Installation) -> None:
    source = installation.source
    assert Source(source.image, f"# a remark\n{source.topology_text}").name == source.name
    moved = source.topology_text.replace("base_port: 21000", "base_port: 21500")
    assert Source(source.image, moved).name != source.name
    assert Source(source.image + b"\x0a\x00", source.topology_text).name != source.name
    assert source.topology() == replace(TOPOLOGY, path=source.topology().path)
    assert source.contract() == load()


def test_what_was_confirmed_stays_until_something_else_is_installed(
    installation: Installation, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    assert store.standing() is None
    installation.into(tmp_path, "eu")
    first = installation.revision.name
    assert store.standing() == Standing(first, first)

    deployed = other(installation, "deployed")
    store.save(deployed.source, pack(deployed.revision, "eu"))
    store.stand(Standing(first, "deployed"))
    installation.into(tmp_path, "eu")
    assert store.standing() == Standing(first, "deployed")
    assert store.compiled("deployed", Library()).name == "deployed"

    other(installation, "upgraded").into(tmp_path, "eu")
    assert store.standing() == Standing("upgraded", "upgraded")
    assert store.names() == {first, "deployed", "upgraded"}
    store.forget(frozenset({"upgraded"}))
    assert store.names() == {"upgraded"}
    assert store.source("upgraded").image == installation.source.image


def test_damage_is_told(installation: Installation, tmp_path: Path) -> None:
    installation.into(tmp_path, "eu")
    store, name = Store(tmp_path), installation.revision.name
    (tmp_path / "revisions" / name / "compiled.binpb").write_bytes(b"\xff\xff")
    with pytest.raises(StoreDamaged, match=r"compiled\.binpb cannot be read"):
        store.compiled(name, Library())
    with pytest.raises(StoreDamaged, match="revision nothing cannot be read"):
        store.source("nothing")
    (tmp_path / "standing.json").write_text("{")
    with pytest.raises(StoreDamaged, match=r"standing\.json cannot be read"):
        store.standing()
    # An installation makes all of it whole.
    installation.into(tmp_path, "eu")
    assert store.standing() == Standing(name, name)
    assert store.compiled(name, Library()).snapshots


def test_a_source_names_no_other_file(tmp_path: Path) -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key]}))
    section = "{issuer: https://login.example.org, audience: isthmus, keys: keys.json}"
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(f"{MESH.read_text()}edge:\n  jwt: {section}\n")
    topology = topologies.load(mesh)
    source = Source.of(b"", topology)
    (tmp_path / "keys.json").unlink()
    assert topology.access.jwt is not None
    found = source.topology().access.jwt
    assert found == topology.access.jwt
    # Another key is another revision.
    assert Source(b"", source.topology_text.replace("11qY", "22qY")).name != source.name


def test_a_topology_may_have_moments() -> None:
    drill = "{name: a, workload: channels, percent: 1, abort: UNAVAILABLE, until: %s}"
    text = f"{MESH.read_text()}traffic:\n  drills: [{drill}]\n"
    one, same, other = (
        Source(b"", text % f"2026-01-31T12:00:00{zone}") for zone in ("Z", "+00:00", "+01:00")
    )
    assert one.name == same.name != other.name
