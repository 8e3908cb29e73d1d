"""A device that `isthmus up` runs: the agent of a piece of media equipment, without a sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from mesh.authority import keep
from mesh.authority.prepare import FRESH_FOR
from mesh.identity.authority import fingerprints
from mesh.identity.errors import IdentityError
from mesh.identity.folder import read
from mesh.local.child import Child, Command, Death, python
from mesh.local.instance import describe
from mesh.local.layout import Layout, private_folder
from mesh.local.progress import Progress, Stage, Watcher
from mesh.local.record import ProcessRecord
from mesh.place import EDGE
from mesh.topology import DeviceSpec

JOIN_TOKEN = "join-token"  # noqa: S105  a file's name
"""The file in the device's folder with the token that it enrols with, once."""

_TOKEN_EVERY = 10.0


class Device:
    """Keeps one device's agent running."""

    def __init__(
        self, layout: Layout, spec: DeviceSpec, watch: Watcher, changed: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.name = f"device/{spec.device_id}"
        self.folder = layout.device(spec.device_id)
        self._state = layout.state
        self._watch = watch
        self._changed = changed
        self._supplying: asyncio.Task[None] | None = None
        self._child = Child(
            Command(
                self.name,
                python("services.device_agent.main"),
                self.folder / "logs" / "device.log",
                _environment(layout, spec, self.folder),
            ),
            self._died,
            changed,
        )

    @property
    def running(self) -> bool:
        """Whether it is being kept running."""
        return self._child.wanted

    def enrolled(self, now: datetime) -> bool:
        """Whether it holds an identity below the present root, with time left to be renewed."""
        try:
            identity = read(self.folder / "identity")
        except IdentityError:
            return False
        below = keep.root_hash(self._state) in fingerprints(identity.trust_pem)
        return below and identity.not_after - now > FRESH_FOR

    async def start(
        self, new_token: Callable[[str], Awaitable[str]] | None, now: Callable[[], datetime]
    ) -> None:
        """Starts the agent, with a join token as long as it has no identity.

        Without `new_token` its identity comes from elsewhere. Whether it connects is for the
        gateway to say.
        """
        private_folder(self.folder)
        if new_token is not None and not self.enrolled(now()):
            self._leave(await new_token(self.spec.device_id))
        await self._child.start()
        if new_token is not None and self._supplying is None:
            self._supplying = asyncio.create_task(
                self._supply(new_token, now), name=f"tokens of {self.name}"
            )
        self._watch(Progress(self.name, Stage.READY))
        self._changed()

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        await self._end_supply()
        await self._child.stop(grace)
        self._watch(Progress(self.name, Stage.STOPPED))

    async def kill(self) -> None:
        """Ends it as a power cut would; it stays down."""
        await self._end_supply()
        await self._child.kill()
        self._watch(Progress(self.name, Stage.STOPPED, "killed"))
        self._changed()

    async def _supply(
        self, new_token: Callable[[str], Awaitable[str]], now: Callable[[], datetime]
    ) -> None:
        """Leaves another token while the device is not enrolled.

        A token is its first user's alone, and on a slow machine that may be an earlier process.
        """
        while not self.enrolled(now()):
            await asyncio.sleep(_TOKEN_EVERY)
            if not self.enrolled(now()):
                self._leave(await new_token(self.spec.device_id))

    async def _end_supply(self) -> None:
        supplying, self._supplying = self._supplying, None
        if supplying is not None:
            supplying.cancel()
            await asyncio.gather(supplying, return_exceptions=True)

    def _leave(self, token: str) -> None:
        """Puts a join token where the agent looks for it, before each attempt."""
        draft = self.folder / f"{JOIN_TOKEN}.new"
        draft.touch(mode=0o600)
        draft.write_text(token + "\n")
        draft.replace(self.folder / JOIN_TOKEN)

    def crash(self) -> int | None:
        """Kills the agent, as an accident: it is started again. Returns its pid."""
        return self._child.crash()

    def record(self) -> ProcessRecord:
        """The process, for `up.json`."""
        return ProcessRecord(
            self.name,
            "device",
            self.spec.region,
            self._child.pid,
            str(self._child.command.log),
            self._child.deaths,
        )

    def _died(self, death: Death) -> None:
        self._watch(Progress(self.name, Stage.DIED, describe(death)))
        self._changed()


def _environment(layout: Layout, spec: DeviceSpec, folder: Path) -> dict[str, str]:
    topology = layout.topology
    edges = (
        f"{region}={topology.route(spec.region, region, EDGE)}"
        for region in topology.failover_order(spec.region)
    )
    return {
        "ISTHMUS_DEVICE_ID": spec.device_id,
        "ISTHMUS_REGION": spec.region,
        "ISTHMUS_DEVICE_CAPACITY": str(spec.capacity),
        "ISTHMUS_STATE_DIR": str(folder),
        "ISTHMUS_MEDIA_ROOT": str(topology.media_root),
        "ISTHMUS_OUTPUT_DIR": str(layout.origin),
        "ISTHMUS_EDGES": ",".join(edges),
        "ISTHMUS_ENROLMENT": str(topology.enrolment(spec.region)),
        "ISTHMUS_JOIN_TOKEN_FILE": str(folder / JOIN_TOKEN),
    }
