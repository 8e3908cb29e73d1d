"""The operator's certificate of a mesh on this machine, kept fresh by the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from mesh.authority import issue_operator
from mesh.identity.enrolment import AUTHORITY
from mesh.identity.errors import IdentityError
from mesh.identity.folder import read
from mesh.local.layout import Layout

NAME = "local"
"""The operator's name: `spiffe://<trust domain>/operator/local`."""

_LOOK_EVERY = 30.0


class OperatorIdentity:
    """Issues `<state>/operator` and renews it at half-life, if the mesh has an authority."""

    def __init__(self, layout: Layout, now: Callable[[], datetime]) -> None:
        self._layout = layout
        self._now = now

    async def issue(self) -> None:
        """Makes a fresh certificate."""
        if AUTHORITY not in self._layout.topology.workloads:
            return
        await asyncio.to_thread(
            issue_operator, self._layout.state, self._layout.topology, NAME, self._now()
        )

    async def keep(self) -> None:
        """Renews for ever. Looks at the clock often, as a laptop that slept does not tell."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                due = read(self._layout.operator).half_life <= self._now()
            except IdentityError:
                due = True
            if due:
                await self.issue()
