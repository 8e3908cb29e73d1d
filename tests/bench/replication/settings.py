"""What a region's process is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where a region lives: `folder` for its store, `sockets` for those of all regions."""

    region: str
    regions: tuple[str, ...]
    folder: str
    sockets: str

    @property
    def peers(self) -> tuple[str, ...]:
        """The other regions."""
        return tuple(region for region in self.regions if region != self.region)
