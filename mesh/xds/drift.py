"""Contract x compiled x what Envoys run: where these differ, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mesh.contracts.differences import ABSENT, Difference, differences
from mesh.contracts.model import Contract
from mesh.envoy.bootstrap import BOOTSTRAP as BOOTSTRAP_FILE
from mesh.envoy.bootstrap import compile_discovering, control_plane_of
from mesh.envoy.discovery import Discovered, standing
from mesh.envoy.running import BOOTSTRAP, Running, compiled, served, started_from
from mesh.topology import Topology
from mesh.xds.compiler import Compiler
from mesh.xds.fleet import Instance
from mesh.xds.kinds import short
from mesh.xds.resources import Resource, Snapshot

MOST = 8
"""Differences of one resource that are told; the others are counted."""

Key = tuple[str, str]
"""A resource's type and name."""


_STARTED_FROM = (BOOTSTRAP, BOOTSTRAP_FILE)


class Between(Enum):
    """Which two differ."""

    CONTRACT_COMPILED = "what the control plane serves, and what the contract compiles to"
    COMPILED_ENVOY = "what Envoy runs, and what the control plane serves"
    CONTRACT_SERVER = "what the server reflects, and the contract"


@dataclass(frozen=True)
class Drift:
    """A difference: where, of what, what is there and what should be."""

    region: str
    workload: str
    between: Between
    subject: str
    path: str
    there: str
    should: str

    def __str__(self) -> str:
        at = f", {self.path}" if self.path else ""
        return (
            f"{self.region}/{self.workload}: {self.subject}{at}: "
            f"{_WORDS[self.between]} {self.there}, should have {self.should}"
        )


_WORDS = {
    Between.CONTRACT_COMPILED: "the control plane serves",
    Between.COMPILED_ENVOY: "Envoy runs",
    Between.CONTRACT_SERVER: "the server has",
}


class Compiled:
    """What one revision compiles to, in the form that Envoys' words are compared with."""

    def __init__(self, contract: Contract, topology: Topology) -> None:
        self._contract = contract
        self._topology = topology
        self._compiler = _Keeping()
        self._started: dict[Instance, Running] = {}

    def snapshot(self, instance: Instance) -> Snapshot | None:
        """What it says that a sidecar should have; None if there is no such sidecar in it."""
        if not self._topology.has(instance.region, instance.workload):
            return None
        return self._compiler.snapshot(
            self._contract, self._topology, instance.region, instance.workload
        )

    def started_from(self, instance: Instance) -> Running:
        """What the Envoy of a sidecar that discovers its configuration is started from."""
        found = self._started.get(instance)
        if found is None:
            topology = self._topology
            control = control_plane_of(topology, instance.region)
            place = standing(topology, instance.region, instance.workload)
            found = started_from(compile_discovering(place, control).bootstrap)
            self._started[instance] = found
        return found

    def form(self, resource: Resource) -> Running:
        """A resource that is served, whether or not this contract compiles to it."""
        made = self._compiler.made.get((resource.type_url, resource.name, resource.version))
        if made is None:
            made = served(resource.type_url, resource.name, resource.message)
            self._compiler.made[resource.type_url, resource.name, resource.version] = made
        return made


class _Keeping(Compiler):
    """Keeps what it makes as JSON: to read the bytes again takes ten times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[tuple[str, str, str], Running] = {}

    def encoded(self, each: Discovered) -> Resource:
        resource = super().encoded(each)
        key = (resource.type_url, resource.name, resource.version)
        self.made[key] = compiled(each.name, each.message)
        return resource


@dataclass(frozen=True)
class Comparison:
    """One sidecar: what drifted, and which resources' texts it takes to say more."""

    drifts: tuple[Drift, ...] = ()
    texts: tuple[Key, ...] = ()


def against_contract(
    instance: Instance, known: Compiled, serves: Mapping[Key, Resource]
) -> Iterator[Drift]:
    """How what the control plane serves to a sidecar differs from what the contract compiles to."""
    snapshot = known.snapshot(instance)
    if snapshot is None:
        return
    should = {(each.type_url, each.name): each for c in snapshot.values() for each in c.values()}
    for key in sorted({*should, *serves}):
        mine, theirs = serves.get(key), should.get(key)
        if mine is not None and theirs is not None and mine.version == theirs.version:
            continue
        yield from _said(
            instance,
            Between.CONTRACT_COMPILED,
            key,
            None if mine is None else known.form(mine).value,
            None if theirs is None else known.form(theirs).value,
        )


def against_envoy(
    instance: Instance,
    known: Compiled,
    serves: Mapping[Key, Resource],
    runs: Mapping[Key, bytes],
    texts: Mapping[Key, str],
) -> Comparison:
    """How what Envoy runs, by its digests, differs from what the control plane serves to it.

    What it was started from counts too, if it discovers the rest.

    Of what differs and has a text it says where; the others are asked for.
    """
    found: list[Drift] = []
    asked: list[Key] = []
    for key in sorted({*serves, *runs}):
        if key in serves:
            should: Running | None = known.form(serves[key])
        else:
            should = known.started_from(instance) if key == _STARTED_FROM else None
        if should is not None and runs.get(key) == should.digest:
            continue
        if key in runs and key not in texts:
            asked.append(key)
        there = json.loads(texts[key]) if key in texts else _UNSEEN
        found += _said(
            instance,
            Between.COMPILED_ENVOY,
            key,
            there if key in runs else None,
            None if should is None else should.value,
        )
    return Comparison(tuple(found), tuple(asked))


def _said(
    instance: Instance, between: Between, key: Key, there: Any, should: Any
) -> Iterator[Drift]:
    """The differences of one resource; None is that it is not there."""
    subject = f"{short(key[0])} {key[1]}"
    if there is None or should is None or there is _UNSEEN:
        whole = "one of its own" if there is _UNSEEN else "it"
        found: Iterable[Difference] = [
            Difference(
                "",
                ABSENT if there is None else _value(there, whole),
                ABSENT if should is None else "it" if there is None else "what was compiled",
            )
        ]
    else:
        found = differences(there, should)
    yield from limited(instance, between, subject, list(found))


def limited(
    instance: Instance, between: Between, subject: str, found: Collection[Difference]
) -> Iterator[Drift]:
    """Differences of one thing as drifts; the most that are told, and how many there are."""
    for at, each in enumerate(found):
        if at == MOST:
            yield Drift(
                instance.region,
                instance.workload,
                between,
                subject,
                "",
                f"{len(found) - MOST} more differences",
                "none",
            )
            return
        yield Drift(
            instance.region,
            instance.workload,
            between,
            subject,
            each.path,
            each.there,
            each.should,
        )


def _value(there: Any, whole: str) -> str:
    """A runtime value is told; a resource is too long."""
    return json.dumps(there) if isinstance(there, (str, int, float)) else whole


_UNSEEN = object()
