"""One sidecar's life, from key to drain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from mesh.contracts.model import Contract
from mesh.place import Place
from mesh.topology import Topology


def utc_now() -> datetime:
    """The host's time, in UTC."""
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


class State(Enum):
    """Where a sidecar is in its life."""

    NEW = "new"
    ENROLLING = "enrolling"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """How a sidecar stands; `problem` is one sentence, or empty."""

    region: str
    workload: str
    state: State
    spiffe_id: str = ""
    not_after: datetime | None = None
    rotations: int = 0
    problem: str = ""


class Sidecar:
    """The Envoy beside one workload (`place.workload`), or a region's edge.

    `on_change` is called in the event loop with each new `Status`: becoming ready, rotating,
    failing to renew (it goes on trying), dying.
    """

    def __init__(
        self,
        contract: Contract,
        topology: Topology,
        place: Place,
        *,
        on_change: Callable[[Status], None] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """How it stands now."""
        raise NotImplementedError

    async def start(self, join_token: str | None = None, *, ready_within: float = 20.0) -> None:
        """Enrols if the identity folder holds no identity that is still valid, then runs Envoy.

        Returns once Envoy is ready. `join_token` may be None for the authority's own sidecar
        (`mesh.authority.prepare` wrote its identity) and wherever a valid identity is at hand.
        Raises `EnrolmentRefused`, `ConfigurationRefused`, `PortTaken` or `SidecarNotReady`;
        nothing is left running then. Enrolment waits for an authority that is not up yet.
        """
        raise NotImplementedError

    async def wait(self) -> None:
        """Returns when the sidecar was stopped; raises `SidecarDied` if Envoy ended by itself."""
        raise NotImplementedError

    async def drain(self, settle: float = 1.0) -> None:
        """Fails health checks and ends listeners gracefully, then waits `settle` seconds."""
        raise NotImplementedError

    async def stop(self, *, drain: bool = True) -> None:
        """Drains, then ends Envoy and the rotation. May be called twice, and in any state."""
        raise NotImplementedError

    async def kill(self) -> None:
        """Ends Envoy as a power cut would: for faults on purpose."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Stops with drain and starts again with the identity at hand."""
        raise NotImplementedError
