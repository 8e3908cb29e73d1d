"""What a route points at: one workload, at one locality. Each target is a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.contracts.model import Locality


@dataclass(frozen=True, order=True)
class Target:
    """`region` is set for PINNED alone."""

    workload: str
    locality: str
    region: str = ""

    @property
    def cluster(self) -> str:
        """The cluster's name, such as `channels/nearest` or `channels/pinned/us`."""
        name = f"{self.workload}/{self.locality}"
        return f"{name}/{self.region}" if self.region else name


def target(workload: str, locality: Locality, region: str = "") -> Target:
    """The target of a method of `workload` with this locality."""
    return Target(workload, locality.value, region if locality is Locality.PINNED else "")
