"""What `isthmus up` does before anything runs: roots, issuing certificates, first tokens.

<state>/root/                       the root's certificate and key: read here, by nothing else
<state>/<region>/authority/data/    the region's issuing certificate, its key and the tokens
<state>/<region>/authority/identity the authority's own identity
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mesh.topology import Topology


@dataclass(frozen=True)
class Prepared:
    """A region that is ready to start: a join token for each workload but the authority, and for
    the edge, by name. Those that hold an identity with more than `fresh_for` left need none and
    are not in it."""

    region: str
    tokens: Mapping[str, str]
    root_hash: str


def prepare(state: Path, topology: Topology, region: str, now: datetime) -> Prepared:
    """Makes what is missing of a region's authority, and tokens for what has no identity.

    `state` is `.isthmus/`. May be repeated; also while the region runs.
    """
    raise NotImplementedError


def device_token(
    state: Path, topology: Topology, region: str, device_id: str, now: datetime
) -> str:
    """A join token for a device, valid in `region`; the region must have been prepared."""
    raise NotImplementedError


def issue_operator(
    state: Path, topology: Topology, name: str, now: datetime, folder: Path | None = None
) -> Path:
    """Writes an operator's identity, signed by the first prepared region, into an identity folder.

    The folder is `<state>/operator` unless given; it is returned. Call again to renew.
    """
    raise NotImplementedError
