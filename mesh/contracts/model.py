"""The typed contract: what the options say, without descriptors.

Everything downstream (sidecars, runtime, replication, docs) reads these and never an option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property


@dataclass(frozen=True)
class Location:
    """A place in a proto file; `line` counts from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Role(Enum):
    """What an end principal is, by its certificate."""

    OPERATOR = "operator"
    DEVICE = "device"
    UNENROLLED = "unenrolled"


class Locality(Enum):
    """Which region's instance serves a call."""

    NEAREST = "nearest"
    LOCAL = "local"
    PINNED = "pinned"
    HOME = "home"


class Consistency(Enum):
    """What a reader is promised."""

    EVENTUAL = "eventual"
    SESSION = "session"


ERROR_DOMAIN = "isthmus.dev"
"""The domain of the `google.rpc.ErrorInfo` in each typed error."""


class Durability(Enum):
    """Where a write is on disk before it is acknowledged."""

    REGION = "region"
    ONE_PEER = "one peer"
    MAJORITY = "majority"

    def of(self, regions: int) -> int:
        """In how many of a group's regions that is."""
        match self:
            case Durability.REGION:
                return 1
            case Durability.ONE_PEER:
                return 2
            case Durability.MAJORITY:
                return regions // 2 + 1


class Idempotency(Enum):
    """The standard `idempotency_level`."""

    UNKNOWN = "unknown"
    NO_SIDE_EFFECTS = "no side effects"
    IDEMPOTENT = "idempotent"


class Merge(Enum):
    """Merge rules; the values are those of isthmus.options.v1.Merge and of the frame format."""

    LATEST = 1
    FIRST = 2
    MAX = 3
    MIN = 4
    COUNTER = 5
    BOUNDED_COUNTER = 6
    SET = 7
    MAP = 8
    MESSAGE = 9
    KEEP_BOTH = 10


@dataclass(frozen=True)
class Callers:
    """Who may call a method; empty is nobody."""

    workloads: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    peers: bool = False
    any_workload: bool = False


@dataclass(frozen=True)
class Retry:
    """How a failed call is repeated: attempts in all, seconds for each."""

    attempts: int
    per_try: float


@dataclass(frozen=True)
class RateLimit:
    """How many calls a second each serving instance takes, and how many at once: a token bucket."""

    per_second: int
    burst: int


@dataclass(frozen=True)
class Binding:
    """How a method is called as JSON over plain HTTP (`google.api.http`).

    `path` is a template such as ``/v1/channels/{channel_id}``. `body` is the field of the request
    that the body holds; ``*`` for all that the path does not set, empty for none.
    """

    verb: str
    path: str
    body: str = ""


@dataclass(frozen=True)
class Method:
    """One method; durations in seconds.

    Under locality HOME `entity` is the message type whose home serves it, and `key` the field of
    the request that names one. `lines` are those of the options that are set.
    """

    service: str
    name: str
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool
    callers: Callers
    idempotency: Idempotency
    locality: Locality
    consistency: Consistency
    durability: Durability
    timeout: float | None
    stream_max_age: float | None
    retry: Retry | None
    rate_limit: RateLimit | None
    location: Location
    entity: str = ""
    key: str = ""
    http: tuple[Binding, ...] = ()
    lines: tuple[tuple[str, int], ...] = field(default=(), compare=False, repr=False)

    def at(self, option: str) -> Location:
        """The line of an option, called as in options.proto; the method's, if it is not set."""
        line = dict(self.lines).get(option)
        return self.location if line is None else Location(self.location.file, line)

    @property
    def path(self) -> str:
        """The HTTP/2 path: ``/package.Service/Method``."""
        return f"/{self.service}/{self.name}"

    @property
    def streaming(self) -> bool:
        """Whether either side streams."""
        return self.client_streaming or self.server_streaming


EVERY_WORKLOAD = "*"


@dataclass(frozen=True)
class Service:
    """One service and the workload that serves it (`*`: every workload)."""

    name: str
    workload: str
    group: str | None
    owner: str
    runbook: str
    methods: tuple[Method, ...]
    location: Location


@dataclass(frozen=True)
class Field:
    """A replicated field.

    `path` holds the field numbers from the entity down; `order_by` the paths, inside the field's
    message, of the fields that order a MAX or MIN; `at_least` is what a BOUNDED_COUNTER never falls
    below. `fields` is filled for MESSAGE only. `type` is
    the full name of its message or enum, or a scalar's keyword such as `int64`. What is `resident`
    never leaves the home region.
    """

    name: str
    number: int
    path: tuple[int, ...]
    merge: Merge
    order_by: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    at_least: int | None = None
    type: str = ""
    repeated: bool = False
    resident: bool = False


@dataclass(frozen=True)
class Entity:
    """A replicated message; `home` is the field that names its home region, if one writes it."""

    name: str
    group: str
    key: str
    key_number: int
    history: bool
    fields: tuple[Field, ...]
    location: Location
    home: str = ""


@dataclass(frozen=True)
class Contract:
    """All services and entities of one descriptor set; `digest` is SHA-256 over what they say.

    `transcoding` is a serialized `FileDescriptorSet` of what is called as JSON; empty for nothing.
    """

    services: Mapping[str, Service]
    entities: Mapping[str, Entity]
    digest: bytes = b""
    group_digests: Mapping[str, bytes] = field(default_factory=dict)
    transcoding: bytes = b""

    def methods(self) -> Iterator[Method]:
        """Every method, by service and in the order of the proto."""
        for service in self.services.values():
            yield from service.methods

    def workloads(self) -> tuple[str, ...]:
        """The names of all workloads that serve something, sorted."""
        names = {service.workload for service in self.services.values()}
        return tuple(sorted(names - {EVERY_WORKLOAD}))

    def group_of(self, workload: str) -> str | None:
        """The replication group that a workload owns."""
        for service in self._of.get(workload, ()):
            if service.group:
                return service.group
        return None

    def served_by(self, workload: str) -> tuple[Service, ...]:
        """The services of a workload, those that every workload serves included.

        `LinkService` and `FeedService` are served by owners of a group alone.
        """
        owns_group = self.group_of(workload) is not None
        everybodys = [
            service
            for service in self._of.get(EVERY_WORKLOAD, ())
            if owns_group or not service.name.startswith("isthmus.replication.")
        ]
        found = [*self._of.get(workload, ()), *everybodys]
        return tuple(sorted(found, key=lambda service: self._order[service.name]))

    @cached_property
    def _of(self) -> Mapping[str, list[Service]]:
        """Services by their workload, in the contract's order."""
        found: dict[str, list[Service]] = {}
        for service in self.services.values():
            found.setdefault(service.workload, []).append(service)
        return found

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {service.name: at for at, service in enumerate(self.services.values())}

    def group_entities(self, group: str) -> tuple[Entity, ...]:
        """The entities that a group holds, by name."""
        return tuple(e for _, e in sorted(self.entities.items()) if e.group == group)
