"""All regions, the paths between them, and what must hold at the end."""

from __future__ import annotations

from mesh.replication.core import damage, entities
from mesh.replication.core.clocks import covers, milliseconds
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import (
    ChainBroken,
    FormatUnknown,
    HistoryTruncated,
    LinkFault,
    SignatureInvalid,
    SnapshotDamaged,
    WrongGroup,
    WrongRegion,
)
from mesh.replication.core.members import State
from tests.simulation.clients import Client
from tests.simulation.lagging import Made
from tests.simulation.model import Model, Violation
from tests.simulation.network import Path, Timeline
from tests.simulation.noted import Watch
from tests.simulation.office import Ledger
from tests.simulation.reading import check_reads
from tests.simulation.region import Region

_NEVER = (
    ChainBroken,
    FormatUnknown,
    HistoryTruncated,
    SignatureInvalid,
    SnapshotDamaged,
    WrongGroup,
    WrongRegion,
)
SETTLED_WITHIN_MS = damage.PATIENCE_MS + 30_000
"""What no region has as it was is taken as the others have it, and only then given to all."""
_STEP_MS = 50
_ASK_AGAIN_MS = 2000
_HOME_REFUSES_MS = 20_000


class World:
    """Some regions, a path each way between all of them, and the model that watches."""

    def __init__(self, *names: str) -> None:
        self.timeline = Timeline()
        self.model = Model(names)
        self.made = Made()
        self.watch = Watch(self.model)
        self.ledger = Ledger()
        self.clients: dict[str, Client] = {}
        self.tampered = False
        self.disks_lost = False
        self.snapshots = 0
        """How many were installed."""
        self.forgotten = 0
        """How many tombstones were dropped."""
        self.damaged: set[EntityKey] = set()
        """All that changed by itself somewhere."""
        self.paths = {(a, b): Path(self.timeline, a, b) for a in names for b in names if a != b}
        self.regions: dict[str, Region] = {}
        for name in names:
            self.regions[name] = Region(self, name, [other for other in names if other != name])
        for region in self.regions.values():
            region.start()

    def faulted(self, region: str, peer: str, fault: LinkFault) -> None:
        """A link ended with a typed error; some of them no honest fault explains."""
        if isinstance(fault, _NEVER) and not self.tampered:
            raise Violation(f"{region}, link with {peer}: {type(fault).__name__}: {fault}")

    def may_be_past_the_horizon(self, region: str, source: str) -> bool:
        """Whether a source's journal may have been cut above what a region has.

        One that was out came back by a snapshot, so it has no frames to relay of before that.
        """
        return self.disks_lost or not self.ledger.out.isdisjoint((region, source))

    def heal(self) -> None:
        """All paths carry again."""
        for path in self.paths.values():
            path.delay_ms = 3
            path.tampering = False
            path.lie = ""
            if path.cut:
                path.heal()

    def settle(self) -> None:
        """Ends all faults, waits until the regions are equal, and checks everything."""
        self.heal()
        for region in self.regions.values():
            region.skew_ms += int(self.timeline.now * region.drift)
            region.drift = 0.0
            region.disk_ms = 2
            region.disk_full = False
        self._pass_time()
        for region in self.regions.values():
            region.start()
            # Who lies may be the only one left that has what it lies about.
            for follower in region.followers.values():
                for stream in [each for each in follower.streams if each.lies]:
                    stream.reset()
        self._even_out()
        older = [region for region in self.regions.values() if not region.newest]
        if older:
            # Who is of the same version holds the same; the others take up what they had parked.
            self.model.complete()
            for region in older:
                check_reads(self.model, region)
                region.run_version(newest=True)
            self._even_out()
        self.check()

    def _pass_time(self) -> None:
        """What was written under a clock that was ahead is taken once its time has come.

        Its writer may know nothing of it any more: that region lost its disk since.
        """
        written = [region.journal.clock.last for region in self.regions.values()]
        for region in self.regions.values():
            written += (frame.newest for frame in region.journal.arrivals)
        latest = max(
            milliseconds(max(written)), *(region.wall_ms for region in self.regions.values())
        )
        for region in self.regions.values():
            region.skew_ms += latest - region.wall_ms

    def _even_out(self) -> None:
        end = self.timeline.now + SETTLED_WITHIN_MS
        asked_at = 0
        while not self._even():
            if self.timeline.now >= asked_at:
                asked_at = self.timeline.now + _ASK_AGAIN_MS
                if end - self.timeline.now <= SETTLED_WITHIN_MS - _HOME_REFUSES_MS:
                    self._move_home()
                self._take_all_in()
                if any(region.journal.arrivals.early for region in self.regions.values()):
                    self._pass_time()  # it was under way until now
            if self.timeline.now >= end:
                raise Violation(f"the regions are not equal {SETTLED_WITHIN_MS} ms after the end")
            self.timeline.run(_STEP_MS)

    def _take_all_in(self) -> None:
        """Every region that decides takes in again whoever is out."""
        for region in self.regions.values():
            table = region.journal.members
            for name, member in table.decided.items():
                if table.home == region.name and member.state is not State.JOINED:
                    region.office.decide("rejoin", name)
                    region.office.decide("join", name)

    def _move_home(self) -> None:
        """A home that still refuses lost its disk, and waits for what only one has that is out.

        So an operator moves it by force to one that knows more of it.
        """
        for region in self.regions.values():
            members = region.journal.members
            if all(member.state is State.JOINED for member in members.decided.values()):
                continue
            home = self.regions[members.home].journal
            if home is region.journal or home.members.rank != members.rank:
                continue
            if members.holds(region.name) and not home.whole(region.name):
                region.office.move_home(region.name)
                return

    def _even(self) -> bool:
        regions = list(self.regions.values())
        members = regions[0].journal.members
        if any(each.state is not State.JOINED for each in members.decided.values()):
            return False
        vector = regions[0].journal.vector
        return all(
            region.journal.quiet
            and not region.calls.open
            and region.journal.vector == vector
            and not region.damage.pending
            and not region.journal.residents.doubted
            and not region.journal.integrity.damages.open(from_peers=True)
            for region in regions
        ) and not any(
            # A change whose past went with several disks at once waits for ever, and is in no way.
            covers(vector, frame.dependencies) or not self.disks_lost
            for region in regions
            for frames in region.journal.arrivals.waiting.values()
            for frame in frames
        )

    def check(self) -> None:
        """Once the regions have settled: nothing is missing, and all are equal to the byte."""
        self.model.complete()
        regions = list(self.regions.values())
        bytes_of = [
            {
                entity: entities.encode(state)
                for entity, state in region.journal.committed.items()
                if not state.deleted  # each drops tombstones when it may
            }
            for region in regions
        ]
        for region, other in zip(regions[1:], bytes_of[1:], strict=True):
            if other != bytes_of[0]:
                raise Violation(f"{region.name} and {regions[0].name} hold different bytes")
        highest = self.ledger.highest(self.model.acknowledged)
        for region in regions:
            if highest is not None and region.journal.members.rank < highest:
                raise Violation(f"{region.name} does not know the last decision on members")
            self.model.same_digest(region.name, region.digest())
        check_reads(self.model, regions[0])
        for region in regions:
            region.stays.check(region)
            region.stays.check_disk(region)
