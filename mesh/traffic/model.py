"""The operators' settings, typed. A `line` is of `mesh.yaml`; it does not count when compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mesh.place import instance_name


@dataclass(frozen=True)
class Bounds:
    """What one sidecar may do to a workload that it calls, in one cluster.

    Circuit breakers: `connections`, calls that wait for one (`pending`), calls in flight
    (`requests`; streams that are held count). The retry budget: retries in flight are at most
    `retry_percent` of the calls in flight, and `retries` in any case. Outlier detection: a region
    that fails `failures` times in a row is not asked for `ejected_for` seconds, longer each time.
    """

    connections: int = 1024
    pending: int = 8192
    requests: int = 65536
    retry_percent: float = 50.0
    retries: int = 64
    failures: int = 3
    ejected_for: float = 3.0


@dataclass(frozen=True)
class Version:
    """Another version of a workload in one region, beside the one that is there.

    `weight` percent of the calls to the workload that stay within the region go to it. `command` is
    what `isthmus up` runs for it; empty: what it runs for the workload.
    """

    workload: str
    name: str
    region: str
    host: str
    port: int
    weight: int
    command: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def instance(self) -> str:
        """What it is called within its region."""
        return instance_name(self.workload, self.name)

    def __str__(self) -> str:
        return (
            f"version {self.name} of {self.workload} in {self.region}: "
            f"{self.weight} % of the calls within the region"
        )


@dataclass(frozen=True)
class Mirror:
    """`percent` of a method's calls are sent to another instance too, whose answers are dropped.

    That is a `version` in the caller's region, or the workload in another `region`.
    `effects` allows a method that may not be repeated: each of its calls then has effects in both.
    """

    method: str
    percent: float
    version: str = ""
    region: str = ""
    effects: bool = False
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        to = f"version {self.version}" if self.version else self.region
        return f"mirror: {self.percent:g} % of the calls of {self.method} to {to} too"


@dataclass(frozen=True)
class Drill:
    """Faults on purpose, until a moment: each sidecar ends them then, whoever it can reach.

    `methods` are some of the workload's, or all if empty. With `callers` (workloads, or `edge`) the
    fault is in their sidecars, before their retries; without, in the workload's own sidecars in
    `regions` (all if empty), where retries and failover meet it. `delay` is in seconds; `abort` is
    a gRPC status.
    """

    name: str
    workload: str
    until: datetime
    percent: float
    delay: float = 0.0
    abort: str = ""
    methods: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def length(self) -> timedelta:
        """How much later a call comes."""
        return timedelta(seconds=self.delay)

    def __str__(self) -> str:
        what = [f"{self.delay:g} s later"] if self.delay else []
        what += [f"fail with {self.abort}"] if self.abort else []
        whose = ", ".join(self.methods) or f"{self.workload}, all methods"
        where = f" in {', '.join(self.regions)}" if self.regions else ""
        by = f" by {', '.join(self.callers)}" if self.callers else ""
        calls = f"{self.percent:g} % of the calls of {whose}{where}{by}"
        return f"DRILL {self.name}: {calls} {' and '.join(what)}, until {self.until.isoformat()}"


_DEFAULT = Bounds()


@dataclass(frozen=True)
class Traffic:
    """All of it; empty by default."""

    bounds: tuple[tuple[str, Bounds], ...] = ()
    versions: tuple[Version, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    drills: tuple[Drill, ...] = ()

    def bounds_of(self, workload: str) -> Bounds:
        """What holds for those who call a workload."""
        return dict(self.bounds).get(workload, _DEFAULT)

    def versions_of(self, workload: str, region: str) -> tuple[Version, ...]:
        """Its other versions there."""
        return tuple(v for v in self.versions if (v.workload, v.region) == (workload, region))

    def version(self, workload: str, region: str, name: str) -> Version | None:
        """The version of that name there."""
        found = (v for v in self.versions_of(workload, region) if v.name == name)
        return next(found, None)
