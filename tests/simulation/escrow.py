"""Bounded counters in a simulated region: never below their bound, and rights are handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mesh.replication import RightsShort, Transaction, WriteContext
from mesh.replication.core import cells
from mesh.replication.core.entities import EntityKey, EntityState
from mesh.replication.rights import Rights
from tests.simulation.model import Violation
from tests.support.merging import THING

if TYPE_CHECKING:
    from tests.simulation.region import Region


class Escrow:
    """What a group does for its bounded counters, in one life of a region."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._rights = Rights(region.journal, region.schema, self._submit)
        self._check(region.journal.committed)

    def stored(self, after: Mapping[EntityKey, EntityState]) -> None:
        """These states became visible."""
        self._check(after)
        self._rights.look(after)
        self.hand_over()

    def hand_over(self) -> None:
        """Gives what others asked for."""
        self._rights.hand_over()

    def ask(self, short: RightsShort) -> None:
        """Asks for what a write was short of."""
        if short.here >= short.asked:
            raise Violation(f"{short.here} are here, and {short.asked} were refused")
        self._rights.ask(short, self._region.linked, WriteContext(actor=""))

    def _submit(self, change: Callable[[Transaction], None], context: WriteContext) -> None:
        model = self._region.world.model
        self._region.write(model.plan(self._region.seen), change, {})

    def _check(self, states: Mapping[EntityKey, EntityState]) -> None:
        for (type, key), state in states.items():
            if type != THING:
                continue
            for (_, rule), rows in state.cells.items():
                if rule == cells.BOUNDED_COUNTER and cells.escrow.total(rows) < 0:
                    raise Violation(f"{self._region.name} shows {key} below its bound")
