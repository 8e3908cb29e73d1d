"""What a route points at: one workload, at one locality. Each target is a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.contracts.model import Locality


@dataclass(frozen=True, order=True)
class Target:
    """`region` is set for PINNED alone, `version` for another version in the caller's region."""

    workload: str
    locality: str
    region: str = ""
    version: str = ""

    @property
    def cluster(self) -> str:
        """The cluster's name: `channels/nearest`, `channels/pinned/us`, `overview@next/local`."""
        version = f"@{self.version}" if self.version else ""
        name = f"{self.workload}{version}/{self.locality}"
        return f"{name}/{self.region}" if self.region else name


def target(workload: str, locality: Locality, region: str = "") -> Target:
    """The target of a method of `workload` with this locality."""
    return Target(workload, locality.value, region if locality is Locality.PINNED else "")
