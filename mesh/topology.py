"""The topology: regions, workloads and the addresses between them, read from `mesh.yaml`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mesh.access import Access, AccessError, read_access
from mesh.place import EDGE, Place
from mesh.traffic import Traffic, TrafficError
from mesh.traffic import read as read_traffic

PORTS_PER_REGION = 100
_WAN_OFFSET = 20
_WAN_STRIDE = 10
_KINDS = ("device", "operator")
"""No region's name: `x.device.<trust domain>` is what certificates call device x."""
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


class TopologyError(Exception):
    """`mesh.yaml` cannot be used; the message says where and what to write instead."""


_IDENTITY = re.compile(
    r"spiffe://(?P<domain>[a-z0-9.-]+)/"
    r"(?:region/(?P<region>[a-z0-9-]+)/workload/[a-z0-9-]+|(?:operator|device)/[a-z0-9-]+)"
)


@dataclass(frozen=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class DeviceSpec:
    """A device that `isthmus up` runs."""

    device_id: str
    region: str
    capacity: int


@dataclass(frozen=True)
class Region:
    """A region: one host and a block of `PORTS_PER_REGION` ports from `base_port`.

    +0 the edge, +1 enrolment, +10 + i the inbound listener of workload i, and
    +20 + 10 p + i the way to listener i of peer p.
    """

    name: str
    host: str
    base_port: int


@dataclass(frozen=True)
class MemberSpec:
    """How the members of each replication group are decided upon, and when one is marked.

    `home` is the region that decides at first; empty for the first by name. One that was silent for
    `silent_after` seconds, or for which more than `held_bytes` of journal are kept, is marked for
    eviction.
    """

    home: str = ""
    silent_after: int = 24 * 3600
    held_bytes: int = 4 << 30


@dataclass(frozen=True)
class Topology:
    """Regions in the order of preference, and what runs in each."""

    path: Path
    trust_domain: str
    regions: tuple[Region, ...]
    workloads: tuple[str, ...]
    devices: tuple[DeviceSpec, ...]
    media_root: Path
    origin: Address
    otlp: str | None
    members: MemberSpec = MemberSpec()  # frozen
    access: Access = Access()  # noqa: RUF009 - frozen
    traffic: Traffic = Traffic()  # noqa: RUF009 - frozen
    revoked: frozenset[str] = frozenset()
    """SPIFFE IDs that are let in nowhere, and get no certificate any more."""

    def region(self, name: str) -> Region:
        """The region of that name. Raises `TopologyError` naming those that exist."""
        for region in self.regions:
            if region.name == name:
                return region
        known = ", ".join(region.name for region in self.regions)
        raise TopologyError(f"no region {name!r} in {self.path}: it has {known}")

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions' names, in order."""
        return tuple(region.name for region in self.regions)

    def instances(self, region: str) -> tuple[str, ...]:
        """What has a sidecar of its own there: workloads, the edge, other versions of workloads."""
        versions = (v.instance for v in self.traffic.versions if v.region == region)
        return (*self.workloads, EDGE, *versions)

    def has(self, region: str, instance: str) -> bool:
        """Whether there is such a sidecar."""
        return region in self.region_names and instance in self.instances(region)

    def failover_order(self, home: str) -> tuple[str, ...]:
        """`home`, then the others in the order of the file, beginning after `home`."""
        names = self.region_names
        at = names.index(self.region(home).name)
        return names[at:] + names[:at]

    def edge(self, region: str) -> Address:
        """Where operators, browsers and devices reach a region."""
        found = self.region(region)
        return Address(found.host, found.base_port)

    def enrolment(self, region: str) -> Address:
        """Where join tokens are traded for certificates."""
        found = self.region(region)
        return Address(found.host, found.base_port + 1)

    def inbound(self, region: str, workload: str) -> Address:
        """The mTLS listener of a workload's sidecar (or the edge's), as bound in its region."""
        if workload == EDGE:
            return self.edge(region)
        found = self.region(region)
        return Address(found.host, found.base_port + 10 + self.workloads.index(workload))

    def listening(self, place: Place) -> Address:
        """Where the sidecar of that instance listens: that of a version has a place of its own."""
        if not place.version:
            return self.inbound(place.region, place.workload)
        found = self.traffic.version(place.workload, place.region, place.version)
        if found is None:
            raise TopologyError(
                f"no version {place.version!r} of {place.workload} in {place.region}: add it to "
                f"`traffic.versions` in {self.path}"
            )
        return Address(found.host, found.port)

    def route(self, source: str, target: str, workload: str) -> Address:
        """Where instances in region `source` dial a workload (or the edge) of region `target`.

        Between regions that is an address of `source`'s own, which the WAN carries to `target`.
        """
        if source == target:
            return self.inbound(target, workload)
        found = self.region(source)
        peer = self.region_names.index(target)
        listener = 0 if workload == EDGE else 1 + self.workloads.index(workload)
        return Address(found.host, found.base_port + _WAN_OFFSET + _WAN_STRIDE * peer + listener)


def load(path: Path) -> Topology:
    """Reads a topology. Raises `TopologyError` with file, line where known, and the remedy."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise TopologyError(
            f"{path} does not exist: run this where your mesh.yaml is, or name it with --mesh"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path} cannot be read: {error}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Topology:
    """The topology that the text of `path` describes. Raises `TopologyError` as `load` does."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TopologyError(_not_yaml(path, text, error)) from None
    return _Reader(path).topology(document, text)


def whole(topology: Topology) -> str:
    """The text of its file with what that only names: parsed anywhere, it is the same topology.

    Files of keys stand in it as they were when the topology was read.
    """
    text = topology.path.read_text(encoding="utf-8")
    if topology.access.jwt is None:
        return text
    document = yaml.safe_load(text)
    document["edge"]["jwt"]["keys"] = json.loads(topology.access.jwt.keys)
    return yaml.safe_dump(document, sort_keys=False)


def _not_yaml(path: Path, text: str, error: yaml.YAMLError) -> str:
    """``mesh.yaml:2:11: not valid YAML: mapping values are not allowed here``."""
    where, problem = str(path), str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            where += f":{mark.line + 1}:{mark.column + 1}"
        problem = error.problem or problem
        # Where something was left open is what its author looks for, not where the file ends.
        began = error.context_mark
        if began is not None and mark is not None and began.line != mark.line:
            problem += (
                f". It belongs to what begins at line {began.line + 1}, column {began.column + 1}: "
                "is a quote or bracket left open, or the indentation uneven?"
            )
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].split("\n")
        where += f":{len(before)}:{len(before[-1]) + 1}"
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
    return f"{where}: not valid YAML: {problem}"


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def topology(self, document: Any, text: str) -> Topology:
        top = self._mapping(document, "the file")
        self._known(
            top,
            "the file",
            {
                "version",
                "trust_domain",
                "regions",
                "workloads",
                "devices",
                "media",
                "telemetry",
                "members",
                "edge",
                "traffic",
                "revoked",
            },
        )
        if top.get("version") != 1:
            raise self._error("version", "write `version: 1`")
        regions = tuple(self._regions(top.get("regions")))
        names = {region.name for region in regions}
        media = self._mapping(top.get("media", {}), "media")
        self._known(media, "media", {"root", "origin"})
        telemetry = self._mapping(top.get("telemetry") or {}, "telemetry")
        self._known(telemetry, "telemetry", {"otlp"})
        otlp = telemetry.get("otlp")
        workloads = tuple(self._names(top.get("workloads"), "workloads", most=9))
        trust_domain = self._text(top.get("trust_domain"), "trust_domain")
        return Topology(
            path=self._path.resolve(),
            trust_domain=trust_domain,
            regions=regions,
            workloads=workloads,
            devices=tuple(self._devices(top.get("devices") or [], names)),
            media_root=(self._path.parent / self._text(media.get("root"), "media.root")).resolve(),
            origin=self._address(media.get("origin"), "media.origin"),
            otlp=None if otlp is None else str(self._address(otlp, "telemetry.otlp")),
            members=self._members(top.get("members") or {}, [region.name for region in regions]),
            access=self._access({} if top.get("edge") is None else top["edge"]),
            traffic=self._traffic(text, regions, workloads),
            revoked=self._revoked(top.get("revoked") or [], trust_domain, names),
        )

    def _regions(self, value: Any) -> list[Region]:
        if not isinstance(value, list) or not 1 <= len(value) <= 8:
            raise self._error("regions", "write a list of 1 to 8 regions")
        regions: list[Region] = []
        for index, item in enumerate(value):
            where = f"regions[{index}]"
            entry = self._mapping(item, where)
            self._known(entry, where, {"name", "host", "base_port"})
            name = self._name(entry.get("name"), f"{where}.name")
            port = entry.get("base_port")
            if not isinstance(port, int) or not 1024 <= port <= 65535 - PORTS_PER_REGION:
                raise self._error(
                    f"{where}.base_port", f"write a number from 1024 to {65535 - PORTS_PER_REGION}"
                )
            region = Region(name, self._text(entry.get("host"), f"{where}.host"), port)
            if name in _KINDS:
                raise self._error(f"{where}.name", f"{name!r} is taken: use another name")
            for other in regions:
                if other.name == name:
                    raise self._error(f"{where}.name", f"{name!r} is there twice")
                if other.host == region.host and abs(other.base_port - port) < PORTS_PER_REGION:
                    raise self._error(
                        f"{where}.base_port",
                        f"overlaps {other.name}: a region takes {PORTS_PER_REGION} ports",
                    )
            regions.append(region)
        return regions

    def _members(self, value: Any, regions: list[str]) -> MemberSpec:
        entry = self._mapping(value, "members")
        self._known(entry, "members", {"home", "silent_after", "held_bytes"})
        home = entry.get("home", regions[0])
        if home not in regions:
            raise self._error("members.home", f"write one of {', '.join(regions)}")
        limits = {}
        for name in ("silent_after", "held_bytes"):
            if name in entry:
                limit = entry[name]
                if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                    unit = "seconds" if name == "silent_after" else "bytes"
                    raise self._error(f"members.{name}", f"write a number of {unit}, at least 1")
                limits[name] = limit
        return MemberSpec(home, **limits)

    def _access(self, value: Any) -> Access:
        try:
            return read_access(value, self._path.parent)
        except AccessError as error:
            raise self._error(error.where, error.remedy) from None

    def _traffic(
        self, text: str, regions: tuple[Region, ...], workloads: tuple[str, ...]
    ) -> Traffic:
        try:
            return read_traffic(text, [region.name for region in regions], workloads)
        except TrafficError as error:
            raise TopologyError(
                f"{self._path}:{error.line}: {error.where}: {error.remedy}"
            ) from None

    def _revoked(self, value: Any, domain: str, regions: set[str]) -> frozenset[str]:
        if not isinstance(value, list):
            raise self._error("revoked", f"write a list such as [spiffe://{domain}/device/cam-1]")
        for index, item in enumerate(value):
            found = _IDENTITY.fullmatch(str(item))
            if found is None or found["domain"] != domain:
                raise self._error(
                    f"revoked[{index}]",
                    f"{item!r}: write spiffe://{domain}/operator/NAME, .../device/ID or "
                    ".../region/REGION/workload/NAME",
                )
            # A slip would shut nobody out. Devices and operators are known to authorities alone.
            if found["region"] and found["region"] not in regions:
                raise self._error(f"revoked[{index}]", f"{found['region']!r} is none of `regions`")
        return frozenset(value)

    def _devices(self, value: Any, regions: set[str]) -> list[DeviceSpec]:
        if not isinstance(value, list):
            raise self._error("devices", "write a list")
        devices: list[DeviceSpec] = []
        for index, item in enumerate(value):
            where = f"devices[{index}]"
            entry = self._mapping(item, where)
            self._known(entry, where, {"id", "region", "capacity"})
            name = self._name(entry.get("id"), f"{where}.id")
            region = self._text(entry.get("region"), f"{where}.region")
            if region not in regions:
                raise self._error(f"{where}.region", f"{region!r} is none of `regions`")
            if any(other.device_id == name for other in devices):
                raise self._error(f"{where}.id", f"{name!r} is there twice")
            capacity = entry.get("capacity", 1)
            if not isinstance(capacity, int) or not 1 <= capacity <= 64:
                raise self._error(f"{where}.capacity", "write a number from 1 to 64")
            devices.append(DeviceSpec(name, region, capacity))
        return devices

    def _names(self, value: Any, where: str, most: int) -> list[str]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self._error(where, f"write a list of 1 to {most} names")
        names = [self._name(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if len(set(names)) != len(names) or EDGE in names:
            raise self._error(where, f"names must differ, and {EDGE!r} is taken")
        return names

    def _address(self, value: Any, where: str) -> Address:
        host, colon, port = str(value).rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise self._error(where, "write host:port")
        return Address(host, int(port))

    def _name(self, value: Any, where: str) -> str:
        text = self._text(value, where)
        if not _NAME.fullmatch(text):
            raise self._error(where, f"{text!r}: use lower-case letters, digits and dashes")
        return text

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value:
            raise self._error(where, "write a string")
        return value

    def _mapping(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(where, "write a mapping of names to values")
        return value

    def _known(self, mapping: dict[str, Any], where: str, names: set[str]) -> None:
        for key in mapping:
            if key not in names:
                raise self._error(where, f"unknown key {key!r}; it has {', '.join(sorted(names))}")

    def _error(self, where: str, remedy: str) -> TopologyError:
        return TopologyError(f"{self._path}: {where}: {remedy}")
