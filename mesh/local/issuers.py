"""The certificates that sign in a mesh on this machine, replaced while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from mesh.authority import renew_issuer, roots
from mesh.identity.errors import IdentityError
from mesh.local.layout import Layout
from mesh.topology import Topology

_LOOK_EVERY = 300.0

_log = structlog.get_logger(__name__)


class Issuers:
    """Replaces each issuing certificate at half of its life, and the root in steps near its end."""

    def __init__(self, layout: Layout, now: Callable[[], datetime]) -> None:
        self._layout = layout
        self._now = now

    async def look(self) -> None:
        """Replaces those that are due."""
        state, topology = self._layout.state, self._layout.topology
        try:
            await asyncio.to_thread(_follow, state, topology, self._now())
        except IdentityError as error:
            _log.warning("the root is not replaced", error=str(error))
        for region in topology.region_names:
            try:
                await asyncio.to_thread(renew_issuer, state, topology, region, self._now())
            except IdentityError as error:
                # What there is lasts for months, and `isthmus status` tells in time.
                _log.warning("no new issuing certificate", region=region, error=str(error))

    async def keep(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self.look()


def _follow(state: Path, topology: Topology, now: datetime) -> None:
    if roots.due(state, now):
        roots.begin(state, topology, now)
    roots.advance(state, topology, now)
