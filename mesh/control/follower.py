"""What one region does with what was decided: it tries what is on trial, and keeps what is good.

A trial ends by itself where its end could not be heard: in a control plane that was restarted, and
in one that has lost the region that decides.
"""

from __future__ import annotations

import asyncio
import zlib

import structlog
from isthmus.mesh.v1 import rollout_pb2 as pb

from mesh.control.source import Source
from mesh.control.store import Standing, Store, StoreDamaged
from mesh.replication import Group, WatcherTooSlow
from mesh.xds.fleet import Fleet, Instance, Revision
from mesh.xds.resources import Library

MESH = "mesh"
"""The key of the one `Rollout`."""

HOME_LOST_AFTER = 10.0
"""Seconds without the deciding region, after which a trial is over here."""

_log = structlog.get_logger("isthmus.control")


class Follower:
    """Keeps one region's fleet at what the group says."""

    def __init__(
        self,
        group: Group,
        fleet: Fleet,
        library: Library,
        store: Store,
        standing: Standing,
    ) -> None:
        self.refused = ("", "")
        """A deploy that this region takes no part in (any more), and why."""
        self._group = group
        self._fleet = fleet
        self._library = library
        self._store = store
        self._standing = standing
        self._fresh = True
        self._turn = asyncio.Lock()

    @property
    def installed(self) -> str:
        """What `isthmus up` installed here."""
        return self._standing.installed

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            try:
                async for _ in self._group.watch([pb.Rollout, pb.DeployedRevision]):
                    await self.obey()
            except WatcherTooSlow:
                continue

    async def watch_home(self) -> None:
        """Ends a trial whose deciding region is not heard any more; until it is cancelled."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            await asyncio.sleep(1.0)
            rollout = self._group.get(pb.Rollout, MESH)
            if (
                rollout is None
                or not rollout.state.trial
                or rollout.home == self._group.region
                or self._group.reach()[rollout.home].reachable
            ):
                heard = loop.time()
            elif loop.time() - heard > HOME_LOST_AFTER:
                self._refuse(rollout.state, f"{self._group.region} has lost {rollout.home}")
                await self.obey()

    def _refuse(self, state: pb.RolloutState, why: str) -> None:
        if self.refused[0] != state.deploy_id:
            self.refused = (state.deploy_id, why)
            _log.warning("deploy refused", deploy=state.deploy_id, reason=why)

    async def obey(self) -> None:
        """Serves what the group says now."""
        async with self._turn:
            rollout = self._group.get(pb.Rollout, MESH)
            if rollout is None:
                return
            state = rollout.state
            if self._fresh and state.trial:
                region = self._group.region
                self._refuse(state, f"the control plane of {region} was restarted during the trial")
            self._fresh = False
            if state.installed != self._standing.installed:
                state = pb.RolloutState()  # decided upon another installation than this region's
            if state.good and state.good != self._fleet.good.name:
                await self._adopt(state.good)
            await self._try(state)

    async def _adopt(self, name: str) -> None:
        revision = self._fleet.wanted if self._fleet.wanted.name == name else None
        revision = revision or await self._revision(name)
        if revision is None:
            return
        self._standing = Standing(self._standing.installed, name)
        await asyncio.to_thread(self._store.stand, self._standing)
        self._fleet.offer(revision)
        self._fleet.confirm()
        _log.info("revision confirmed", revision=name)

    async def _try(self, state: pb.RolloutState) -> None:
        region = self._group.region
        stage = {Instance(s.region, s.workload) for s in state.stage if s.region == region}
        revision = None
        if state.trial and stage and state.deploy_id != self.refused[0]:
            revision = await self._revision(state.trial)
            if revision is None:
                self._refuse(state, f"{region} has nothing to serve for it")
        if revision is not None:
            _log.info("revision on trial", revision=state.trial, sidecars=len(stage))
            self._fleet.offer(revision, stage)
        elif self._fleet.wanted is not self._fleet.good:
            _log.info("revision withdrawn", revision=self._fleet.wanted.name)
            self._fleet.withdraw()

    async def _revision(self, name: str) -> Revision | None:
        """What this region's sidecars get under a revision; None if nobody here knows."""
        if self._fleet.wanted.name == name:
            return self._fleet.wanted
        found = self._group.get(pb.DeployedRevision, name)
        try:
            if found is not None and self._group.region in found.compiled:
                compiled = zlib.decompress(found.compiled[self._group.region])
                source = Source(zlib.decompress(found.contract), found.topology)
                await asyncio.to_thread(self._store.save, source, compiled)
            return self._store.compiled(name, self._library)
        except (StoreDamaged, zlib.error) as error:
            _log.error("revision cannot be read", revision=name, error=str(error))
            return None
