"""Who calls regions: sessions with tokens, and writers who wait until more regions have a write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mesh.contracts.model import Durability
from mesh.replication.core import tokens
from mesh.replication.core.clocks import Origin, covers
from tests.simulation.model import Violation

if TYPE_CHECKING:
    from tests.simulation.region import Region

_GROUP = "simulated"


class Client:
    """One session, carried from region to region: its token, and the writes that it has seen.

    From those come all four session guarantees: who is answered sees its own writes and all that
    it has read, and what it writes follows them, since a region shows no write without its past.
    """

    def __init__(self) -> None:
        self._token = b""
        self._seen = 0

    def may_use(self, region: Region) -> bool:
        """Whether a region is as far as the session; else it says NOT_YET_HERE."""
        asked = tokens.decode(self._token).get(_GROUP, {})
        satisfied = covers(region.journal.vector, asked)
        missing = self._seen & ~region.world.model.held[region.name].writes
        if satisfied and missing:
            raise Violation(f"{region.name} answers a session from less than that has seen")
        if not satisfied and not missing:
            raise Violation(f"{region.name} has all that a session saw, and does not answer it")
        return satisfied

    def answered(self, region: Region) -> None:
        """A region answered, with a token."""
        journal = region.journal
        here = tokens.reduced(journal.vector, journal.implied)
        self._token = tokens.encode(tokens.merged(tokens.decode(self._token), {_GROUP: here}))
        self._seen |= region.world.model.held[region.name].writes


class Call(NamedTuple):
    """Who makes a write, if it is of a session, and where it is to be when that is answered."""

    session: Client | None = None
    durability: Durability = Durability.REGION


class _Stored(NamedTuple):
    bit: int
    position: Mapping[Origin, int]
    needed: int
    losses: int


class Calls:
    """The calls that one life of a region has not answered."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._made: dict[int, Call] = {}
        self._stored: list[_Stored] = []

    @property
    def open(self) -> bool:
        """Whether a write is stored here, and waits for other regions."""
        return bool(self._stored)

    def made(self, bit: int, call: Call) -> None:
        """A write is under way."""
        self._made[bit] = call

    def stored(self, bit: int, position: Mapping[Origin, int]) -> None:
        """A write is stored and visible here."""
        call = self._made.pop(bit, Call())
        if call.session is not None:
            call.session.answered(self._region)
        needed = call.durability.of(self._region.office.membership.durable.regions)
        if needed > 1:
            losses = self._region.world.model.losses
            self._stored.append(_Stored(bit, position, needed, losses))
            self.look()

    def look(self) -> None:
        """A peer said what it has on disk: answers what enough regions have."""
        durable = self._region.office.membership.durable
        for each in tuple(self._stored):
            if len(durable.holders(each.position)) >= each.needed:
                self._stored.remove(each)
                self._answer(each)

    def _answer(self, stored: _Stored) -> None:
        world = self._region.world
        lost = world.model.losses - stored.losses
        on_disk = sum(covers(r.disk.vector(), stored.position) for r in world.regions.values())
        if on_disk + lost < stored.needed:
            raise Violation(
                f"{self._region.name} says that {stored.needed} regions have a write on disk: "
                f"{on_disk} have"
            )
        world.model.endures(stored.bit, stored.needed - lost)
