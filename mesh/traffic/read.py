"""Reads the `traffic` section of `mesh.yaml`, each error with its line.

What only the contract can tell (methods, who owns a group) is checked by `mesh.envoy.traffic`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import yaml

from mesh.place import EDGE
from mesh.traffic.model import Bounds, Drill, Mirror, Traffic, Version

STATUSES = (
    *("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
"""gRPC's, by number from 1."""

PLATFORM = ("authority", "control")
"""Workloads of the mesh itself: nothing is split, mirrored or disturbed on the way to them."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_METHOD = re.compile(r"[A-Za-z_][\w.]*/\w+")
_LONGEST_DELAY = 60.0
_MOST = 1 << 20
_RANGES: dict[str, tuple[float, float, type[int] | type[float]]] = {
    "connections": (1, _MOST, int),
    "pending": (1, _MOST, int),
    "requests": (1, _MOST, int),
    "retry_percent": (0, 100, float),
    "retries": (0, _MOST, int),
    "failures": (1, 1000, int),
    "ejected_for": (0.1, 300, float),
}
"""What each of a workload's bounds may be."""

T = TypeVar("T")


class TrafficError(Exception):
    """What is wrong in a line of `mesh.yaml`, and what to write instead."""

    def __init__(self, line: int, where: str, remedy: str) -> None:
        super().__init__(f"{line}: {where}: {remedy}")
        self.line, self.where, self.remedy = line, where, remedy


def read(text: str, regions: Collection[str], workloads: Collection[str]) -> Traffic:
    """The settings in the text of a `mesh.yaml` that is valid YAML. Raises `TrafficError`."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    section = _entries(_Value(document, "the file")).get("traffic")
    if section is None or section.is_null:
        return Traffic()
    return _Reader(regions, workloads).traffic(section)


@dataclass(frozen=True)
class _Value:
    """A part of the document, and how it is called."""

    node: Any
    where: str

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    @property
    def is_null(self) -> bool:
        return bool(self.node.tag == "tag:yaml.org,2002:null")

    def error(self, remedy: str) -> TrafficError:
        return TrafficError(self.line, self.where, remedy)

    def text(self, remedy: str = "write a string") -> str:
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value:
            raise self.error(remedy)
        return str(self.node.value)

    def one_of(self, known: Collection[str]) -> str:
        found = self.text()
        if found not in known:
            raise self.error(f"{found!r} is none of {', '.join(known) or 'those that exist'}")
        return found

    def number(self, least: float, most: float, kind: type[int] | type[float] = float) -> Any:
        wanted = "a whole number" if kind is int else "a number"
        remedy = f"write {wanted} from {least:g} to {most:g}"
        try:
            found = kind(self.text(remedy))
        except ValueError:
            raise self.error(remedy) from None
        if not (math.isfinite(found) and least <= found <= most):
            raise self.error(remedy)
        return found

    def flag(self) -> bool:
        found = self.text().lower()
        if found not in ("true", "false"):
            raise self.error("write true or false")
        return found == "true"

    def items(self) -> Iterator[_Value]:
        if self.is_null:
            return
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("write a list")
        for index, item in enumerate(self.node.value):
            yield _Value(item, f"{self.where}[{index}]")


def _entries(value: _Value) -> dict[str, _Value]:
    if not isinstance(value.node, yaml.MappingNode):
        raise value.error("write a mapping of names to values")
    found: dict[str, _Value] = {}
    for key, item in value.node.value:
        named = _Value(key, value.where)
        name = named.text("write names as text")
        if name in found:
            raise named.error(f"{name!r} is there twice")
        prefix = "" if value.where == "the file" else f"{value.where}."
        found[name] = _Value(item, f"{prefix}{name}")
    return found


def _items(value: _Value | None) -> Iterator[_Value]:
    return iter(()) if value is None else value.items()


class _Reader:
    def __init__(self, regions: Collection[str], workloads: Collection[str]) -> None:
        self._regions = regions
        self._workloads = list(workloads)

    def traffic(self, section: _Value) -> Traffic:
        found = self._known(section, {"bounds", "versions", "mirrors", "drills"}, set())
        versions: list[Version] = []
        for item in _items(found.get("versions")):
            versions.append(self._version(item, versions))
        drills: list[Drill] = []
        for item in _items(found.get("drills")):
            drills.append(self._drill(item, drills))
        bounds = found.get("bounds")
        return Traffic(
            () if bounds is None or bounds.is_null else tuple(self._bounds(bounds)),
            tuple(versions),
            tuple(self._mirror(item, versions) for item in _items(found.get("mirrors"))),
            tuple(drills),
        )

    def _bounds(self, section: _Value) -> Iterator[tuple[str, Bounds]]:
        for workload, value in _entries(section).items():
            if workload not in self._workloads:
                raise value.error(f"{workload!r} is none of `workloads`")
            given = {
                name: item.number(*_RANGES[name])
                for name, item in self._known(value, set(_RANGES), set()).items()
            }
            yield workload, Bounds(**given)

    def _version(self, item: _Value, others: list[Version]) -> Version:
        needed = {"workload", "version", "region", "address", "weight"}
        found = self._known(item, needed | {"command"}, needed)
        workload = self._workload(found["workload"])
        name = self._name(found["version"])
        region = found["region"].one_of(self._regions)
        weight = found["weight"].number(0, 100, int)
        host, colon, port = found["address"].text("write host:port").rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise found["address"].error("write host:port")
        beside = [v for v in others if (v.workload, v.region) == (workload, region)]
        if any(v.name == name for v in beside):
            raise found["version"].error(f"{name!r} of {workload} is in {region} twice")
        if any((v.host, v.port) == (host, int(port)) for v in others):
            raise found["address"].error("another version is there: each has an address of its own")
        if sum(v.weight for v in beside) + weight > 100:
            raise found["weight"].error(
                f"the weights of {workload}'s versions in {region} are more than 100 percent: what "
                "is left of 100 goes to the workload itself"
            )
        command = self._list(found.get("command"), _Value.text)
        return Version(workload, name, region, host, int(port), weight, command, item.line)

    def _mirror(self, item: _Value, versions: list[Version]) -> Mirror:
        known = {"method", "percent", "version", "region", "effects"}
        found = self._known(item, known, {"method", "percent"})
        if ("version" in found) == ("region" in found):
            raise item.error("say to which `version`, or to which `region`, and not both")
        return Mirror(
            self._method(found["method"]),
            found["percent"].number(0, 100),
            found["version"].one_of(sorted({v.name for v in versions}))
            if "version" in found
            else "",
            found["region"].one_of(self._regions) if "region" in found else "",
            "effects" in found and found["effects"].flag(),
            item.line,
        )

    def _drill(self, item: _Value, others: list[Drill]) -> Drill:
        optional = {"delay", "abort", "methods", "regions", "callers"}
        needed = {"name", "workload", "percent", "until"}
        found = self._known(item, optional | needed, needed)
        if not found.keys() & {"delay", "abort"}:
            raise item.error("say what happens: `delay` (seconds), `abort` (a status), or both")
        if {"regions", "callers"} <= found.keys():
            raise found["regions"].error(
                "`regions` are those of the workload's own sidecars, `callers` puts the fault into "
                "theirs: leave one out"
            )
        name = self._name(found["name"])
        if any(other.name == name for other in others):
            raise found["name"].error(f"{name!r} is there twice")
        return Drill(
            name,
            self._workload(found["workload"]),
            self._moment(found["until"]),
            found["percent"].number(0, 100),
            found["delay"].number(0.001, _LONGEST_DELAY) if "delay" in found else 0.0,
            found["abort"].one_of(STATUSES) if "abort" in found else "",
            self._list(found.get("methods"), self._method),
            self._list(found.get("regions"), lambda value: value.one_of(self._regions)),
            self._list(found.get("callers"), lambda value: value.one_of([*self._workloads, EDGE])),
            item.line,
        )

    def _workload(self, value: _Value) -> str:
        found = value.one_of(self._workloads)
        if found in PLATFORM:
            raise value.error(f"{found} belongs to the mesh: what ends this would go through it")
        return found

    @staticmethod
    def _moment(value: _Value) -> datetime:
        remedy = "write when it ends, with its time zone, such as 2026-01-31T12:00:00Z"
        try:
            found = datetime.fromisoformat(value.text(remedy))
        except ValueError:
            raise value.error(remedy) from None
        if found.tzinfo is None:
            raise value.error(remedy)
        return found

    @staticmethod
    def _name(value: _Value) -> str:
        found = value.text()
        if not _NAME.fullmatch(found):
            raise value.error(f"{found!r}: use lower-case letters, digits and dashes")
        return found

    @staticmethod
    def _method(value: _Value) -> str:
        found = value.text()
        if not _METHOD.fullmatch(found):
            raise value.error("write a method in full, such as package.v1.Service/Method")
        return found

    @staticmethod
    def _list(value: _Value | None, item: Callable[[_Value], T]) -> tuple[T, ...]:
        if value is None:
            return ()
        found = tuple(item(each) for each in value.items())
        if not found:
            raise value.error("name at least one, or leave it out")
        return found

    @staticmethod
    def _known(value: _Value, known: set[str], needed: set[str]) -> dict[str, _Value]:
        found = _entries(value)
        for name, item in found.items():
            if name not in known:
                raise TrafficError(
                    item.line,
                    value.where,
                    f"unknown key {name!r}; it has {', '.join(sorted(known))}",
                )
        for name in sorted(needed - found.keys()):
            raise value.error(f"{name!r} is missing; it has {', '.join(sorted(known))}")
        return found
