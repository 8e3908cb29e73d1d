"""What a region's process is told."""

from __future__ import annotations

from dataclasses import dataclass

TRUST_DOMAIN = "faults"
WORKLOAD = "things"


@dataclass(frozen=True)
class Settings:
    """Where a region lives and how its peers are reached.

    `folder` holds its store, `identity` its certificate and the roots, `socket` is where clients
    call it. `listens` has, for each peer, the address at which that peer calls, which is how the
    peer is known; `dials` has, for each peer, the address at which that is called. `bug` names a
    seeded bug, or none.
    """

    region: str
    folder: str
    identity: str
    socket: str
    listens: dict[str, str]
    dials: dict[str, str]
    bug: str = ""
