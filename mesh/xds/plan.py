"""What deploying a contract would change: by method, by sidecar, and in Envoy's own terms. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.contracts.changes import Change, changes, with_only
from mesh.contracts.model import Contract
from mesh.envoy.discovery import discovered
from mesh.envoy.text import text
from mesh.topology import Topology
from mesh.traffic import changes as settings
from mesh.xds.compiler import Compiler
from mesh.xds.fleet import Instance, Revision


@dataclass(frozen=True)
class Planned:
    """A change of the contract, and the sidecars and edges that it changes by itself."""

    change: Change
    sidecars: tuple[Instance, ...]


@dataclass(frozen=True)
class Plan:
    """What would change; `sidecars` of all `of` would get something else.

    `by_topology` are those that the topology alone would change; `traffic` is what operators set in
    it.
    """

    changes: tuple[Planned, ...]
    by_topology: tuple[Instance, ...]
    sidecars: tuple[Instance, ...]
    of: int
    traffic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployable:
    """What a deploy brings."""

    contract: Contract
    topology: Topology


def plan(old: Deployable, new: Deployable) -> Plan:
    """The plan from one to the other. Raises `EnvoyConfigError`."""
    compiler = Compiler()
    before = compiler.revision("before", old.contract, old.topology)
    alone: dict[str, tuple[Instance, ...]] = {}
    found = changes(old.contract, new.contract)
    for subject in {change.subject for change in found}:
        part = with_only(old.contract, new.contract, subject)
        alone[subject] = _differ(before, compiler.revision(subject, part, old.topology))
    moved = compiler.revision("moved", old.contract, new.topology)
    after = compiler.revision("after", new.contract, new.topology)
    return Plan(
        tuple(Planned(change, alone[change.subject]) for change in found),
        _differ(before, moved),
        _differ(before, after),
        len(before.snapshots.keys() | after.snapshots.keys()),
        tuple(settings(old.topology.traffic, new.topology.traffic)),
    )


def envoy_diff(old: Deployable, new: Deployable, instance: Instance) -> Iterator[str]:
    """What would change in one sidecar, as a unified diff of its resources, line by line."""
    before, after = _texts(old, instance), _texts(new, instance)
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, ""), after.get(name, "")
        where = f"{instance}/{name}"
        yield from difflib.unified_diff(
            was.splitlines(),
            now.splitlines(),
            f"a/{where}" if was else "/dev/null",
            f"b/{where}" if now else "/dev/null",
            lineterm="",
        )


def _differ(before: Revision, after: Revision) -> tuple[Instance, ...]:
    everyone = before.snapshots.keys() | after.snapshots.keys()
    return tuple(
        instance
        for instance in sorted(everyone)
        if _version(before, instance) != _version(after, instance)
    )


def _version(revision: Revision, instance: Instance) -> str | None:
    snapshot = revision.snapshots.get(instance)
    return None if snapshot is None else snapshot.version


def _texts(what: Deployable, instance: Instance) -> dict[str, str]:
    topology = what.topology
    if not topology.has(instance.region, instance.workload):
        return {}
    found = discovered(what.contract, topology, instance.region, instance.workload)
    return {f"{each.type_url.rpartition('.')[2]}/{each.name}": text(each.message) for each in found}
